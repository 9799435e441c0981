import type { DriftCheck, DriftStatus, Environment, FlaggedWorkflow, JsonObject } from '../domain/drift.ts';

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

/** What a caller of an idempotent creation gave. */
export interface Repeatable {
  readonly requestId: string | undefined;
  readonly fingerprint: string;
}

/** A check to record. */
export interface NewDriftCheck extends Repeatable {
  readonly tenantId: string;
  readonly environmentId: string;
  readonly status: DriftStatus;
  /** Undefined: the database's now. */
  readonly checkedAt: Temporal.Instant | undefined;
  readonly summary: JsonObject | undefined;
  readonly workflows: readonly FlaggedWorkflow[];
}

/** Environments and the checks of them. */
export interface DriftRepository {
  /** Must create, or answer what this request id created; REQUEST_ID_REUSED, NAME_TAKEN. */
  createEnvironment(environment: { tenantId: string; displayName: string } & Repeatable): Promise<Environment>;
  getEnvironment(tenantId: string, environmentId: string): Promise<Environment | undefined>;
  /** Must list by name. */
  listEnvironments(tenantId: string, status: DriftStatus | undefined, page: PageQuery): Promise<Page<Environment>>;
  /**
   * Must record the check with its workflows and bring the environment's badge up to date in one transaction; a
   * check older than the newest must leave the badge. ENVIRONMENT_NOT_FOUND; FIELD_INVALID on `check_time` when it
   * is after the database's now; REQUEST_ID_REUSED.
   */
  recordCheck(check: NewDriftCheck): Promise<{ check: DriftCheck; environment: Environment }>;
  getCheck(tenantId: string, checkId: string): Promise<DriftCheck | undefined>;
  /** Must list newest first, without summaries and workflows. */
  listChecks(
    tenantId: string,
    filter: { environmentId: string | undefined; status: DriftStatus | undefined },
    page: PageQuery,
  ): Promise<Page<DriftCheck>>;
}

/** A purge by age as it is asked for. */
export interface AgePurgeOrder {
  readonly tenantId: string;
  readonly operationId: string;
  readonly retentionDays: number;
  /** The one at the origin of the call, and the credential's subject, for the audit. */
  readonly actor: string;
  readonly subject: string;
}

/** One purge by age of a tenant, over all its calls. */
export interface AgePurge {
  readonly cutoff: Temporal.Instant;
  readonly deletedChecks: number;
  readonly deletedWorkflows: number;
}

/** What is expired at the moment, and of how many. */
export interface ExpiredCounts {
  readonly cutoff: Temporal.Instant;
  readonly expiredChecks: number;
  readonly expiredWorkflows: number;
  readonly population: number;
}

/** What one batch did. */
export interface AgePurgeBatch {
  readonly purge: AgePurge;
  /** Checks that this batch removed. */
  readonly deleted: number;
  /** Whether a read-back after the removal found nothing expired. */
  readonly isDone: boolean;
}

/** Purges by age. The database's clock makes the cutoff; a row without an instant is never old. */
export interface AgePurgeRepository {
  /** Must fix the cutoff at the first call of an operation and answer the same ever after; REQUEST_ID_REUSED. */
  begin(order: AgePurgeOrder): Promise<AgePurge>;
  /**
   * Must remove up to `limit` expired checks, children first, add what went to the operation's sums, and write an
   * audit row when nothing is left, in one transaction. Must say isDone only when nothing expired is left, also
   * where another operation is removing the same rows.
   */
  purgeBatch(order: AgePurgeOrder, limit: number): Promise<AgePurgeBatch>;
  /** Must count by the predicate that purgeBatch uses. */
  countExpired(order: Pick<AgePurgeOrder, 'tenantId' | 'operationId' | 'retentionDays'>): Promise<ExpiredCounts>;
}
