import { SignJWT } from 'jose';
import type { Role } from '#libs/kernel/caller.ts';
import type { OwnerScope } from './authorize.ts';
import { SIGNATURE_ALGORITHM, type SigningKey } from './keys.ts';

/** What a token says. */
export interface TokenClaims {
  readonly subject: string;
  readonly role: Role;
  readonly scopes: readonly string[];
  readonly tenantId?: string | undefined;
  /** The one at the origin of the call, where the subject acts for somebody. */
  readonly actor?: string | undefined;
  /** Only in a token for a retention owner: the one subject and the one operation that it is good for. */
  readonly subjectName?: string | undefined;
  readonly operationId?: string | undefined;
}

/** Who signs, and for whom. */
export interface TokenIssuer {
  readonly key: SigningKey;
  readonly issuer: string;
  readonly audience: string;
}

/** Signs a token that is good for `ttlSeconds` from now. */
export function signToken(by: TokenIssuer, claims: TokenClaims, ttlSeconds: number): Promise<string> {
  const { subject, role, scopes, tenantId, actor, subjectName, operationId } = claims;
  return new SignJWT({
    role,
    scope: scopes.join(' '),
    ...(tenantId === undefined ? {} : { tenant: tenantId }),
    ...(actor === undefined ? {} : { act: { sub: actor } }),
    ...(subjectName === undefined ? {} : { subject_name: subjectName }),
    ...(operationId === undefined ? {} : { operation_id: operationId }),
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
  const reuse = keepTokens();
  return ({ tenantId, actor }) =>
    reuse(JSON.stringify([tenantId, actor]), () =>
      signToken(by, { subject: `service:${service}`, role: 'service', scopes, tenantId, actor }, SERVICE_TOKEN_SECONDS),
    );
}

/** One call of a retention owner. */
export interface OwnerCall {
  /** The owner's name in RetentionService's configuration. */
  readonly owner: string;
  readonly scope: OwnerScope;
  /** Who is behind it; at night `system:retention`. */
  readonly actor: string;
  /** Undefined for ListSubjects and ListTenants alone. */
  readonly tenantId?: string;
  readonly subject?: string;
  readonly operationId?: string;
}

/** Gives the token with which a service calls a retention owner. */
export type OwnerCredential = (call: OwnerCall) => Promise<string>;

/**
 * Makes the credential with which a service calls retention owners: tokens of 60 seconds whose audience is that one
 * owner, whose subject is the actor and whose `act` is `service:<name>`. A token is used again for 30 seconds.
 */
export function makeOwnerCredential(by: TokenIssuer, service: string): OwnerCredential {
  const reuse = keepTokens();
  return ({ owner, scope, actor, tenantId, subject, operationId }) =>
    reuse(JSON.stringify([owner, scope, actor, tenantId, subject, operationId]), () =>
      signToken(
        { ...by, audience: ownerAudience(owner) },
        {
          subject: actor,
          actor: `service:${service}`,
          role: 'service',
          scopes: [scope],
          tenantId,
          subjectName: subject,
          operationId,
        },
        SERVICE_TOKEN_SECONDS,
      ),
    );
}

/** The audience of tokens for the retention owner of this name. */
export const ownerAudience = (owner: string): string => `lethe-owner:${owner}`;

/** Makes the function that gives the token made for a key in the last 30 seconds, or has a new one made. */
function keepTokens(): (key: string, sign: () => Promise<string>) => Promise<string> {
  const kept = new Map<string, { token: Promise<string>; until: number }>();
  return (key, sign) => {
    const now = performance.now();
    const known = kept.get(key);
    if (known && known.until > now) return known.token;
    if (kept.size >= MAX_KEPT) kept.clear();
    const token = sign();
    kept.set(key, { token, until: now + REUSE_MS });
    token.catch(() => kept.delete(key));
    return token;
  };
}
