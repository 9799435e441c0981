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

/** Purges by age. The database's clock makes the cutoff; a row without an instant is never old. */
export interface AgePurgeRepository {
  /** Must fix the cutoff at the first call of an operation and answer the same ever after; REQUEST_ID_REUSED. */
  begin(tenantId: string, operationId: string, retentionDays: number): Promise<AgePurge>;
  /** Must remove up to `limit` expired checks, children first, and add what went to the operation's sums, in one transaction. */
  purgeBatch(tenantId: string, operationId: string, limit: number): Promise<{ purge: AgePurge; deleted: number }>;
  /** Must count by the predicate that purgeBatch uses. */
  countExpired(tenantId: string, operationId: string | undefined, retentionDays: number): Promise<ExpiredCounts>;
}
