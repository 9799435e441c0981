import type { HandlerContext } from '@connectrpc/connect';
import { callerOf, noteRefusal } from '#libs/grpc/caller.ts';
import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { parseTenantId } from '#libs/kernel/id.ts';

/** The tenant a request names, else the credential's; undefined when platform names none and has none. */
export const wantedTenant = (caller: Caller, tenantId: string): string | undefined =>
  tenantId === ''
    ? caller.kind === 'platform'
      ? caller.tenantId
      : tenantOf(caller)
    : parseTenantId('tenant_id', tenantId);

/** Whether the caller may see this tenant. If not, that is in the audit. */
export function mayName(context: HandlerContext, tenantId: string): boolean {
  const caller = callerOf(context);
  if (caller.kind === 'platform' || caller.tenantId === tenantId) return true;
  noteRefusal(context, 'TENANT_MISMATCH');
  return false;
}

/** Like wantedTenant, but required: FIELD_INVALID where there is none. Does not check whether the caller may name it. */
export const requiredTenant = (caller: Caller, tenantId: string): string =>
  wantedTenant(caller, tenantId) ?? parseTenantId('tenant_id', tenantId);

/** Like requiredTenant, and checks that. Another tenant is answered as if it did not exist. */
export function namedTenant(context: HandlerContext, tenantId: string, notFound: () => Error): string {
  const wanted = requiredTenant(callerOf(context), tenantId);
  if (!mayName(context, wanted)) throw notFound();
  return wanted;
}
