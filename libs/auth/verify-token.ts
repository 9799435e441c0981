import { hash } from 'node:crypto';
import { decodeJwt, decodeProtectedHeader, errors, type JWTPayload, jwtVerify } from 'jose';
import type { CalleeKind, Caller, Role, TokenLimits } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { isTenantId } from '#libs/kernel/id.ts';
import { isPlainText } from '#libs/kernel/text.ts';
import { KeyMisused, tokenInvalid } from './authorize.ts';
import { ROLES } from './keys.ts';
import type { Trust, TrustSnapshot } from './open-trust.ts';
import { calleeAudience } from './sign-token.ts';
import { type Grant, matches, type TrustEntry } from './trust-file.ts';

/** Which tokens are believed. */
export interface VerifierOptions {
  readonly trust: Trust;
  /** The service's name as each kind of callee. Undefined: it is none, and believes no token for one. */
  readonly names?: Readonly<Partial<Record<CalleeKind, string>>>;
  /** For how long a verified token is believed again unseen, in milliseconds; a minute by default. */
  readonly keepMs?: number;
}

/**
 * Turns the value of an `authorization` header into the caller. UNAUTHENTICATED/TOKEN_MISSING or TOKEN_INVALID for
 * anything that is not a good bearer token, without a word on what is wrong with it beyond expiry; the error's cause,
 * which is for the log, tells what the trust file does not allow.
 */
export type VerifyToken = (authorization: string | undefined) => Promise<Caller>;

// An allow-list: `none` and the symmetric algorithms can never get in through a token's own header.
const ALGORITHMS = ['EdDSA', 'ES256', 'RS256'];
const CLOCK_TOLERANCE_SECONDS = 5;
// Tokens between services live for a minute and are reused for half of it; this lets one clock be 35 s off.
const CALLEE_CLOCK_TOLERANCE_SECONDS = 40;
const MAX_CALLEE_TOKEN_SECONDS = 60;
const MAX_TOKEN_LENGTH = 8_192;
const MAX_KEPT = 10_000;
const KEEP_MS = 60_000;
const CALLEE_KINDS = ['owner', 'participant'] as const satisfies readonly CalleeKind[];

/**
 * Makes the verifier. The key is the one that the trust file has for the token's `iss` and `kid`, and the token must fit
 * a grant of that key. A verified token is believed again for `keepMs`, never past its expiry and never past a change of
 * the trust file. What is kept is a digest, of so many tokens at most.
 *
 * A token that was made for one callee, with the audience `lethe-owner:<name>` or `lethe-participant:<name>` and no
 * other, makes a caller with `limits`; it must live no longer than a minute. The limits are part of what is kept and are
 * compared for each call: see assertTokenMatches.
 */
export function makeTokenVerifier(options: VerifierOptions): VerifyToken {
  const { trust, names = {}, keepMs = KEEP_MS } = options;
  const kept = new Map<string, { caller: Caller; until: number }>();
  let keptUnder: TrustSnapshot | undefined;

  return async (authorization) => {
    if (!authorization) throw unauthenticated('TOKEN_MISSING', 'The call has no bearer token.');
    const [scheme, token, ...rest] = authorization.split(' ');
    if (scheme?.toLowerCase() !== 'bearer' || !token || rest.length > 0 || token.length > MAX_TOKEN_LENGTH) {
      throw tokenInvalid();
    }
    const snapshot = await trust();
    if (snapshot !== keptUnder) {
      kept.clear();
      keptUnder = snapshot;
    }
    const digest = hash('sha256', token, 'base64');
    const now = Date.now();
    const known = kept.get(digest);
    if (known && known.until > now) return known.caller;

    const { entry, payload } = await verified(token, snapshot);
    const caller = toCaller(entry, payload, names, now / 1_000);
    // What was verified under an older file is not kept under a newer one.
    if (snapshot === keptUnder) {
      if (kept.size >= MAX_KEPT) kept.clear();
      kept.set(digest, { caller, until: Math.min(now + keepMs, (payload.exp ?? 0) * 1_000) });
    }
    return caller;
  };
}

async function verified(token: string, trust: TrustSnapshot): Promise<{ entry: TrustEntry; payload: JWTPayload }> {
  try {
    const { kid } = decodeProtectedHeader(token);
    const { iss, aud } = decodeJwt(token);
    const found = iss === undefined || kid === undefined ? undefined : trust.find(iss, kid);
    if (!found) throw new Error('no entry of the trust file has the key');
    const { payload } = await jwtVerify(token, found.key, {
      issuer: found.entry.issuer,
      algorithms: ALGORITHMS,
      clockTolerance: clockToleranceSeconds(aud),
      requiredClaims: ['exp', 'iat', 'sub'],
    });
    return { entry: found.entry, payload };
  } catch (error) {
    if (error instanceof DomainError) throw error;
    if (error instanceof errors.JWTExpired)
      throw unauthenticated('TOKEN_EXPIRED', 'The bearer token has expired.', error);
    throw tokenInvalid(error);
  }
}

const clockToleranceSeconds = (audience: JWTPayload['aud']): number =>
  calleeKindOf([audience ?? []].flat()) === undefined ? CLOCK_TOLERANCE_SECONDS : CALLEE_CLOCK_TOLERANCE_SECONDS;

// What a token says of a person or a service is written into rows.
const isText = (value: unknown): value is string =>
  typeof value === 'string' && value !== '' && value.length <= 256 && isPlainText(value);

function toCaller(
  entry: TrustEntry,
  payload: JWTPayload,
  names: Readonly<Partial<Record<CalleeKind, string>>>,
  nowSeconds: number,
): Caller {
  const claims = claimsOf(entry, payload, nowSeconds);
  const kind = calleeKindOf(claims.audiences);
  if (kind !== undefined) {
    // A token that were good for others too would carry a callee's rights to where nothing compares what it is limited to.
    const own = names[kind] === undefined ? undefined : calleeAudience(kind, names[kind]);
    if (claims.audiences.length !== 1 || claims.audiences[0] !== own) throw tokenInvalid();
    if (claims.lifetimeSeconds > MAX_CALLEE_TOKEN_SECONDS || claims.actingService === undefined) throw tokenInvalid();
  }
  const problems = entry.allow.map((grant) => misfitOf(claims, grant));
  const grants = entry.allow.filter((_, index) => problems[index] === undefined);
  if (grants.length === 0) throw tokenInvalid(new KeyMisused(entry.name, problems));
  const { subject, actingService, role, tenantId } = claims;
  return Object.freeze<Caller>({
    subject: actingService ?? subject,
    kind: role === 'platform' || role === 'service' ? role : 'user',
    tenantId,
    role,
    scopes: new Set(claims.scopes.filter((scope) => grants.some(({ scopes }) => matches(scopes, scope)))),
    actor: subject,
    trustEntry: entry.name,
    ...(kind === undefined ? {} : { limits: limitsOf(kind, payload) }),
  });
}

interface Claims {
  readonly subject: string;
  readonly actingService: string | undefined;
  readonly role: Role;
  readonly tenantId: string | undefined;
  readonly scopes: readonly string[];
  readonly audiences: readonly string[];
  readonly lifetimeSeconds: number;
}

/** What the token says, under the names that its issuer uses; TOKEN_INVALID for what is no claim of that kind. */
function claimsOf({ claims: names }: TrustEntry, payload: JWTPayload, nowSeconds: number): Claims {
  const { [names.subject]: subject, [names.tenant]: tenant, [names.role]: role, [names.scope]: scope } = payload;
  const { act, aud, iat, exp } = payload;
  const actingService = typeof act === 'object' && act !== null && 'sub' in act ? act.sub : undefined;
  // An identity provider lists all roles of a person; one of them must be a role here, and only one.
  const roles = ROLES.filter((known) => [role].flat().includes(known));
  const scopes = typeof scope === 'string' ? scope.split(' ') : (scope ?? []);
  const [known] = roles;
  if (!isText(subject) || known === undefined || roles.length !== 1) throw tokenInvalid();
  if (tenant !== undefined && !(isText(tenant) && isTenantId(tenant))) throw tokenInvalid();
  if (act !== undefined && !isText(actingService)) throw tokenInvalid();
  if (!Array.isArray(scopes) || !scopes.every((each) => typeof each === 'string')) throw tokenInvalid();
  if (iat === undefined || exp === undefined || iat > nowSeconds + clockToleranceSeconds(aud)) throw tokenInvalid();
  return {
    subject,
    actingService: isText(actingService) ? actingService : undefined,
    role: known,
    tenantId: tenant,
    scopes: scopes.filter((each) => each !== ''),
    audiences: [aud ?? []].flat(),
    lifetimeSeconds: exp - iat,
  };
}

const calleeKindOf = (audiences: readonly string[]): CalleeKind | undefined =>
  CALLEE_KINDS.find((kind) => audiences.some((audience) => audience.startsWith(calleeAudience(kind, ''))));

/** What of the token the grant does not allow; undefined where it allows all of it. */
function misfitOf(claims: Claims, grant: Grant): string | undefined {
  const { subject, actingService, role, tenantId, audiences, lifetimeSeconds } = claims;
  const isIn = (patterns: readonly string[] | undefined, value: string | undefined): boolean =>
    value === undefined ? patterns === undefined : matches(patterns ?? [], value);
  if (!grant.roles.includes(role)) return 'role';
  if (!audiences.some((audience) => matches(grant.audiences, audience))) return 'audience';
  if (!isIn(grant.tenants, tenantId)) return 'tenant';
  if (!isIn(grant.subjects, subject)) return 'subject';
  if (!isIn(grant.actors, actingService)) return 'acting service';
  if (lifetimeSeconds > grant.max_lifetime_seconds) return 'lifetime';
  return undefined;
}

function limitsOf(callee: CalleeKind, payload: JWTPayload): TokenLimits {
  const nameIn = (claim: 'subject_name' | 'run_id' | 'operation_id' | 'step'): string | undefined => {
    const value = payload[claim];
    if (value === undefined || isText(value)) return value;
    throw tokenInvalid();
  };
  return Object.freeze({
    callee,
    subjectName: nameIn('subject_name'),
    runId: nameIn('run_id')?.toLowerCase(),
    operationId: nameIn('operation_id')?.toLowerCase(),
    step: nameIn('step'),
  });
}

const unauthenticated = (reason: string, message: string, cause?: unknown): DomainError =>
  new DomainError('unauthenticated', reason, message, {}, { cause });
