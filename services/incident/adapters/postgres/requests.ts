import { requestIdReused } from '#libs/kernel/domain-error.ts';
import type { RememberedRequests } from '#libs/postgres/forget-requests.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { Repeatable } from '../../use-cases/ports.ts';

/** The requests that made something. */
export const REMEMBERED_REQUESTS: RememberedRequests = { table: 'incident_requests', hasMethod: false };

/**
 * The id of what this request id created before, undefined where it is new or none was given; then it stands for
 * `id` from now on. The second of two at once waits for the first. REQUEST_ID_REUSED for another fingerprint.
 */
export async function repeatedTarget(
  trx: TenantTransaction,
  { tenantId, requestId, fingerprint, id }: Repeatable & { readonly tenantId: string; readonly id: string },
): Promise<string | undefined> {
  if (requestId === undefined) return undefined;
  const bindings = { tenantId, requestId, fingerprint, id };
  const inserted = await trx.raw(
    `insert into incident_requests (tenant_id, request_id, fingerprint, target_id)
     values (:tenantId, :requestId, :fingerprint, :id) on conflict do nothing`,
    bindings,
  );
  if (inserted.rowCount === 1) return undefined;
  const known = firstOf<{ fingerprint: string; target_id: string }>(
    await trx.raw('select * from incident_requests where tenant_id = :tenantId and request_id = :requestId', bindings),
  );
  if (known?.fingerprint !== fingerprint) throw requestIdReused(requestId);
  return known.target_id;
}
