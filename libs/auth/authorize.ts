import { type Caller, hasRole, type TenantRole } from '#libs/kernel/caller.ts';
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
  | {
      /** The scope of a token that was made for this service as a retention owner; no other token passes. */
      readonly ownerScope: OwnerScope;
      /** Whether the call is about one tenant. A token for the others must name none. */
      readonly isOfTenant: boolean;
    };

const RETENTION_SERVICE = 'service:retention';

/** What a retention owner's token may allow. */
export type OwnerScope = 'owner:read' | 'owner:count' | 'owner:purge';

/**
 * Passes, or throws PERMISSION_DENIED with SCOPE_MISSING, ROLE_TOO_LOW or TENANT_MISSING. A retention owner's token is
 * TOKEN_INVALID for every RPC but the owner's, and every other token is for those.
 */
export function authorize(caller: Caller, rule: Rule | undefined): void {
  if (rule === undefined) throw denied('RPC_NOT_ALLOWED', 'No policy allows this call.');
  if ('public' in rule) return;
  if ('ownerScope' in rule !== (caller.owner !== undefined)) throw tokenInvalid();
  if ('ownerScope' in rule) {
    authorizeOwnerCall(caller, rule);
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

function authorizeOwnerCall(caller: Caller, rule: Extract<Rule, { ownerScope: OwnerScope }>): void {
  const { ownerScope, isOfTenant } = rule;
  if (!caller.scopes.has(ownerScope)) {
    throw denied('SCOPE_MISSING', `This call needs the scope ${ownerScope}.`, { scope: ownerScope });
  }
  if (caller.kind !== 'service' || caller.subject !== RETENTION_SERVICE)
    throw denied('ROLE_TOO_LOW', 'This call is for RetentionService.', { role: 'service' });
  if (isOfTenant && caller.tenantId === undefined) throw denied('TENANT_MISSING', 'This credential names no tenant.');
  if (!isOfTenant && caller.tenantId !== undefined) throw tokenMismatch('tenant');
}

/**
 * Passes when the token was made for this subject and this operation; PERMISSION_DENIED/TOKEN_MISMATCH otherwise. A token
 * that names neither matches nothing. `operationId` undefined: the call has none, and the token's is not compared.
 */
export function assertTokenMatches(caller: Caller, call: { subjectName: string; operationId?: string }): void {
  if (caller.owner?.subjectName !== call.subjectName) throw tokenMismatch('subject_name');
  if (call.operationId !== undefined && caller.owner.operationId !== call.operationId)
    throw tokenMismatch('operation_id');
}

const tokenMismatch = (claim: string): DomainError =>
  denied('TOKEN_MISMATCH', `The token's ${claim} is not that of the call.`, { claim });

/** TOKEN_INVALID: UNAUTHENTICATED, without a word on what is wrong with the token. */
export const tokenInvalid = (cause?: unknown): DomainError =>
  new DomainError('unauthenticated', 'TOKEN_INVALID', 'The bearer token is not valid here.', {}, { cause });

const denied = (reason: string, message: string, metadata: Record<string, string> = {}): DomainError =>
  new DomainError('permission-denied', reason, message, metadata);
