import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { CatalogueChange, CatalogueSubject, ListedSubject } from '../domain/catalogue.ts';
import type { ResourceCount } from '../domain/counts.ts';
import type {
  FleetHold,
  ItemState,
  PurgeState,
  PurgeTrigger,
  RetentionPurge,
  RetentionPurgeItem,
} from '../domain/purge.ts';
import type { PurgeStop } from '../domain/purge-stop.ts';
import type { OperationRule, PurgeSubject, Wait } from '../domain/purge-subject.ts';

/** A purge to order. */
export interface NewPurge {
  readonly tenantIds: readonly string[];
  /** How long ago its tenants were read, in milliseconds: who signed up since is not among them. */
  readonly readMsAgo: number;
  /** Whether it goes over every tenant that is known. */
  readonly isOfAll: boolean;
  /** The subjects it is limited to; empty: all. */
  readonly subjects: readonly string[];
  readonly trigger: PurgeTrigger;
  readonly validateOnly: boolean;
  readonly actor: string;
  readonly subject: string;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  /** Whose request id it is: a tenant, or undefined for platform. */
  readonly requestScope: string | undefined;
  readonly fingerprint: string;
  /** Held as a whole: nothing of it begins before it is approved. Undefined: it is not. */
  readonly fleetHold: NewFleetHold | undefined;
}

/** Why a purge is held as a whole, and the windows that it is ordered with. */
export interface NewFleetHold {
  readonly narrowed: number;
  readonly windows: readonly {
    readonly tenantId: string;
    readonly subject: string;
    /** Undefined: everything is kept. */
    readonly days: number | undefined;
    readonly source: string;
    readonly minToKeep: number | undefined;
  }[];
}

/** A worker's hold on one tenant's part of a purge. */
export interface ItemClaim {
  readonly item: RetentionPurgeItem;
  readonly token: bigint;
  /** The subjects that the purge is limited to; empty: all. */
  readonly subjects: readonly string[];
  /** Whether the purge goes over every tenant, so that it counts as a night of observing. */
  readonly isOfAll: boolean;
  /** Set where the purge was held as a whole and released. */
  readonly fleetHold: FleetHold | undefined;
  /** The days of the tenant's last COMPLETE purge by subject. */
  readonly lastDays: ReadonlyMap<string, number>;
}

/** What is known of a tenant's part so far. */
export type ItemProgress = Pick<
  RetentionPurgeItem,
  'state' | 'plan' | 'planVersion' | 'subjects' | 'workingOn' | 'error' | 'failures'
>;

/** Why an item is given up until later. */
export interface Postponement {
  readonly ms: number;
  /** An owner that does not answer: it did earlier in this turn (NEW), or not since the item began to wait (SAME). */
  readonly silence: 'NONE' | 'NEW' | 'SAME';
  /** Whether the attempt counts as one. */
  readonly isAttempt: boolean;
}

/** Which purges to list. */
export interface PurgeFilter {
  /** Only those that went over this tenant. */
  readonly tenantId: string | undefined;
  readonly state: PurgeState | undefined;
}

/** Held subjects to release, or with no tenant a purge that is held as a whole. */
export interface HoldApproval {
  readonly purgeId: string;
  readonly tenantId: string;
  /** Empty: all that are held. */
  readonly subjects: readonly string[];
  readonly actor: string;
  readonly subject: string;
  readonly reason: string;
}

/** One tenant's part of a purge, by its key. */
export interface ItemKey {
  readonly tenantId: string;
  readonly purgeId: string;
}

/**
 * Retention purges and their items. An item is a leased row: it says itself when it is due, so nothing else has to
 * remember it, and a lease that ends makes it due again for any worker.
 */
export interface PurgeRepository {
  /**
   * Must commit the purge, as made when its tenants were read, with an item for each tenant in one transaction, to be
   * worked on most overdue first. A tenant that another purge is working on must get a SKIPPED item that names that one;
   * for PURGE_NOW it is OPERATION_IN_PROGRESS and nothing is committed. With `fleetHold`, every item must be HELD and its
   * windows kept. Must answer the purge that this request id made before; REQUEST_ID_REUSED when it had another body.
   */
  create(purge: NewPurge): Promise<string>;
  /** Must answer the purge of this request id, undefined for none; REQUEST_ID_REUSED when it had another body. */
  findByRequest(
    purge: Pick<NewPurge, 'requestId' | 'requestScope' | 'trigger' | 'fingerprint'>,
  ): Promise<string | undefined>;
  /** Must sum the purge up from its items; undefined for an unknown one. */
  get(purgeId: string): Promise<RetentionPurge | undefined>;
  /** Must list newest first. */
  list(filter: PurgeFilter, page: PageQuery): Promise<Page<RetentionPurge>>;
  /** Must answer a purge as if this tenant were all that it went over; undefined where it was not. */
  getPart(tenantId: string, purgeId: string): Promise<RetentionPurge | undefined>;
  /** Must list the tenant's parts as getPart tells them, newest first, by the state of the part. */
  listParts(tenantId: string, state: PurgeState | undefined, page: PageQuery): Promise<Page<RetentionPurge>>;
  getItem(tenantId: string, purgeId: string): Promise<RetentionPurgeItem | undefined>;
  /** Must answer tenant and time of the last change of every item, in the order of tenants. */
  findItems(
    purgeId: string,
    page: PageQuery,
  ): Promise<Page<{ tenantId: string; state: ItemState; updatedAt: Temporal.Instant }>>;
  /**
   * Must answer up to `limit` items that are due by the database's clock: those to purge, most overdue first and one of
   * a tenant at a time, unless purges are stopped, and those that ended and have to be settled.
   */
  findDue(limit: number): Promise<readonly ItemKey[]>;
  /**
   * Must give the item to one worker for `leaseMs` under a token that grows; undefined when it is not due, or is to be
   * purged while purges are stopped. Must count an attempt, unless the item has ended and is to be settled.
   */
  claim(item: ItemKey, owner: string, leaseMs: number): Promise<ItemClaim | undefined>;
  /**
   * Must save and renew the lease, or give it up when the state is final and write a row of the audit in the same
   * transaction, but for a dry run; LEASE_LOST when the token is old. A subject that became COMPLETE must be remembered
   * as its tenant's last purge, and one that became KEPT must wait for nobody any more; one that was settled before must
   * be remembered no second time. A final item with an operation that is not closed must be due again, to be settled, when
   * `leaseMs` are over.
   */
  save(claim: ItemClaim, progress: ItemProgress, leaseMs: number): Promise<void>;
  /** Must save and give the item up until later; LEASE_LOST. */
  postpone(claim: ItemClaim, progress: ItemProgress, postponement: Postponement): Promise<void>;
  /** Must give the item up as if this worker had never had it, due at once; LEASE_LOST. */
  release(claim: ItemClaim): Promise<void>;
  /**
   * Must set the held subjects going again, with what was counted as what is approved and a row of the audit, or answer
   * the item as it is when they were approved before; PURGE_NOT_FOUND, PURGE_NOT_HELD, OPERATION_IN_PROGRESS.
   */
  approve(approval: HoldApproval): Promise<RetentionPurgeItem>;
  /** As approve, for a purge that is held as a whole. */
  approveFleet(approval: Omit<HoldApproval, 'tenantId' | 'subjects'>): Promise<void>;
  /**
   * Must give the item up for good, and correct what it says was removed if it has ended, with a row of the audit when
   * that changed; LEASE_LOST.
   */
  settle(claim: ItemClaim, subjects: readonly PurgeSubject[]): Promise<void>;
  /** Must give the item up, to be settled after `ms`; LEASE_LOST. */
  settleLater(claim: ItemClaim, ms: number): Promise<void>;
  /** Must write a row of the audit for an order that was refused, with the refusal's reason as its outcome. */
  recordRefusal(tenantId: string, order: NewPurge, outcome: string): Promise<void>;
  /** Must answer the days of the tenants' last COMPLETE purges; of none where everything was kept. */
  findLastDays(tenantIds: readonly string[]): Promise<readonly { tenantId: string; subject: string; days: number }[]>;
  /** Must forget purges of before `days` days with their items and nights, at most `limit` items; how many items went. */
  expire(days: number, limit: number): Promise<number>;
}

/** For whom an owner is called. */
export interface OwnerCall {
  /** By its name in the configuration. */
  readonly owner: string;
  /** The data set that the catalogue has of the owner: of another one the owner must do nothing. Empty: whichever. */
  readonly dataId: string;
  readonly subject: string;
  readonly tenantId: string;
  /** Who asked for it. */
  readonly actor: string;
}

/** What one call to Count has seen. */
export interface CountAnswer {
  /** Base64; undefined: all was seen. */
  readonly cursor: string | undefined;
  readonly expired: number;
  readonly remaining: number;
  readonly cutoff: Temporal.Instant;
}

/** What an operation has done, summed over all its calls. */
export interface PurgeAnswer {
  readonly isComplete: boolean;
  readonly counts: readonly ResourceCount[];
  readonly cutoff: Temporal.Instant;
  /** Not to be called again before this is over. */
  readonly retryDelayMs: number;
  readonly waits: readonly Wait[];
  /** What keeps expired rows from going, as `REASON: sentence`. */
  readonly blockers: readonly string[];
}

/** The final sums of an operation. */
export interface EndAnswer {
  /** Base64; undefined: it was read back whole. */
  readonly cursor: string | undefined;
  readonly counts: readonly ResourceCount[];
  /** Undefined: it was never begun. */
  readonly cutoff: Temporal.Instant | undefined;
}

/**
 * The services that own what ages. Every method must throw DEPENDENCY_UNAVAILABLE when the owner is silent, and a
 * DomainError with the owner's reason when it refuses.
 */
export interface RetentionOwners {
  /** The configured owners, in order. */
  readonly names: readonly string[];
  /** Must answer what the owner holds, all pages of it. */
  list(owner: string): Promise<{ readonly dataId: string; readonly subjects: readonly ListedSubject[] }>;
  /** Must answer a page of the tenants with rows of a subject. */
  listTenants(
    owner: string,
    subject: string,
    pageToken: string,
  ): Promise<{ readonly tenantIds: readonly string[]; readonly nextPageToken: string }>;
  /** Must count from the cursor; `upTo` is what is left of the walk. */
  count(call: OwnerCall, rule: Omit<OperationRule, 'maxRows'>, cursor: string, upTo: number): Promise<CountAnswer>;
  /** Must remove a batch under the operation. */
  purge(call: OwnerCall, operationId: string, rule: OperationRule): Promise<PurgeAnswer>;
  /** Must close the operation, and read back from the cursor what its rule left. */
  end(call: OwnerCall, operationId: string, cursor: string): Promise<EndAnswer>;
}

/** The durable catalogue of subjects. */
export interface CatalogueRepository {
  /** Must answer every subject by name. */
  list(): Promise<readonly CatalogueSubject[]>;
  /**
   * Must apply the changes that `decide` makes of the whole catalogue, locked, and the database's now, in one
   * transaction, with a row of the audit for each that has an event.
   */
  update(
    by: { readonly actor: string; readonly subject: string; readonly reason: string | undefined },
    decide: (known: readonly CatalogueSubject[], now: Temporal.Instant) => readonly CatalogueEntryChange[],
  ): Promise<readonly CatalogueEntryChange[]>;
  /** Must count a night of observing once for each purge. */
  recordNight(subject: string, purgeId: string): Promise<void>;
  /** Must answer the subjects that this purge only counts: those observed, and those whose last night it is. */
  findObserved(purgeId: string): Promise<ReadonlySet<string>>;
}

/** A change of the catalogue; `event` also names what a person did. */
export interface CatalogueEntryChange extends Pick<CatalogueChange, 'subject'> {
  readonly event: CatalogueChange['event'] | 'confirmed' | 'retired';
}

/** Which tenants owners hold data of, as they last told. */
export interface TenantDirectory {
  /** Must answer those of the tenants that have a plan, a policy or data. */
  findKnown(tenantIds: readonly string[]): Promise<ReadonlySet<string>>;
  /** Must list tenants that have data and neither a plan nor a policy, by id. */
  listUnplanned(page: PageQuery): Promise<Page<UnplannedTenant>>;
  /** Must answer where the walk over a subject's tenants stands; it begins anew when the last one is `everyMs` old. */
  beginSweep(subject: string, everyMs: number): Promise<{ readonly pageToken: string } | undefined>;
  /** Must record a page of tenants and where the walk goes on; undefined: it has ended, and who was not seen is forgotten. */
  recordSweep(subject: string, tenantIds: readonly string[], nextPageToken: string | undefined): Promise<void>;
  /** Must begin the walk that is under way anew. */
  restartSweep(subject: string): Promise<void>;
  /** Must forget up to `limit` entries that no walk has seen for `days` days, as those of a retired subject. */
  expire(days: number, limit: number): Promise<void>;
}

/** A tenant that has data and neither a plan nor a policy. */
export interface UnplannedTenant {
  readonly tenantId: string;
  readonly subjects: readonly string[];
  readonly firstSeenAt: Temporal.Instant;
}

/** The stop switch. */
export interface StopRepository {
  get(): Promise<PurgeStop>;
  /** Must record the switch with a row of the audit, or answer it as it is when it stands so already. */
  set(change: {
    readonly isStopped: boolean;
    readonly actor: string;
    readonly subject: string;
    readonly reason: string;
  }): Promise<PurgeStop>;
}
