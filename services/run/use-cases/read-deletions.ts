import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import type { Page } from '#libs/kernel/page.ts';
import type { Deletion } from '../domain/deletion.ts';
import { deletionNotFound } from '../domain/errors.ts';
import type { DeletionQuery, DeletionRecords } from './ports.ts';

/** Reads the tenant's deletions, also long after their runs are gone. */
export interface ReadDeletions {
  /** DELETION_NOT_FOUND. */
  get(caller: Caller, deletionId: string): Promise<Deletion>;
  list(caller: Caller, query: DeletionQuery): Promise<Page<Deletion>>;
}

/** Makes ReadDeletions. */
export const makeReadDeletions = (deletions: DeletionRecords): ReadDeletions => ({
  async get(caller, deletionId) {
    const deletion = await deletions.get(tenantOf(caller), deletionId);
    if (!deletion) throw deletionNotFound();
    return deletion;
  },
  list: (caller, query) => deletions.list(tenantOf(caller), query),
});
