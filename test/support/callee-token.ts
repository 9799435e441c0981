import { randomUUID } from 'node:crypto';
import { importJWK, SignJWT, UnsecuredJWT } from 'jose';
import { makeKeyPair, SIGNATURE_ALGORITHM, type SigningKey } from '#libs/auth/keys.ts';

/** What a token for one callee says; what is undefined is left out. */
export interface CalleeToken {
  /** `own` is the callee's own. */
  readonly audience: 'own' | string;
  /** Absent: `lethe`. */
  readonly issuer?: string | undefined;
  readonly role: string;
  readonly scope: string;
  readonly actor: string;
  readonly actingService?: string | undefined;
  readonly tenantId?: string | undefined;
  /** A retention owner's subject. */
  readonly subject?: string | undefined;
  readonly runId?: string | undefined;
  readonly operationId?: string | undefined;
  readonly step?: string | undefined;
  readonly lifetimeSeconds: number;
  /** How long before now it was issued. */
  readonly issuedSecondsAgo: number;
  readonly signature: 'good' | 'none' | 'of another key';
}

/** Signs such a token. */
export async function signCalleeToken(key: SigningKey, ownAudience: string, token: CalleeToken): Promise<string> {
  const { audience, issuer = 'lethe', role, scope, actor, actingService, tenantId, subject, step } = token;
  const issuedAt = Math.floor(Date.now() / 1_000) - token.issuedSecondsAgo;
  const claims = {
    role,
    scope,
    jti: randomUUID(),
    ...(actingService === undefined ? {} : { act: { sub: actingService } }),
    ...(tenantId === undefined ? {} : { tenant: tenantId }),
    ...(subject === undefined ? {} : { subject_name: subject }),
    ...(token.runId === undefined ? {} : { run_id: token.runId }),
    ...(token.operationId === undefined ? {} : { operation_id: token.operationId }),
    ...(step === undefined ? {} : { step }),
  };
  const filled = <T extends SignJWT | UnsecuredJWT>(jwt: T): T =>
    jwt
      .setIssuer(issuer)
      .setAudience(audience === 'own' ? ownAudience : audience)
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
