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
    };

/** Passes, or throws PERMISSION_DENIED with SCOPE_MISSING, ROLE_TOO_LOW or TENANT_MISSING. */
export function authorize(caller: Caller, rule: Rule | undefined): void {
  if (rule === undefined) throw denied('RPC_NOT_ALLOWED', 'No policy allows this call.');
  if ('public' in rule) return;
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

const denied = (reason: string, message: string, metadata: Record<string, string> = {}): DomainError =>
  new DomainError('permission-denied', reason, message, metadata);
