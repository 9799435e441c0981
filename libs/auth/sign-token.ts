import { SignJWT } from 'jose';
import type { CalleeKind, Role, TokenLimits } from '#libs/kernel/caller.ts';
import type { CalleeScope, OwnerScope, ParticipantScope } from './authorize.ts';
import { SIGNATURE_ALGORITHM, type SigningKey } from './keys.ts';

/** What a token says. */
export interface TokenClaims extends Omit<TokenLimits, 'callee'> {
  /** On whose behalf calls are made. */
  readonly subject: string;
  /** The service that calls on the subject's behalf (RFC 8693's `act.sub`). Undefined: the subject calls. */
  readonly actingService?: string | undefined;
  readonly role: Role;
  readonly scopes: readonly string[];
  readonly tenantId?: string | undefined;
}

/** Who signs, and for whom. */
export interface TokenIssuer {
  readonly key: SigningKey;
  readonly issuer: string;
  readonly audience: string;
}

/** Who signs for a service; the key may be another from call to call. */
export interface ServiceIssuer {
  readonly key: () => Promise<SigningKey>;
  readonly issuer: string;
}

/** Signs a token that is good for `ttlSeconds` from now. */
export function signToken(by: TokenIssuer, claims: TokenClaims, ttlSeconds: number): Promise<string> {
  const { subject, actingService, role, scopes, tenantId, subjectName, runId, operationId, step } = claims;
  // One look at the clock: between two a second may end, and a token that lives a second too long is believed by nobody.
  const issuedAt = Math.floor(Date.now() / 1_000);
  return new SignJWT({
    role,
    scope: scopes.join(' '),
    ...(tenantId === undefined ? {} : { tenant: tenantId }),
    ...(actingService === undefined ? {} : { act: { sub: actingService } }),
    ...(subjectName === undefined ? {} : { subject_name: subjectName }),
    ...(runId === undefined ? {} : { run_id: runId }),
    ...(operationId === undefined ? {} : { operation_id: operationId }),
    ...(step === undefined ? {} : { step }),
  })
    .setProtectedHeader({ alg: SIGNATURE_ALGORITHM, kid: by.key.kid, typ: 'JWT' })
    .setSubject(subject)
    .setIssuer(by.issuer)
    .setAudience(by.audience)
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + ttlSeconds)
    .sign(by.key.key);
}

/** The audience of tokens for one callee, as `lethe-participant:job`. */
export const calleeAudience = (kind: CalleeKind, name: string): string => `lethe-${kind}:${name}`;

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
export function makeOwnerCredential(by: ServiceIssuer, service: string): OwnerCredential {
  const tokenFor = calleeTokens(by, service);
  return ({ owner, scope, actor, tenantId, subject, operationId }) =>
    tokenFor(calleeAudience('owner', owner), scope, { subject: actor, tenantId, subjectName: subject, operationId });
}

/** One call of a participant. */
export interface ParticipantTokenCall {
  /** The participant's name in RunService's configuration. */
  readonly participant: string;
  readonly scope: ParticipantScope;
  /** Who is behind it. */
  readonly actor: string;
  readonly tenantId?: string | undefined;
  readonly runId?: string | undefined;
  /** Undefined for Preview and CheckAction alone, as is `step`. */
  readonly operationId?: string | undefined;
  readonly step?: string | undefined;
}

/** Gives the token with which a service calls a participant. */
export type ParticipantCredential = (call: ParticipantTokenCall) => Promise<string>;

/**
 * Makes the credential with which a service calls participants: tokens of 60 seconds for one participant, one kind of
 * call, one tenant, run and operation, whose subject is the actor and whose `act` is `service:<name>`. A token is used
 * again for 30 seconds.
 */
export function makeParticipantCredential(by: ServiceIssuer, service: string): ParticipantCredential {
  const tokenFor = calleeTokens(by, service);
  return ({ participant, scope, actor, ...limits }) =>
    tokenFor(calleeAudience('participant', participant), scope, { subject: actor, ...limits });
}

const SERVICE_TOKEN_SECONDS = 60;
const REUSE_MS = 30_000;
const MAX_KEPT = 2_000;

/** Signs tokens for callees, or gives again what it signed for the same call in the last 30 seconds. */
function calleeTokens(by: ServiceIssuer, service: string) {
  const reuse = keepTokens();
  return async (
    audience: string,
    scope: CalleeScope,
    claims: Omit<TokenClaims, 'role' | 'scopes' | 'actingService'>,
  ): Promise<string> => {
    const { subject, tenantId, subjectName, runId, operationId, step } = claims;
    const key = await by.key();
    const call = [key.kid, audience, scope, subject, tenantId, subjectName, runId, operationId, step];
    return reuse(JSON.stringify(call), () =>
      signToken(
        { key, issuer: by.issuer, audience },
        { ...claims, role: 'service', scopes: [scope], actingService: `service:${service}` },
        SERVICE_TOKEN_SECONDS,
      ),
    );
  };
}

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
