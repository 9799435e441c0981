import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import type { RunOperation, RunScope } from '#libs/participant/participant.ts';
import { jobPrefix } from '../domain/artifact.ts';
import { addCounts, type FailedKey, needsPerson, type RemovalCounts, reasonOf } from '../domain/deletion.ts';
import { deletionRefusal } from '../domain/job.ts';
import type { CheckStore } from './check-store.ts';
import type { CheckUnfinished, DeletionRepository, Refusal, RunInventory, RunJobs, Wake } from './ports.ts';
import type { RecordRefusal } from './record-refusal.ts';

/** What one call of a cascade did, summed over all calls with its key. */
export interface Participation {
  readonly progress: 'PARTIAL' | 'COMPLETE';
  readonly counts: RemovalCounts;
  readonly failedKeys: readonly FailedKey[];
  /** Whether some of what is left has not failed, and only waits for a worker. */
  readonly isQueued: boolean;
}

/**
 * JobService's part in the deletions of runs. Every method is idempotent by its operation. What is about objects is
 * refused with STORE_NOT_OURS while the object store is another installation's.
 */
export interface Participate {
  /** What a purge would take, by the predicates that it uses. */
  preview(scope: RunScope): Promise<{ inventory: RunInventory; stored: RemovalCounts }>;
  /** Hides the run's jobs; how many this operation hid. JOB_NOT_TERMINAL while one still works. */
  softDelete(scope: RunScope, operation: RunOperation): Promise<number>;
  /** Brings back what the soft delete hid; how many. OPERATION_IN_PROGRESS once a purge has begun. */
  restore(scope: RunScope, operation: RunOperation, softDeleteId: string): Promise<number>;
  /** Removes the run's jobs for good, `limit` rows and objects a call or one job, and refuses those that come later. JOB_NOT_TERMINAL before anything is removed. */
  purge(scope: RunScope, operation: RunOperation, limit: number): Promise<Participation>;
  /** Removes the jobs of a step whatever their state, and refuses those that come later. */
  compensate(scope: RunScope, operation: RunOperation): Promise<Participation>;
  /** What is left, read from the rows and from the store itself; with `rowsOnly` the store is not asked. */
  verify(scope: RunScope, rowsOnly?: boolean): Promise<{ jobs: number; objects: number; samples: readonly string[] }>;
}

const WAIT_MS = 2_000;
// Looks that grow apart: a small removal is seen at once, and a large one is not slowed by being looked at.
const FIRST_POLL_MS = 20;
const MAX_POLL_MS = 320;
const PREFIXES_PER_PAGE = 200;
const COMPENSATED_PER_CALL = 10_000;

/** Makes Participate. `wake` tells the worker of new removals; they go through the one mechanism that DeleteJob has. */
export function makeParticipate(
  runJobs: RunJobs,
  deletions: DeletionRepository,
  store: ObjectStore,
  checkStore: CheckStore,
  recordRefusal: RecordRefusal,
  wake: Wake,
  sleep: (ms: number) => Promise<void>,
): Participate {
  /** A store that does not answer is not another one: what waits for it waits as it always does. */
  const refuseForeignStore = async (): Promise<void> => {
    try {
      await checkStore();
    } catch (error) {
      if (hasReason(error, 'STORE_NOT_OURS')) throw error;
    }
  };

  const assertFinished: CheckUnfinished = ([job]) => {
    if (!job) return;
    const message = deletionRefusal(job.state) ?? `The job is ${job.state}.`;
    throw new DomainError('failed-precondition', 'JOB_NOT_TERMINAL', message, { job_id: job.jobId, state: job.state });
  };

  const remove = async (
    scope: RunScope,
    order: RunOperation & { limit: number; force: boolean },
  ): Promise<Participation> => {
    const { ordered, more } = await runJobs.orderRemoval(scope, order);
    if (ordered > 0) wake(ordered);
    // A short wait spares the caller most of its polling; what takes longer answers PARTIAL.
    let isTriedAnew = ordered > 0;
    for (let waited = 0, pollMs = FIRST_POLL_MS; ; waited += pollMs, pollMs = Math.min(MAX_POLL_MS, pollMs * 2)) {
      const { counts, failedKeys, stuck, open, queued } = await runJobs.removalProgress(scope, order.operationId);
      const parked = stuck[0];
      if (parked && !isTriedAnew) {
        // The run's deletion retries and parks by its own rules, so its try is a new try for the job.
        isTriedAnew = true;
        await Promise.all(
          stuck.map(({ deletionId }) => deletions.redrive(scope.tenantId, deletionId, { ...order, isByPerson: false })),
        );
        wake(stuck.length);
      } else if (parked) {
        const { deletionId: key, lastError = '' } = parked;
        const isPermanent = needsPerson(reasonOf(lastError));
        const named = failedKeys.length > 0 ? failedKeys : [{ key, code: 'STUCK', message: lastError }];
        const failed = isPermanent ? named.map((item) => ({ ...item, isPermanent })) : named;
        return { progress: 'PARTIAL', counts, failedKeys: failed, isQueued: false };
      } else if (open === 0) {
        return { progress: more ? 'PARTIAL' : 'COMPLETE', counts, failedKeys, isQueued: false };
      }
      if (waited >= WAIT_MS) return { progress: 'PARTIAL', counts, failedKeys, isQueued: queued > 0 };
      await sleep(Math.min(pollMs, WAIT_MS - waited));
    }
  };

  const forEachPrefix = async (
    scope: RunScope,
    visit: (jobId: string, prefix: string) => Promise<void>,
  ): Promise<void> => {
    for (let after: readonly string[] | undefined, first = true; first || after; first = false) {
      const page = await runJobs.listPrefixes(scope, { limit: PREFIXES_PER_PAGE, after });
      for (const jobId of page.items) await visit(jobId, jobPrefix(scope.tenantId, jobId));
      after = page.next;
    }
  };

  return {
    async preview(scope) {
      await refuseForeignStore();
      const inventory = await runJobs.inspect(scope);
      let stored: RemovalCounts = {
        objects: 0,
        markers: 0,
        uploads: 0,
        bytes: 0,
        tasks: inventory.tasks,
        artifacts: inventory.artifacts,
        jobs: inventory.jobs,
      };
      await forEachPrefix(scope, async (_, prefix) => {
        const { versions, markers, uploads, bytes } = await store.count(prefix);
        stored = addCounts(stored, { objects: versions, markers, uploads, bytes });
      });
      return { inventory, stored };
    },

    softDelete: (scope, operation) =>
      recordRefusal(orderOf('soft-delete', scope, operation), () => runJobs.hide(scope, operation, assertFinished)),

    restore: (scope, operation, softDeleteId) =>
      recordRefusal(orderOf('undelete', scope, operation), () => runJobs.restore(scope, operation, softDeleteId)),

    async purge(scope, operation, limit) {
      await refuseForeignStore();
      await recordRefusal(orderOf('purge', scope, operation), () => runJobs.forbid(scope, operation, assertFinished));
      return remove(scope, { ...operation, limit, force: false });
    },

    async compensate(scope, operation) {
      await refuseForeignStore();
      await runJobs.forbid(scope, operation);
      return remove(scope, { ...operation, limit: COMPENSATED_PER_CALL, force: true });
    },

    async verify(scope, rowsOnly = false) {
      const { jobs, sampleJobIds } = await runJobs.inspect(scope);
      const samples = [...sampleJobIds];
      let objects = 0;
      if (rowsOnly) return { jobs, objects, samples };
      await refuseForeignStore();
      await forEachPrefix(scope, async (jobId, prefix) => {
        const { versions, markers, uploads } = await store.count(prefix);
        objects += versions + markers + uploads;
        if (versions + markers + uploads > 0 && samples.length < 100) samples.push(jobId);
      });
      return { jobs, objects, samples };
    },
  };
}

const orderOf = (
  action: Refusal['action'],
  { tenantId, runId }: RunScope,
  { caller, reason }: RunOperation,
): Omit<Refusal, 'outcome'> => ({ caller, tenantId, action, targetType: 'run', targetId: runId, reason });
