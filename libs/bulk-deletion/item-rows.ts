import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { bulkLeaseLost } from './bulk-deletion.ts';

/**
 * Marks an item as RUNNING in the transaction that commits its deletion. Throws LEASE_LOST unless the item is PENDING, its
 * bulk deletion RUNNING, and the token the last one; nothing of the transaction may be committed then.
 */
export async function takeItem(
  trx: TenantTransaction,
  tenantId: string,
  { bulkDeletionId, position, token }: BulkItem,
  deletionId: string,
): Promise<void> {
  // The row's lock is what a cancel waits for, and what waits for a cancel.
  const { rowCount } = await trx.raw(
    `with held as (
       select from bulk_deletions
       where tenant_id = :tenantId and id = :bulkDeletionId and state = 'RUNNING' and lease_token = :token
         and lease_owner is not null
       for share)
     update bulk_deletion_items
     set state = 'RUNNING', deletion_id = :deletionId, last_error = null, next_attempt_at = null,
         updated_at = clock_timestamp()
     where tenant_id = :tenantId and bulk_deletion_id = :bulkDeletionId and position = :position and state = 'PENDING'
       and exists (select from held)`,
    { tenantId, bulkDeletionId, position, token: String(token), deletionId },
  );
  if (rowCount !== 1) throw bulkLeaseLost();
}

/**
 * Makes the item RUNNING again whose STUCK deletion is redriven, and its bulk deletion with it, in the transaction that
 * redrives the deletion, whose row it has locked before: everything locks the deletion first, then the bulk deletion, then
 * the item. Does nothing where the deletion is of no bulk deletion.
 */
export async function reopenItem(
  trx: TenantTransaction,
  tenantId: string,
  bulkDeletionId: string | null,
  deletionId: string,
): Promise<void> {
  if (bulkDeletionId === null) return;
  // Whoever ends or forgets the bulk deletion now is waited for, by a statement of its own: the next one sees what was done.
  await trx.raw('select 1 from bulk_deletions where tenant_id = :tenantId and id = :bulkDeletionId for update', {
    tenantId,
    bulkDeletionId,
  });
  await trx.raw(
    `with reopened as (
       update bulk_deletion_items
       set state = 'RUNNING', last_error = null, updated_at = clock_timestamp()
       where tenant_id = :tenantId and deletion_id = :deletionId and state in ('STUCK', 'RUNNING')
       returning tenant_id, bulk_deletion_id)
     update bulk_deletions b
     set state = case b.state when 'STUCK' then 'RUNNING' else 'CANCELLING' end, counts = null, finished_at = null,
         next_attempt_at = clock_timestamp(), updated_at = clock_timestamp()
     from reopened r
     where b.tenant_id = r.tenant_id and b.id = r.bulk_deletion_id and b.state in ('STUCK', 'CANCELLED')`,
    { tenantId, deletionId },
  );
}
