import type { ItemState, ResourceCount, RetentionPurge, RetentionPurgeItem } from '../domain/purge.ts';
import type { Plan, RetentionSubject, TenantPlan } from '../domain/windows.ts';

/** One page of a list: at most `limit` rows after the keyset `after`. */
export interface PageQuery {
  readonly limit: number;
  readonly after: readonly string[] | undefined;
}

/** A page, and the keyset of its last row when there are more. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly next: readonly string[] | undefined;
}

/** A new entry of a tenant's plan history. */
export interface NewTenantPlan {
  readonly tenantId: string;
  readonly plan: Plan;
  /** Undefined: the database's now. */
  readonly effectiveAt: Temporal.Instant | undefined;
  readonly actor: string;
  readonly subject: string;
  readonly reason: string | undefined;
  readonly etag: string;
  readonly requestId: string | undefined;
  readonly fingerprint: string;
}

/** What plans tenants are and were on. */
export interface PlanRepository {
  /**
   * Must add to the history with a row of the audit in one transaction, or answer the newest entry when it says the
   * same, or what this request id was answered with; ETAG_MISMATCH, REQUEST_ID_REUSED, and FIELD_INVALID on
   * `effective_time` when it lies before the newest entry's.
   */
  set(plan: NewTenantPlan): Promise<TenantPlan>;
  /** Must answer the whole history and the database's now. */
  history(tenantId: string): Promise<{ entries: readonly TenantPlan[]; now: Temporal.Instant }>;
  /** Must list one tenant's entries, newest first. */
  listHistory(tenantId: string, page: PageQuery): Promise<Page<TenantPlan>>;
  /** Must list by tenant the entries in force at the database's now. */
  listInForce(plan: Plan | undefined, page: PageQuery): Promise<Page<TenantPlan>>;
  /** Must answer every tenant that has a plan or an execution policy, in order. */
  findTenants(): Promise<readonly string[]>;
}

/** A purge to order. */
export interface NewPurge {
  readonly tenantIds: readonly string[];
  readonly trigger: 'PURGE' | 'PURGE_NOW';
  readonly validateOnly: boolean;
  readonly actor: string;
  readonly subject: string;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly fingerprint: string;
}

/** A worker's hold on one tenant's part of a purge. */
export interface ItemClaim {
  readonly item: RetentionPurgeItem;
  readonly token: bigint;
}

/** What is known of a tenant's part so far. */
export interface ItemProgress {
  readonly state: ItemState;
  readonly plan: string | undefined;
  readonly planVersion: number | undefined;
  readonly cutoffs: RetentionPurgeItem['cutoffs'];
  readonly counts: readonly ResourceCount[];
  readonly error: string | undefined;
}

/** Retention purges and their items. */
export interface PurgeRepository {
  /**
   * Must commit the purge with an item for each tenant in one transaction. A tenant that another purge is working on
   * gets a SKIPPED item that names it. Must answer the purge of this request id; REQUEST_ID_REUSED.
   */
  create(purge: NewPurge): Promise<string>;
  /** Must sum the purge up from its items; undefined for an unknown one. */
  get(purgeId: string): Promise<RetentionPurge | undefined>;
  /** Must list newest first; a tenant's own are those that have an item of it. */
  list(tenantId: string | undefined, page: PageQuery): Promise<Page<RetentionPurge>>;
  getItem(tenantId: string, purgeId: string): Promise<RetentionPurgeItem | undefined>;
  /** Must answer tenant and time of the last change of every item, in the order of tenants. */
  findItems(
    purgeId: string,
    page: PageQuery,
  ): Promise<Page<{ tenantId: string; state: ItemState; updatedAt: Temporal.Instant }>>;
  /** Must answer the purge that is working on the tenant; undefined for none. */
  findRunning(tenantId: string): Promise<string | undefined>;
  findDue(limit: number): Promise<readonly { tenantId: string; purgeId: string }[]>;
  claim(tenantId: string, purgeId: string, owner: string, leaseMs: number): Promise<ItemClaim | undefined>;
  /** Must save and renew the lease, or give it up when the state is final; LEASE_LOST when the token is old. */
  save(claim: ItemClaim, progress: ItemProgress, leaseMs: number): Promise<void>;
  /** Must give the item up until `retryMs` from now. */
  postpone(claim: ItemClaim, error: string, retryMs: number): Promise<void>;
}

/** What one call to the owner of the data did, summed over all calls of one operation. */
export interface AgePurgeAnswer {
  readonly progress: 'PARTIAL' | 'COMPLETE';
  readonly counts: readonly ResourceCount[];
  readonly cutoff: string;
}

/** The service that owns what is purged by age. */
export interface DataOwner {
  /** Must purge, or count for `validateOnly`, one tenant's expired rows; DEPENDENCY_UNAVAILABLE when it is silent. */
  purge(call: {
    tenantId: string;
    actor: string;
    operationId: string;
    subject: RetentionSubject;
    retentionDays: number;
    validateOnly: boolean;
  }): Promise<AgePurgeAnswer>;
}
