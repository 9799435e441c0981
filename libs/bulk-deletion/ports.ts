import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type {
  BulkDeletion,
  BulkDeletionItem,
  BulkMode,
  BulkState,
  ItemEnd,
  ItemState,
  Matches,
} from './bulk-deletion.ts';

/** What a filter selects, and what its age guard lets go. */
export interface Selection<Filter> {
  readonly tenantId: string;
  readonly mode: BulkMode;
  readonly filter: Filter;
  readonly force: boolean;
}

/** Who wants everything that matches deleted, and why. */
export interface BulkOrder<Filter> extends Selection<Filter> {
  readonly caller: Caller;
  readonly reason: string;
  readonly requestId: string | undefined;
  readonly fingerprint: string;
  readonly expectedCount: number | undefined;
}

/** A worker's hold on a bulk deletion. */
export interface BulkClaim<Filter> {
  readonly bulk: Omit<BulkDeletion<Filter>, 'counts' | 'skips'>;
  readonly token: bigint;
  /** How many the person who ordered it saw. */
  readonly expectedCount: number | undefined;
  /** Attempts in a row to begin items that all failed. */
  readonly attempts: number;
}

/** An item whose turn has come. */
export interface DueItem {
  readonly position: number;
  readonly targetId: string;
  /** The target's etag when the items were fixed. */
  readonly etag: string;
  /** Attempts to begin it that failed. */
  readonly attempts: number;
}

/** The durable bulk deletions of one kind of target. */
export interface BulkDeletionRepository<Filter> {
  /** Must count by the predicate by which items are selected, no further than to the ceiling. */
  count(selection: Selection<Filter>): Promise<Matches>;
  /** Must answer the ids of the newest that match. */
  sample(selection: Selection<Filter>, limit: number): Promise<readonly string[]>;
  /**
   * Must pass what matches to `check` and in the same transaction commit the bulk deletion and a row of the audit. Must
   * answer with the earlier one for the same request id and fingerprint, without `check`; REQUEST_ID_REUSED for another
   * fingerprint.
   */
  begin(
    order: BulkOrder<Filter>,
    check: (matches: Matches) => void,
  ): Promise<{ readonly bulkDeletionId: string; readonly isNew: boolean }>;
  /** Must answer undefined for an unknown one and another tenant's. */
  get(tenantId: string, bulkDeletionId: string): Promise<BulkDeletion<Filter> | undefined>;
  /** Must list newest first. */
  list(
    tenantId: string,
    query: PageQuery & { readonly state: BulkState | undefined },
  ): Promise<Page<BulkDeletion<Filter>>>;
  /** Must list by position; undefined for an unknown bulk deletion. */
  listItems(
    tenantId: string,
    bulkDeletionId: string,
    query: PageQuery & { readonly state: ItemState | undefined },
  ): Promise<Page<BulkDeletionItem> | undefined>;
  /**
   * Must make one that is SELECTING or RUNNING CANCELLING, after which no item can be begun, with a row of the audit in one
   * transaction. Must answer with its state before; undefined for an unknown one.
   */
  cancel(
    tenantId: string,
    bulkDeletionId: string,
    caller: Caller,
    reason: string | undefined,
  ): Promise<BulkState | undefined>;
  /** Must write one row of the audit for a refusal. */
  recordRefusal(order: BulkOrder<Filter>, refusal: string): Promise<void>;

  /**
   * Must answer those of any tenant that are due and that nobody holds: first those of the tenants whose bulk deletions
   * have the fewest workers, of each tenant the longest due first; of a tenant's RUNNING ones the oldest alone.
   */
  findDue(limit: number): Promise<readonly { readonly tenantId: string; readonly bulkDeletionId: string }[]>;
  /** Must give it to this worker with a new token, unless it is not due or somebody holds it. */
  claim(
    tenantId: string,
    bulkDeletionId: string,
    owner: string,
    leaseMs: number,
  ): Promise<BulkClaim<Filter> | undefined>;
  /** Must renew the lease. LEASE_LOST, as every method below, when the token is not the last one. */
  renew(claim: BulkClaim<Filter>, leaseMs: number): Promise<void>;
  /**
   * Must write down the next `limit` items that match and are older than the order, in one transaction with how far that
   * has come, and those that cannot be deleted as SKIPPED. Must make it RUNNING after the last one, or CANCELLING with the
   * error that `check` throws. Must answer with the state then, and how many were SKIPPED.
   */
  selectItems(
    claim: BulkClaim<Filter>,
    limit: number,
    check: (matches: Pick<Matches, 'matched' | 'exceedsCeiling'>) => void,
  ): Promise<{ readonly state: BulkState; readonly skipped: number }>;
  /**
   * Must bring items up to date whose deletion has ended: COMPLETE, STUCK, or SKIPPED with UNDELETED where it was given up.
   * Must answer with the state, how many items have a deletion under way, and how many have ended by this call.
   */
  settleItems(claim: BulkClaim<Filter>): Promise<{
    readonly state: BulkState;
    readonly underWay: number;
    readonly ended: ReadonlyMap<ItemEnd, number>;
  }>;
  /** Must answer with up to `limit` PENDING items that are due, by position. */
  dueItems(claim: BulkClaim<Filter>, limit: number): Promise<readonly DueItem[]>;
  /** Must end a PENDING item as SKIPPED. */
  skipItem(claim: BulkClaim<Filter>, item: DueItem, reason: string, error: string): Promise<void>;
  /** Must put a PENDING item off until `retryMs` from now, with one attempt more. */
  deferItem(claim: BulkClaim<Filter>, item: DueItem, error: string, retryMs: number): Promise<void>;
  /** Must end up to `limit` PENDING items as CANCELLED; answers how many. */
  cancelItems(claim: BulkClaim<Filter>, limit: number): Promise<number>;
  /**
   * Must end the bulk deletion where no item is PENDING or RUNNING, with its counts and a row of the audit; undefined
   * where one is.
   */
  finish(claim: BulkClaim<Filter>): Promise<BulkDeletion<Filter> | undefined>;
  /** Must give it up, due again in `pauseMs`; with an error, as one more attempt that failed, and without one as none. */
  release(claim: BulkClaim<Filter>, pauseMs: number, error?: string): Promise<void>;
  /** Must answer with the age of the oldest, of any tenant, that has not ended; 0 where there is none. */
  oldestUnfinishedSeconds(): Promise<number>;
  /** Must answer with how many items, of any tenant, are PENDING or RUNNING; a million at most. */
  itemsLeft(): Promise<number>;
  /** Must remove what ended longer ago, items first, in bounded batches; answers how many rows. */
  expire(days: number): Promise<number>;
}

/**
 * Orders the deletion of one target, as for a single one, for the item. Must answer with false, changing nothing, where
 * the target is hidden already; throws what forbids it, and LEASE_LOST once the claim does not hold.
 */
export type OrderItem<Filter> = (
  bulk: BulkClaim<Filter>['bulk'],
  target: { readonly targetId: string; readonly etag: string },
  item: BulkItem,
  caller: Caller,
) => Promise<boolean>;
