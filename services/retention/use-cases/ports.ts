import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { ExecutionPolicy } from '../domain/execution-policy.ts';
import type { Plan, PlanWindow, ResolvableSubject, TenantPlan } from '../domain/windows.ts';

/** A new entry of a tenant's plan history. */
export interface NewTenantPlan {
  readonly tenantId: string;
  /** Undefined: no plan from then on. */
  readonly plan: string | undefined;
  /** Undefined, or past: the database's now. */
  readonly effectiveAt: Temporal.Instant | undefined;
  readonly actor: string;
  readonly subject: string;
  readonly reason: string | undefined;
  /** Empty: whatever the newest entry is. */
  readonly etag: string;
  readonly requestId: string | undefined;
  readonly fingerprint: string;
}

/** A window of a plan as it is to be. */
export type NewPlanWindow = Pick<PlanWindow, 'subject' | 'kind' | 'days' | 'minToKeep'>;

/** Windows of a plan to record. */
export interface PlanChange {
  readonly name: string;
  readonly windows: readonly NewPlanWindow[];
  readonly reason: string;
  /** Empty: whatever the plan is. */
  readonly etag: string;
  readonly allowMissing: boolean;
  readonly actor: string;
  readonly subject: string;
  readonly requestId: string | undefined;
  readonly fingerprint: string;
}

/** A tenant's whole history, and the database's now. */
export interface PlanHistory {
  readonly entries: readonly TenantPlan[];
  /** Every window ever recorded for the plans in it. */
  readonly planWindows: readonly PlanWindow[];
  readonly now: Temporal.Instant;
}

/** Which plans there are, and which of them tenants are and were on. */
export interface PlanRepository {
  /**
   * Must add to the history with a row of the audit in one transaction, or answer the newest entry when it says the
   * same, or what this request id was answered with; PLAN_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED.
   */
  set(plan: NewTenantPlan): Promise<TenantPlan>;
  /** Must answer the entry that `set` would add or answer, and change nothing; PLAN_NOT_FOUND, ETAG_MISMATCH. */
  preview(plan: NewTenantPlan): Promise<TenantPlan>;
  /** Must answer the history, with the windows of `plan` as well where one is given. */
  history(tenantId: string, plan?: string): Promise<PlanHistory>;
  /** Must list one tenant's entries, newest first. */
  listHistory(tenantId: string, page: PageQuery): Promise<Page<TenantPlan>>;
  /** Must list by tenant the entries in force at the database's now that name a plan. */
  listInForce(plan: string | undefined, page: PageQuery): Promise<Page<TenantPlan>>;
  /**
   * Must forget up to `limit` entries that are older than so many days and from which no window can come any more, now
   * or later, and as many answers to requests. `days` must not be less than the grace.
   */
  expire(days: number, limit: number): Promise<void>;
  /** Must answer every tenant that has this plan in force at the database's now, in order. */
  tenantsOn(plan: string): Promise<readonly string[]>;
  /** Must answer every tenant that has a plan or an execution policy, in order. */
  findTenants(): Promise<readonly string[]>;
}

/** The plans there are, and every window ever recorded for them. They belong to no tenant. */
export interface PlanWindowRepository {
  /**
   * Must record each window that differs from the one in force, with a row of the audit, in one transaction, and
   * answer the plan as it is then; PLAN_NOT_FOUND unless `allowMissing`, ETAG_MISMATCH, REQUEST_ID_REUSED.
   */
  update(change: PlanChange): Promise<Plan>;
  /** Must answer the plan as `update` would leave it, and the windows it would record; the same errors. */
  preview(change: PlanChange): Promise<{ readonly plan: Plan; readonly recorded: readonly PlanWindow[] }>;
  get(name: string): Promise<Plan | undefined>;
  /** Must list plans by name. */
  list(page: PageQuery): Promise<Page<Plan>>;
  /** Must list every window ever recorded for the plan, newest first. */
  listWindows(name: string, page: PageQuery): Promise<Page<PlanWindow>>;
}

/** The subjects that owners hold, as RetentionService knows them. */
export interface SubjectCatalogue {
  /** Must answer every subject that is not retired, by name, also while its owner is down. */
  listSubjects(): Promise<readonly ResolvableSubject[]>;
}

/** What of one subject of one tenant to count. */
export interface ExpiredCount {
  readonly tenantId: string;
  readonly subject: string;
  readonly retentionDays: number;
  readonly minToKeep: number | undefined;
  readonly staleAfterDays: number | undefined;
  readonly actor: string;
  /** Aborted when the caller does not wait any longer. */
  readonly signal: AbortSignal;
}

/**
 * Must answer how many rows a purge by this window would take now, dependents not counted; undefined where the owner
 * does not answer, refuses, or the signal came first. Must not throw for any of these.
 */
export type CountExpired = (count: ExpiredCount) => Promise<number | undefined>;

/** An execution policy as it is to be. */
export interface NewExecutionPolicy {
  readonly tenantId: string;
  readonly retentionDays: number;
  readonly isEnabled: boolean;
  readonly minToKeep: number;
  readonly staleAfterDays: number;
  readonly actor: string;
  readonly subject: string;
  readonly etag: string;
}

/** How long tenants' executions are kept; a tenant has at most one policy. */
export interface ExecutionPolicyRepository {
  /**
   * Must create or replace the policy with a row of the audit in one transaction, and change nothing where it is the
   * same already; ETAG_MISMATCH.
   */
  upsert(policy: NewExecutionPolicy): Promise<ExecutionPolicy>;
  /** Must answer the policy as `upsert` would leave it, and change nothing; ETAG_MISMATCH. */
  preview(policy: NewExecutionPolicy): Promise<ExecutionPolicy>;
  get(tenantId: string): Promise<ExecutionPolicy | undefined>;
  /**
   * Must remove the policy with a row of the audit in one transaction; nothing where there is none. ETAG_MISMATCH when
   * there is one with another etag; an empty one fits all.
   */
  remove(policy: Pick<NewExecutionPolicy, 'tenantId' | 'actor' | 'subject' | 'etag'>): Promise<void>;
  /** Must list the policies of all tenants, by tenant. */
  list(page: PageQuery): Promise<Page<ExecutionPolicy>>;
  /**
   * Must note how many executions the cleanup at this instant removed; nothing where there is no policy or a later
   * cleanup was noted. The same instant again replaces the count, and the policy's version stays.
   */
  recordCleanup(tenantId: string, at: Temporal.Instant, deleted: number): Promise<void>;
}
