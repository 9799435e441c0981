import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { backoffMs, type RetryPolicy } from '#libs/saga/backoff.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import { type Blast, type Ceiling, exceedsCeiling, isSwitchedOff } from '../domain/ceiling.ts';
import {
  isFinished,
  type PurgeOperation,
  type ResourceCount,
  type RetentionPurgeItem,
  sumCounts,
} from '../domain/purge.ts';
import type { KeepPlans } from './keep-plans.ts';
import type { AgePurgeAnswer, DataOwner, ItemClaim, ItemProgress, PurgeRepository } from './ports.ts';

/** Purges one tenant as one purge wants it, if that is due and no other worker has it. */
export type RunPurges = (tenantId: string, purgeId: string, signal: AbortSignal) => Promise<void>;

/**
 * Sets right the receipt of a tenant's part that ended after an error: a call that was cut off may have removed more
 * than anybody heard of. It throws while the owner of the data is silent, and is to be called again.
 */
export type SettlePurge = (tenantId: string, purgeId: string) => Promise<void>;

/** How purges are driven. */
export interface PurgeSettings {
  readonly workerId: string;
  /** Longer than one call to an owner of data may take, in milliseconds. */
  readonly leaseMs: number;
  readonly retry: RetryPolicy;
  readonly ceiling: Ceiling;
}

/** Told when a tenant's part has ended or is held. */
export type OnItemFinished = (item: RetentionPurgeItem, progress: ItemProgress) => void;

/** Told of an error that a tenant's part met, also when it will be tried again. */
export type OnItemError = (item: RetentionPurgeItem, error: unknown) => void;

/** The persisted points of a tenant's purge. */
export const PURGE_CRASH_POINTS = [
  'retention.purge.after-claim',
  'retention.purge.after-operation',
  'retention.purge.before-save',
  'retention.purge.after-batch',
  'retention.purge.after-tenant',
] as const;

/** The rows that a subject's window is about; what hangs on them goes with them and is not asked for. */
const TYPE_OF: Readonly<Record<string, string>> = {
  drift_checks: 'drift_check',
  incident_payloads: 'incident_payload',
  approvals: 'approval',
};

const PLAN_SUBJECTS = ['drift_checks', 'incident_payloads', 'approvals'];

// So many workers in a row that took a tenant up and were never heard of again: it kills them.
const MAX_ATTEMPTS = 50;

/** The purge must stop here, and somebody else goes on. */
class Stopping extends Error {}

/** Makes RunPurges. */
export function makeRunPurges(
  purges: PurgeRepository,
  plans: KeepPlans,
  owner: DataOwner,
  settings: PurgeSettings,
  onFinished: OnItemFinished,
  onError: OnItemError,
): RunPurges {
  const { workerId, leaseMs, retry, ceiling } = settings;

  return async (tenantId, purgeId, signal) => {
    const claim = await purges.claim(tenantId, purgeId, workerId, leaseMs);
    if (!claim) return;
    crashPoint('retention.purge.after-claim');
    const { item } = claim;
    const work = new TenantPurge({ purges, plans, owner, leaseMs, ceiling, claim, signal });
    const errors: unknown[] = [];
    try {
      if (item.attempts > MAX_ATTEMPTS) throw workersLost(item.attempts);
      await work.resolve();
      if (!(await work.isHeld(errors))) await work.purgeAll(errors);
    } catch (error) {
      if (hasReason(error, 'LEASE_LOST')) return;
      if (error instanceof Stopping) return purges.release(claim);
      errors.push(error);
    }
    for (const error of errors) onError(item, error);
    const failures = errors.length > 0 ? item.failures + 1 : item.failures;
    const progress = work.end(errors, failures);
    const isWorthARetry = item.attempts <= MAX_ATTEMPTS && failures < retry.maxAttempts;
    try {
      if (errors.length > 0 && isWorthARetry) {
        await purges.postpone(claim, { ...progress, state: 'RUNNING' }, backoffMs(failures, retry));
        return;
      }
      await purges.save(claim, progress, leaseMs);
    } catch (error) {
      if (hasReason(error, 'LEASE_LOST')) return;
      throw error;
    }
    crashPoint('retention.purge.after-tenant');
    onFinished(item, progress);
  };
}

interface TenantPurgeOptions {
  readonly purges: PurgeRepository;
  readonly plans: KeepPlans;
  readonly owner: DataOwner;
  readonly leaseMs: number;
  readonly ceiling: Ceiling;
  readonly claim: ItemClaim;
  readonly signal: AbortSignal;
}

/** One worker's turn with one tenant. What it knows is saved before and after each call to the owner. */
class TenantPurge {
  readonly #options: TenantPurgeOptions;
  readonly #item: RetentionPurgeItem;
  #progress: ItemProgress;
  readonly #unsafe = new Set<string>();

  constructor(options: TenantPurgeOptions) {
    this.#options = options;
    this.#item = options.claim.item;
    this.#progress = { ...this.#item, state: 'RUNNING', error: undefined, hold: undefined };
  }

  /** Reads the windows as they are now: the plan may have changed since the purge was ordered, or a moment ago. */
  async resolve(): Promise<void> {
    const { current, windows } = await this.#options.plans.resolve(this.#item.tenantId, undefined);
    this.#progress = { ...this.#progress, plan: current?.plan, planVersion: current?.version, windows };
  }

  /**
   * Whether the tenant has to wait for a person, since some subject's removal would exceed the ceiling. A subject
   * whose owner does not answer is not touched in this turn, and the error is told.
   */
  async isHeld(errors: unknown[]): Promise<boolean> {
    const { ceiling } = this.#options;
    if (this.#item.validateOnly || this.#item.hold?.approval || isSwitchedOff(ceiling)) return false;
    for (const subject of PLAN_SUBJECTS) {
      const days = this.#daysOf(subject);
      // What has begun was looked at before it began.
      if (days === undefined || this.#operationsOf(subject).length > 0) continue;
      const blast = await this.#blastOf(subject, days).catch((error: unknown) => {
        errors.push(error);
        this.#unsafe.add(subject);
      });
      if (!blast || !exceedsCeiling(blast, ceiling)) continue;
      const { maxShare, maxCount } = ceiling;
      this.#progress = { ...this.#progress, state: 'HELD', subject, hold: { subject, ...blast, maxShare, maxCount } };
      errors.length = 0;
      return true;
    }
    return false;
  }

  /** Removes, or counts, every subject that has a window in days; what fails does not stop the others. */
  async purgeAll(errors: unknown[]): Promise<void> {
    for (const subject of PLAN_SUBJECTS) {
      if (this.#unsafe.has(subject)) continue;
      try {
        if (this.#item.validateOnly) await this.#count(subject);
        else await this.#purge(subject);
      } catch (error) {
        if (error instanceof Stopping || hasReason(error, 'LEASE_LOST')) throw error;
        errors.push(error);
      }
    }
    // A policy that nobody carries out must not look as if it had been.
    if (this.#daysOf('executions') !== undefined) errors.push(executionsUnimplemented());
  }

  /** How it ended, as far as this turn knows. */
  end(errors: readonly unknown[], failures: number): ItemProgress {
    if (this.#progress.state === 'HELD') return { ...this.#progress, error: undefined, failures };
    if (errors.length === 0) {
      return { ...this.#progress, state: 'COMPLETE', subject: undefined, error: undefined, failures };
    }
    const error = [...new Set(errors.map(toSentence))].join('; ');
    const hasWindows = this.#progress.windows.length > 0;
    return { ...this.#progress, state: hasWindows ? 'PARTIAL' : 'FAILED', subject: undefined, error, failures };
  }

  async #count(subject: string): Promise<void> {
    const retentionDays = this.#daysOf(subject);
    if (retentionDays === undefined || this.#operationsOf(subject).at(-1)?.isDone) return;
    const operation = { subject, operationId: this.#item.purgeId, retentionDays };
    const { counts, cutoff } = await this.#call(operation, true);
    await this.#save(subject, { ...operation, counts, cutoff, isDone: true });
  }

  async #purge(subject: string): Promise<void> {
    for (;;) {
      let operation = this.#operationsOf(subject).at(-1);
      if (operation?.isDone) return;
      const days = this.#daysOf(subject);
      if (operation && (days === undefined || days > operation.retentionDays)) {
        // More is to be kept now than when it began. A window that shrank waits for the next purge.
        await this.#settle(operation);
        if (days === undefined) return;
        operation = undefined;
      }
      if (days === undefined) return;
      if (!operation) {
        const isFirst = this.#operationsOf(subject).length === 0;
        const operationId = isFirst ? this.#item.purgeId : newId();
        operation = { subject, operationId, retentionDays: days, counts: [], cutoff: undefined, isDone: false };
        await this.#save(subject, operation);
        crashPoint('retention.purge.after-operation');
      }
      const { counts, cutoff, progress } = await this.#call(operation, false);
      crashPoint('retention.purge.before-save');
      await this.#save(subject, { ...operation, counts, cutoff, isDone: progress === 'COMPLETE' });
      crashPoint('retention.purge.after-batch');
      if (progress === 'COMPLETE') return;
      await this.resolve();
    }
  }

  /** Ends an operation without removing more, and takes over what it has removed, answered or not. */
  async #settle(operation: PurgeOperation): Promise<void> {
    const { counts } = await this.#call(operation, true);
    await this.#save(operation.subject, { ...operation, counts: removedOf(operation, counts), isDone: true });
  }

  async #blastOf(subject: string, retentionDays: number): Promise<Blast> {
    const { counts, population } = await this.#call({ subject, operationId: this.#item.purgeId, retentionDays }, true);
    const expired = counts.find(({ resourceType }) => resourceType === TYPE_OF[subject])?.found;
    return { expired, total: population };
  }

  #call(
    { subject, operationId, retentionDays }: Pick<PurgeOperation, 'subject' | 'operationId' | 'retentionDays'>,
    validateOnly: boolean,
  ): Promise<AgePurgeAnswer> {
    if (this.#options.signal.aborted) throw new Stopping();
    const { tenantId, actor } = this.#item;
    return this.#options.owner.purge({ tenantId, actor, subject, operationId, retentionDays, validateOnly });
  }

  async #save(subject: string, operation: PurgeOperation): Promise<void> {
    const others = this.#progress.operations.filter(
      (other) => other.subject !== subject || other.operationId !== operation.operationId,
    );
    this.#progress = { ...this.#progress, subject, operations: [...others, operation] };
    await this.#options.purges.save(this.#options.claim, this.#progress, this.#options.leaseMs);
  }

  #operationsOf(subject: string): readonly PurgeOperation[] {
    return this.#progress.operations.filter((operation) => operation.subject === subject);
  }

  /** The days of the window in force; undefined where nothing is to go. */
  #daysOf(subject: string): number | undefined {
    const window = this.#progress.windows.find((resolved) => resolved.subject === subject)?.window;
    return window?.kind === 'DAYS' ? window.days : undefined;
  }
}

/** Makes SettlePurge. */
export const makeSettlePurge =
  (purges: PurgeRepository, owner: DataOwner): SettlePurge =>
  async (tenantId, purgeId) => {
    const item = await purges.getItem(tenantId, purgeId);
    if (!item || item.validateOnly || !isFinished(item.state)) return;
    const operations: PurgeOperation[] = [];
    for (const operation of item.operations) {
      const { subject, operationId, retentionDays } = operation;
      const call = { tenantId, actor: item.actor, subject, operationId, retentionDays, validateOnly: true };
      operations.push({ ...operation, counts: removedOf(operation, (await owner.purge(call)).counts) });
    }
    await purges.settle(tenantId, purgeId, operations);
  };

/** What an operation has removed, by its own last answer and by what the owner says of it now. */
function removedOf(operation: PurgeOperation, told: readonly ResourceCount[]): readonly ResourceCount[] {
  return told.map(({ resourceType, deleted }) => {
    const known = operation.counts.find((count) => count.resourceType === resourceType)?.deleted ?? 0;
    const sum = Math.max(known, deleted);
    return { resourceType, found: sum, deleted: sum, left: 0 };
  });
}

/** What a tenant's part has removed, or would remove, so far. */
export const countsOf = ({ operations }: Pick<ItemProgress, 'operations'>) => sumCounts(operations);

const toSentence = (error: unknown): string =>
  error instanceof DomainError ? `${error.reason}: ${error.message}` : 'INTERNAL: Something failed; see the log.';

const executionsUnimplemented = (): DomainError =>
  new DomainError('unimplemented', 'UNIMPLEMENTED', 'Executions cannot be removed by age yet; all of them stay.');

const workersLost = (attempts: number): DomainError =>
  new DomainError('failed-precondition', 'WORKERS_LOST', `${attempts - 1} workers took it up and did not end it.`, {
    attempts: String(attempts - 1),
  });
