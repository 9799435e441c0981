import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { parseTenantId } from '#libs/kernel/id.ts';

/** The tenant a request names, or the credential's; undefined for platform that has and names none. */
export const wantedTenant = (caller: Caller, tenantId: string): string | undefined =>
  tenantId === ''
    ? caller.kind === 'platform'
      ? caller.tenantId
      : tenantOf(caller)
    : parseTenantId('tenant_id', tenantId);

/** Whether the caller may be told of this tenant. */
export const mayName = (caller: Caller, tenantId: string): boolean =>
  caller.kind === 'platform' || caller.tenantId === tenantId;

/** As wantedTenant, and there must be one. Another's is answered as one that there is nothing of. */
export function namedTenant(caller: Caller, tenantId: string, notFound: () => Error): string {
  const wanted = wantedTenant(caller, tenantId) ?? parseTenantId('tenant_id', tenantId);
  if (!mayName(caller, wanted)) throw notFound();
  return wanted;
}
