import { DomainError } from './domain-error.ts';

/** The roles a person has inside a tenant, lowest first; each may do what those before it may. */
export const TENANT_ROLES = ['viewer', 'member', 'admin', 'owner'] as const;

/** A person's role inside a tenant. */
export type TenantRole = (typeof TENANT_ROLES)[number];

/** `platform` operates Lethe across tenants; `service` is another service acting for somebody. */
export type Role = TenantRole | 'platform' | 'service';

/** Who calls, as the verified credential says; nothing in a request can change it. */
export interface Caller {
  /** The credential's subject: a person, `service:<name>` or a platform account. */
  readonly subject: string;
  readonly kind: 'user' | 'service' | 'platform';
  /** The tenant acted in. A platform credential may carry none. */
  readonly tenantId: string | undefined;
  readonly role: Role;
  readonly scopes: ReadonlySet<string>;
  /** The one at the origin of the call: the subject itself, or for a service the one it acts for. */
  readonly actor: string;
  /** Only in a token for this service as a retention owner: what else the token is limited to. */
  readonly owner?: OwnerClaims | undefined;
}

/** What a retention owner's token may be used for. */
export interface OwnerClaims {
  /** The subject, as `drift_checks`. Undefined: the token names none. */
  readonly subjectName: string | undefined;
  /** The operation, in lower case. Undefined: the token names none. */
  readonly operationId: string | undefined;
}

/** The caller's tenant; PERMISSION_DENIED/TENANT_MISSING where the credential names none. */
export function tenantOf(caller: Caller): string {
  if (caller.tenantId === undefined) {
    throw new DomainError('permission-denied', 'TENANT_MISSING', 'This credential names no tenant.');
  }
  return caller.tenantId;
}

/** Whether the caller has this tenant role or a higher one; platform counts as the highest. */
export function hasRole(caller: Caller, minimum: TenantRole): boolean {
  if (caller.role === 'platform') return true;
  if (caller.role === 'service') return false;
  return TENANT_ROLES.indexOf(caller.role) >= TENANT_ROLES.indexOf(minimum);
}
