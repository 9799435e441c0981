import type { Client } from '@connectrpc/connect';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { readSigningKey, type SigningKey } from '#libs/auth/keys.ts';
import { calleeAudience } from '#libs/auth/sign-token.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { type CalleeToken, signCalleeToken } from './callee-token.ts';

/** A client of one retention owner. */
export type OwnerClient = Client<typeof RetentionOwnerService>;

/** What a token for a retention owner says. */
export type OwnerToken = CalleeToken;

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
export const signOwnerToken = (key: SigningKey, owner: string, token: OwnerToken, issuer?: string): Promise<string> =>
  signCalleeToken(key, calleeAudience('owner', owner), { ...token, issuer: token.issuer ?? issuer });

/** Reaches one owner with whatever token. */
export interface OwnerAccess {
  client(token: OwnerToken): OwnerClient;
  close(): void;
}

/**
 * Opens a connection to an owner; the key file's public half must be known to it. No call is made again by itself: one that
 * an owner died of would be done by the next.
 */
export async function openOwner(options: {
  readonly address: string;
  readonly name: string;
  readonly keyFile: string;
  readonly issuer?: string;
}): Promise<OwnerAccess> {
  const key = await readSigningKey(options.keyFile);
  const token = async () => 'no token';
  const connection: Connection = connect({ address: options.address, token, retries: false });
  return {
    client: (token) =>
      connection.client(RetentionOwnerService, () => signOwnerToken(key, options.name, token, options.issuer)),
    close: () => connection.close(),
  };
}
