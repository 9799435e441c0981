import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { parseTenantId } from '#libs/kernel/id.ts';

/** The tenant a request names, else the credential's; undefined when platform names none and has none. */
export const wantedTenant = (caller: Caller, tenantId: string): string | undefined =>
  tenantId === ''
    ? caller.kind === 'platform'
      ? caller.tenantId
      : tenantOf(caller)
    : parseTenantId('tenant_id', tenantId);

/** Whether the caller may see this tenant. */
export const mayName = (caller: Caller, tenantId: string): boolean =>
  caller.kind === 'platform' || caller.tenantId === tenantId;

/** Like wantedTenant, but required. Another tenant is answered as if it did not exist. */
export function namedTenant(caller: Caller, tenantId: string, notFound: () => Error): string {
  const wanted = wantedTenant(caller, tenantId) ?? parseTenantId('tenant_id', tenantId);
  if (!mayName(caller, wanted)) throw notFound();
  return wanted;
}
