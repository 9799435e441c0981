import { hash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { createLocalJWKSet, createRemoteJWKSet, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from 'jose';
import type { CalleeKind, Caller, Role } from '#libs/kernel/caller.ts';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { isTenantId } from '#libs/kernel/id.ts';
import { tokenInvalid } from './authorize.ts';
import { ROLES } from './keys.ts';
import { calleeAudience } from './sign-token.ts';

/** Which tokens are believed. */
export interface VerifierOptions {
  /** Path of a JWKS file, read again when it changes, or an http(s) URL. */
  readonly jwks: string;
  readonly issuer: string;
  readonly audience: string;
  /** The service's name as each kind of callee. Undefined: it is none, and believes no token for one. */
  readonly names?: Readonly<Partial<Record<CalleeKind, string>>>;
  /** For how long a verified token is believed again unseen, in milliseconds; a minute by default. */
  readonly keepMs?: number;
}

/**
 * Turns the value of an `authorization` header into the caller. UNAUTHENTICATED/TOKEN_MISSING or TOKEN_INVALID for
 * anything that is not a good bearer token, without a word on what is wrong with it beyond expiry.
 */
export type VerifyToken = (authorization: string | undefined) => Promise<Caller>;

// An allow-list: `none` and the symmetric algorithms can never get in through a token's own header.
const ALGORITHMS = ['EdDSA', 'ES256', 'RS256'];
const CLOCK_TOLERANCE_SECONDS = 5;
const MAX_CALLEE_TOKEN_SECONDS = 60;
const MAX_TOKEN_LENGTH = 8_192;
const MAX_KEPT = 10_000;
const KEEP_MS = 60_000;
const RECHECK_MS = 1_000;
const CALLEE_KINDS = ['owner', 'participant'] as const satisfies readonly CalleeKind[];

/**
 * Makes the verifier. A verified token is believed again for `keepMs`, never past its expiry: so long may a token of a
 * key that was withdrawn still pass. What is kept is a digest, of so many tokens at most.
 *
 * A token that was made for one callee, with the audience `lethe-owner:<name>` or `lethe-participant:<name>` and no
 * other, makes a caller with `limits`; it must live no longer than a minute. The limits are part of what is kept and are
 * compared for each call: see assertTokenMatches.
 */
export function makeTokenVerifier(options: VerifierOptions): VerifyToken {
  const { jwks, issuer, audience, names = {}, keepMs = KEEP_MS } = options;
  const calleeOf = new Map<string, CalleeKind>();
  for (const kind of CALLEE_KINDS) {
    const name = names[kind];
    if (name !== undefined) calleeOf.set(calleeAudience(kind, name), kind);
  }
  const audiences = [audience, ...calleeOf.keys()];
  const keys = /^https?:/.test(jwks) ? remoteJwks(new URL(jwks)) : fileJwks(jwks);
  const kept = new Map<string, { caller: Caller; until: number }>();

  return async (authorization) => {
    if (!authorization) throw unauthenticated('TOKEN_MISSING', 'The call has no bearer token.');
    const [scheme, token, ...rest] = authorization.split(' ');
    if (scheme?.toLowerCase() !== 'bearer' || !token || rest.length > 0 || token.length > MAX_TOKEN_LENGTH) {
      throw tokenInvalid();
    }
    const digest = hash('sha256', token, 'base64');
    const now = Date.now();
    const known = kept.get(digest);
    if (known && known.until > now) return known.caller;

    const payload = await verified(token, keys, { issuer, audience: audiences });
    const callee = [payload.aud]
      .flat()
      .map((name) => calleeOf.get(name ?? ''))
      .find(Boolean);
    const caller = callee ? toLimitedCaller(callee, payload, now) : toCaller(payload);
    if (kept.size >= MAX_KEPT) kept.clear();
    kept.set(digest, { caller, until: Math.min(now + keepMs, (payload.exp ?? 0) * 1_000) });
    return caller;
  };
}

async function verified(
  token: string,
  keys: JWTVerifyGetKey,
  expected: { issuer: string; audience: string[] },
): Promise<JWTPayload> {
  try {
    const { payload } = await jwtVerify(token, keys, {
      ...expected,
      algorithms: ALGORITHMS,
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      requiredClaims: ['exp', 'sub'],
    });
    return payload;
  } catch (error) {
    if (error instanceof DomainError) throw error;
    if (error instanceof errors.JWTExpired)
      throw unauthenticated('TOKEN_EXPIRED', 'The bearer token has expired.', error);
    throw tokenInvalid(error);
  }
}

function toCaller(payload: JWTPayload): Caller {
  const { sub, tenant, role, scope, act } = payload;
  const isText = (value: unknown): value is string => typeof value === 'string' && value !== '' && value.length <= 256;
  if (!isText(sub) || !ROLES.includes(role as Role)) throw tokenInvalid();
  if (tenant !== undefined && !(isText(tenant) && isTenantId(tenant))) throw tokenInvalid();
  if (scope !== undefined && typeof scope !== 'string') throw tokenInvalid();
  const actingService = typeof act === 'object' && act !== null && 'sub' in act ? act.sub : undefined;
  if (act !== undefined && !isText(actingService)) throw tokenInvalid();
  const kind = role === 'platform' || role === 'service' ? role : 'user';
  return Object.freeze<Caller>({
    subject: isText(actingService) ? actingService : sub,
    kind,
    tenantId: tenant,
    role: role as Role,
    scopes: new Set(scope?.split(' ').filter(Boolean)),
    actor: sub,
  });
}

/** The caller of a token for one callee: the subject is the actor, and the service that acts for it stands in `act`. */
function toLimitedCaller(callee: CalleeKind, payload: JWTPayload, nowMs: number): Caller {
  const { aud, iat, exp, act } = payload;
  const now = nowMs / 1_000;
  // A token that were good for both would carry a callee's rights to where nothing compares what it is limited to.
  if (Array.isArray(aud) && aud.length !== 1) throw tokenInvalid();
  if (iat === undefined || exp === undefined || iat > now + CLOCK_TOLERANCE_SECONDS) throw tokenInvalid();
  if (exp - iat > MAX_CALLEE_TOKEN_SECONDS) throw tokenInvalid();
  if (act === undefined) throw tokenInvalid();
  const nameIn = (claim: 'subject_name' | 'run_id' | 'operation_id' | 'step'): string | undefined => {
    const value = payload[claim];
    if (value === undefined || (typeof value === 'string' && value !== '' && value.length <= 256)) return value;
    throw tokenInvalid();
  };
  return Object.freeze<Caller>({
    ...toCaller(payload),
    limits: Object.freeze({
      callee,
      subjectName: nameIn('subject_name'),
      runId: nameIn('run_id')?.toLowerCase(),
      operationId: nameIn('operation_id')?.toLowerCase(),
      step: nameIn('step'),
    }),
  });
}

/** A key set behind a URL. That none of its keys fits is the token's fault, anything else is not. */
function remoteJwks(url: URL): JWTVerifyGetKey {
  const set = createRemoteJWKSet(url);
  const { JOSENotSupported, JWKSMultipleMatchingKeys, JWKSNoMatchingKey } = errors;
  return async (header, token) => {
    try {
      return await set(header, token);
    } catch (error) {
      const isUnfit = [JOSENotSupported, JWKSMultipleMatchingKeys, JWKSNoMatchingKey].some(
        (kind) => error instanceof kind,
      );
      throw isUnfit ? error : dependencyUnavailable('key set', error);
    }
  };
}

/** A key set in a file, read again at most once a second when its time of change is another. */
function fileJwks(path: string): JWTVerifyGetKey {
  let set: ReturnType<typeof createLocalJWKSet> | undefined;
  let readMtimeMs = -1;
  let checkedAt = Number.NEGATIVE_INFINITY;
  return async (header, token) => {
    const now = performance.now();
    if (!set || now - checkedAt > RECHECK_MS) {
      try {
        const { mtimeMs } = await stat(path);
        if (!set || mtimeMs !== readMtimeMs) {
          set = createLocalJWKSet(JSON.parse(await readFile(path, 'utf8')));
          readMtimeMs = mtimeMs;
        }
        checkedAt = now;
      } catch (error) {
        // A file that is being replaced must not lock everybody out: the keys of before still hold.
        if (!set) throw dependencyUnavailable('key set', error);
      }
    }
    return set(header, token);
  };
}

const unauthenticated = (reason: string, message: string, cause?: unknown): DomainError =>
  new DomainError('unauthenticated', reason, message, {}, { cause });
