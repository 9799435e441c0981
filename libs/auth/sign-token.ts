import { SignJWT } from 'jose';
import type { Role } from '#libs/kernel/caller.ts';
import { SIGNATURE_ALGORITHM, type SigningKey } from './keys.ts';

/** What a token says. */
export interface TokenClaims {
  readonly subject: string;
  readonly role: Role;
  readonly scopes: readonly string[];
  readonly tenantId?: string | undefined;
  /** The one at the origin of the call, where the subject acts for somebody. */
  readonly actor?: string | undefined;
}

/** Who signs, and for whom. */
export interface TokenIssuer {
  readonly key: SigningKey;
  readonly issuer: string;
  readonly audience: string;
}

/** Signs a token that is good for `ttlSeconds` from now. */
export function signToken(by: TokenIssuer, claims: TokenClaims, ttlSeconds: number): Promise<string> {
  const { subject, role, scopes, tenantId, actor } = claims;
  return new SignJWT({
    role,
    scope: scopes.join(' '),
    ...(tenantId === undefined ? {} : { tenant: tenantId }),
    ...(actor === undefined ? {} : { act: { sub: actor } }),
  })
    .setProtectedHeader({ alg: SIGNATURE_ALGORITHM, kid: by.key.kid, typ: 'JWT' })
    .setSubject(subject)
    .setIssuer(by.issuer)
    .setAudience(by.audience)
    .setIssuedAt()
    .setExpirationTime(`${ttlSeconds}s`)
    .sign(by.key.key);
}

/** For whom a service calls another. */
export interface ActingFor {
  readonly tenantId?: string | undefined;
  /** The person, service or platform account at the origin; it goes into the audit of the called service. */
  readonly actor: string;
}

/** Gives the token with which a service calls another, acting for somebody. */
export type ServiceCredential = (acting: ActingFor) => Promise<string>;

const SERVICE_TOKEN_SECONDS = 60;
const REUSE_MS = 30_000;
const MAX_KEPT = 10_000;

/**
 * Makes the credential of one service: tokens of 60 seconds with role `service`, subject `service:<name>` and these
 * scopes. A token is used again for 30 seconds, since signing costs more than a small call.
 */
export function makeServiceCredential(by: TokenIssuer, service: string, scopes: readonly string[]): ServiceCredential {
  const kept = new Map<string, { token: Promise<string>; until: number }>();
  return ({ tenantId, actor }) => {
    const key = JSON.stringify([tenantId, actor]);
    const now = performance.now();
    const known = kept.get(key);
    if (known && known.until > now) return known.token;
    if (kept.size >= MAX_KEPT) kept.clear();
    const token = signToken(
      by,
      { subject: `service:${service}`, role: 'service', scopes, tenantId, actor },
      SERVICE_TOKEN_SECONDS,
    );
    kept.set(key, { token, until: now + REUSE_MS });
    token.catch(() => kept.delete(key));
    return token;
  };
}

/** Which call to an owner of retention data a token is for. */
export interface OwnerTokenCall {
  /** The owner's name in RetentionService's configuration. */
  readonly owner: string;
  readonly scope: 'owner:read' | 'owner:count' | 'owner:purge';
  /** The one at the origin of the call. */
  readonly actor: string;
  readonly tenantId?: string;
  readonly subject?: string;
  readonly operationId?: string;
}

/** Gives the token with which RetentionService makes one call to an owner. */
export type OwnerCredential = (call: OwnerTokenCall) => Promise<string>;

/**
 * Makes the credential for owners: a token of 60 seconds for each call, with audience `lethe-owner:NAME`, role `service`,
 * `sub` the actor and `act.sub` `service:<service>`.
 */
export const makeOwnerCredential =
  (by: TokenIssuer, service: string): OwnerCredential =>
  ({ owner, scope, actor, tenantId, subject, operationId }) =>
    new SignJWT({
      role: 'service',
      scope,
      act: { sub: `service:${service}` },
      ...(tenantId === undefined ? {} : { tenant: tenantId }),
      ...(subject === undefined ? {} : { subject_name: subject }),
      ...(operationId === undefined ? {} : { operation_id: operationId }),
    })
      .setProtectedHeader({ alg: SIGNATURE_ALGORITHM, kid: by.key.kid, typ: 'JWT' })
      .setSubject(actor)
      .setIssuer(by.issuer)
      .setAudience(`lethe-owner:${owner}`)
      .setIssuedAt()
      .setExpirationTime(`${SERVICE_TOKEN_SECONDS}s`)
      .sign(by.key.key);
