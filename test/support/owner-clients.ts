import { randomUUID } from 'node:crypto';
import type { Client } from '@connectrpc/connect';
import { importJWK, SignJWT, UnsecuredJWT } from 'jose';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { makeKeyPair, readSigningKey, SIGNATURE_ALGORITHM, type SigningKey } from '#libs/auth/keys.ts';
import { ownerAudience } from '#libs/auth/sign-token.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';

/** A client of one retention owner. */
export type OwnerClient = Client<typeof RetentionOwnerService>;

/** What a token for a retention owner says; what is undefined is left out. */
export interface OwnerToken {
  /** `own` is the owner's own. */
  readonly audience: 'own' | string;
  readonly role: string;
  readonly scope: string;
  readonly actor: string;
  readonly actingService: string;
  readonly tenantId?: string | undefined;
  readonly subject?: string | undefined;
  readonly operationId?: string | undefined;
  readonly lifetimeSeconds: number;
  /** How long before now it was issued. */
  readonly issuedSecondsAgo: number;
  readonly signature: 'good' | 'none' | 'of another key';
}

/** A token as RetentionService makes it at night. */
export const NIGHT_TOKEN: OwnerToken = {
  audience: 'own',
  role: 'service',
  scope: 'owner:purge',
  actor: 'system:retention',
  actingService: 'service:retention',
  lifetimeSeconds: 60,
  issuedSecondsAgo: 0,
  signature: 'good',
};

/** Signs such a token with the key whose public half the owner knows. */
export async function signOwnerToken(
  key: SigningKey,
  owner: string,
  token: OwnerToken,
  issuer = 'lethe',
): Promise<string> {
  const { audience, role, scope, actor, actingService, tenantId, subject, operationId } = token;
  const issuedAt = Math.floor(Date.now() / 1_000) - token.issuedSecondsAgo;
  const claims = {
    role,
    scope,
    act: { sub: actingService },
    jti: randomUUID(),
    ...(tenantId === undefined ? {} : { tenant: tenantId }),
    ...(subject === undefined ? {} : { subject_name: subject }),
    ...(operationId === undefined ? {} : { operation_id: operationId }),
  };
  const filled = <T extends SignJWT | UnsecuredJWT>(jwt: T): T =>
    jwt
      .setIssuer(issuer)
      .setAudience(audience === 'own' ? ownerAudience(owner) : audience)
      .setSubject(actor)
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + token.lifetimeSeconds) as T;
  if (token.signature === 'none') return filled(new UnsecuredJWT(claims)).encode();
  const signing = token.signature === 'good' ? key : await otherKey(key.kid);
  return filled(new SignJWT(claims))
    .setProtectedHeader({ alg: SIGNATURE_ALGORITHM, kid: signing.kid, typ: 'JWT' })
    .sign(signing.key);
}

async function otherKey(kid: string): Promise<SigningKey> {
  const { privateJwk } = await makeKeyPair();
  return { kid, key: await importJWK(privateJwk, SIGNATURE_ALGORITHM) };
}

/** Reaches one owner with whatever token. */
export interface OwnerAccess {
  client(token: OwnerToken): OwnerClient;
  close(): void;
}

/** Opens a connection to an owner; the key file's public half must be known to it. */
export async function openOwner(options: {
  readonly address: string;
  readonly name: string;
  readonly keyFile: string;
  readonly issuer?: string;
}): Promise<OwnerAccess> {
  const key = await readSigningKey(options.keyFile);
  const connection: Connection = connect({ address: options.address, token: async () => 'no token' });
  return {
    client: (token) =>
      connection.client(RetentionOwnerService, () => signOwnerToken(key, options.name, token, options.issuer)),
    close: () => connection.close(),
  };
}
