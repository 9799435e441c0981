import { DomainError } from './domain-error.ts';

/** The roles a person has inside a tenant, lowest first; each may do what those before it may. */
export const TENANT_ROLES = ['viewer', 'member', 'admin', 'owner'] as const;

/** A person's role inside a tenant. */
export type TenantRole = (typeof TENANT_ROLES)[number];

/** `platform` operates Lethe across tenants; `service` is another service acting for somebody. */
export type Role = TenantRole | 'platform' | 'service';

/** Who calls, as the verified credential says; nothing in a request can change it. */
export interface Caller {
  /** Who makes the call: a person, a platform account, or the service that acts for one, as `service:<name>`. */
  readonly subject: string;
  readonly kind: 'user' | 'service' | 'platform';
  /** The tenant acted in. A platform credential may carry none. */
  readonly tenantId: string | undefined;
  readonly role: Role;
  readonly scopes: ReadonlySet<string>;
  /** The one at the origin of the call: the subject itself, or for a service the one it acts for. */
  readonly actor: string;
  /** The entry of the trust file whose key signed the credential, by name; for the log and the audit. */
  readonly trustEntry?: string;
  /** Only in a token that another service made for this one alone: what the token is limited to. */
  readonly limits?: TokenLimits | undefined;
}

/** Who stands behind an operation, as its audit names them. */
export type Principal = Pick<Caller, 'actor' | 'subject' | 'trustEntry'>;

/** As what a service is called by another service: each has tokens of its own. */
export type CalleeKind = 'owner' | 'participant';

/** What a token that was made for one callee may be used for. Undefined: the token does not name it. */
export interface TokenLimits {
  readonly callee: CalleeKind;
  /** A retention owner's subject, such as `drift_checks`. */
  readonly subjectName?: string | undefined;
  /** The run, in lower case. */
  readonly runId?: string | undefined;
  /** The operation, in lower case. */
  readonly operationId?: string | undefined;
  /** The step of the operation. */
  readonly step?: string | undefined;
}

/** The caller's tenant; PERMISSION_DENIED/TENANT_MISSING where the credential names none. */
export function tenantOf(caller: Caller): string {
  if (caller.tenantId === undefined) {
    throw new DomainError('permission-denied', 'TENANT_MISSING', 'This credential names no tenant.');
  }
  return caller.tenantId;
}

/**
 * The tenant of which a caller who named one, or none, may read: undefined for a platform credential without any;
 * TENANT_MISMATCH for another's than its own.
 */
export function readableTenant(caller: Caller, named: string | undefined): string | undefined {
  if (caller.kind === 'platform') return named ?? caller.tenantId;
  const own = tenantOf(caller);
  if (named === undefined || named === own) return own;
  const message = 'Only a platform credential may name a tenant other than its own.';
  throw new DomainError('permission-denied', 'TENANT_MISMATCH', message);
}

/** Whether the caller has this tenant role or a higher one; platform counts as the highest. */
export function hasRole(caller: Caller, minimum: TenantRole): boolean {
  if (caller.role === 'platform') return true;
  if (caller.role === 'service') return false;
  return TENANT_ROLES.indexOf(caller.role) >= TENANT_ROLES.indexOf(minimum);
}
