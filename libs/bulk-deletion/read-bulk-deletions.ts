import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import {
  type BulkDeletion,
  type BulkDeletionItem,
  type BulkState,
  bulkDeletionNotFound,
  hasEnded,
  type ItemState,
} from './bulk-deletion.ts';
import type { BulkDeletionRepository } from './ports.ts';

/** Reads the tenant's bulk deletions. */
export interface ReadBulkDeletions<Filter> {
  /** BULK_DELETION_NOT_FOUND. */
  get(caller: Caller, bulkDeletionId: string): Promise<BulkDeletion<Filter>>;
  list(
    caller: Caller,
    query: PageQuery & { readonly state: BulkState | undefined },
  ): Promise<Page<BulkDeletion<Filter>>>;
  /** BULK_DELETION_NOT_FOUND. */
  listItems(
    caller: Caller,
    bulkDeletionId: string,
    query: PageQuery & { readonly state: ItemState | undefined },
  ): Promise<Page<BulkDeletionItem>>;
  /** The bulk deletion now and after each change, until it has ended. BULK_DELETION_NOT_FOUND. */
  watch(caller: Caller, bulkDeletionId: string, signal: AbortSignal): AsyncIterable<BulkDeletion<Filter>>;
}

const FIRST_POLL_MS = 100;
const MAX_POLL_MS = 1_000;

/** Makes ReadBulkDeletions. `sleep` rejects when its signal is aborted. */
export function makeReadBulkDeletions<Filter>(
  repository: BulkDeletionRepository<Filter>,
  sleep: (ms: number, signal: AbortSignal) => Promise<void>,
): ReadBulkDeletions<Filter> {
  const get: ReadBulkDeletions<Filter>['get'] = async (caller, bulkDeletionId) => {
    const bulk = await repository.get(tenantOf(caller), bulkDeletionId);
    if (!bulk) throw bulkDeletionNotFound();
    return bulk;
  };
  return {
    get,
    list: (caller, query) => repository.list(tenantOf(caller), query),
    async listItems(caller, bulkDeletionId, query) {
      const page = await repository.listItems(tenantOf(caller), bulkDeletionId, query);
      if (!page) throw bulkDeletionNotFound();
      return page;
    },
    async *watch(caller, bulkDeletionId, signal) {
      for (let shown = '', pollMs = FIRST_POLL_MS; ; pollMs = Math.min(MAX_POLL_MS, pollMs * 1.5)) {
        const bulk = await get(caller, bulkDeletionId);
        const key = JSON.stringify([bulk.state, bulk.counts, bulk.skips, bulk.lastError]);
        if (key !== shown) {
          yield bulk;
          pollMs = FIRST_POLL_MS;
        }
        if (hasEnded(bulk.state)) return;
        shown = key;
        await sleep(pollMs, signal);
      }
    },
  };
}
