import { type CalleeKind, type Caller, hasRole, type TenantRole, type TokenLimits } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';

/** Who may call an RPC. Everything that no rule allows is denied. */
export type Rule =
  /** Anybody, also without a credential. */
  | { readonly public: true }
  | {
      readonly scope: string;
      /** A person with at least this role in the tenant that the credential names. */
      readonly role?: TenantRole;
      /** The platform's operators. */
      readonly platform?: true;
      /** Another service, acting for a tenant. */
      readonly service?: true;
    }
  | CalleeRule;

/** An RPC that one service serves to another; only a token made for this callee passes. */
export interface CalleeRule {
  readonly callee: CalleeKind;
  readonly calleeScope: CalleeScope;
  /** Whether the call is about one tenant. A token for the others must name none. */
  readonly isOfTenant: boolean;
}

/** What a token for a retention owner may allow. */
export type OwnerScope = 'owner:read' | 'owner:count' | 'owner:purge';

/** What a token for a participant may allow; `participant:delete` is SoftDelete and Restore. */
export type ParticipantScope = `participant:${'preview' | 'execute' | 'compensate' | 'delete' | 'purge' | 'verify'}`;

/** What a token for one callee may allow. */
export type CalleeScope = OwnerScope | ParticipantScope;

/** The one service that calls each kind of callee. */
const CALLER_OF: Readonly<Record<CalleeKind, { subject: string; name: string }>> = {
  owner: { subject: 'service:retention', name: 'RetentionService' },
  participant: { subject: 'service:run', name: 'RunService' },
};

/**
 * Passes, or throws PERMISSION_DENIED with SCOPE_MISSING, ROLE_TOO_LOW or TENANT_MISSING. A token that was made for one
 * callee is TOKEN_INVALID for every RPC but those that this kind of callee serves, and every other token is for those.
 */
export function authorize(caller: Caller, rule: Rule | undefined): void {
  if (rule === undefined) throw denied('RPC_NOT_ALLOWED', 'No policy allows this call.');
  if ('public' in rule) return;
  const callee = 'callee' in rule ? rule.callee : undefined;
  if (callee !== caller.limits?.callee) throw tokenInvalid();
  if ('callee' in rule) {
    authorizeServiceCall(caller, rule);
    return;
  }
  if (!caller.scopes.has(rule.scope)) {
    throw denied('SCOPE_MISSING', `This call needs the scope ${rule.scope}.`, { scope: rule.scope });
  }
  if (caller.kind === 'platform') {
    if (rule.platform) return;
    // A platform operator's credential may name a tenant; then it does there what an owner may.
    if (rule.role && caller.tenantId !== undefined) return;
    if (rule.role) throw denied('TENANT_MISSING', 'This credential names no tenant.');
  } else if (caller.kind === 'service') {
    if (rule.service && caller.tenantId !== undefined) return;
    if (rule.service) throw denied('TENANT_MISSING', 'This credential names no tenant.');
  } else if (rule.role && hasRole(caller, rule.role)) {
    if (caller.tenantId !== undefined) return;
    throw denied('TENANT_MISSING', 'This credential names no tenant.');
  }
  const needed = rule.role ?? (rule.platform ? 'platform' : 'service');
  throw denied('ROLE_TOO_LOW', `This call needs the role ${needed}.`, { role: needed });
}

function authorizeServiceCall(caller: Caller, { callee, calleeScope, isOfTenant }: CalleeRule): void {
  if (!caller.scopes.has(calleeScope)) {
    throw denied('SCOPE_MISSING', `This call needs the scope ${calleeScope}.`, { scope: calleeScope });
  }
  const { subject, name } = CALLER_OF[callee];
  if (caller.kind !== 'service' || caller.subject !== subject)
    throw denied('ROLE_TOO_LOW', `This call is for ${name}.`, { role: 'service' });
  if (isOfTenant && caller.tenantId === undefined) throw denied('TENANT_MISSING', 'This credential names no tenant.');
  if (!isOfTenant && caller.tenantId !== undefined) throw tokenMismatch('tenant');
}

const CLAIM_OF = {
  subjectName: 'subject_name',
  runId: 'run_id',
  operationId: 'operation_id',
  step: 'step',
} as const satisfies Partial<Record<keyof TokenLimits, string>>;

/**
 * Passes when the token was made for this call; PERMISSION_DENIED/TOKEN_MISMATCH otherwise. What the call leaves
 * undefined is not compared. A token that does not name what the call names does not match.
 */
export function assertTokenMatches(caller: Caller, call: Omit<TokenLimits, 'callee'>): void {
  for (const name of ['subjectName', 'runId', 'operationId', 'step'] as const) {
    if (call[name] !== undefined && caller.limits?.[name] !== call[name]) throw tokenMismatch(CLAIM_OF[name]);
  }
}

const tokenMismatch = (claim: string): DomainError =>
  denied('TOKEN_MISMATCH', `The token's ${claim} is not that of the call.`, { claim });

/** A key of the trust file has signed what its entry does not allow. The sentence is for the log, not for the caller. */
export class KeyMisused extends Error {
  /** The entry's name. */
  readonly trustEntry: string;

  constructor(trustEntry: string, problems: readonly (string | undefined)[]) {
    super(`the trust file's ${trustEntry} may not sign this ${problems.join(' or ')}`);
    this.trustEntry = trustEntry;
  }
}

/** TOKEN_INVALID: UNAUTHENTICATED, without a word on what is wrong with the token. */
export const tokenInvalid = (cause?: unknown): DomainError =>
  new DomainError('unauthenticated', 'TOKEN_INVALID', 'The bearer token is not valid here.', {}, { cause });

const denied = (reason: string, message: string, metadata: Record<string, string> = {}): DomainError =>
  new DomainError('permission-denied', reason, message, metadata);
