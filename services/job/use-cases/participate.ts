import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import type { Participant, Participation, RunOperation, RunScope, Sample } from '#libs/participant/participant.ts';
import {
  addCounts,
  NOTHING_REMOVED,
  needsPerson,
  type RemovalCounts,
  reasonOf,
  toResourceCounts,
} from '../domain/deletion.ts';
import { deletionRefusal } from '../domain/job.ts';
import type { CheckStore } from './check-store.ts';
import type { CheckUnfinished, RunJobs, Wake } from './deletion-ports.ts';
import type { DeletionRecords, Refusal } from './ports.ts';
import type { RecordRefusal } from './record-refusal.ts';
import { visitPrefixes } from './visit-prefixes.ts';

/**
 * JobService's part in the deletions of runs, beside the actions of their steps. What is about objects is refused with
 * STORE_NOT_OURS while the object store is another installation's. A purge removes `limit` rows and objects a call, or one
 * job; JOB_NOT_TERMINAL before anything is hidden or removed.
 */
export type Participate = Omit<Participant, 'actions'>;

const WAIT_MS = 2_000;
// Looks that grow apart: a small removal is seen at once, and a large one is not slowed by being looked at.
const FIRST_POLL_MS = 20;
const MAX_POLL_MS = 320;
// A run may have thousands of jobs, and a store takes many times as long to answer as to look.
const COUNTED_AT_A_TIME = 32;
const LISTINGS_AT_A_TIME = 16;
const STUCK_PER_PAGE = 1_000;
const REDRIVEN_AT_A_TIME = 16;
// Of an answer that goes on where another left off.
const NO_ROWS = { jobs: 0, sampleJobIds: [] };
const COMPENSATED_PER_CALL = 10_000;
const MAX_SAMPLES = 100;

/** Makes Participate. `wake` tells the worker of new removals; they go through the one mechanism that DeleteJob has. */
export function makeParticipate(
  runJobs: RunJobs,
  deletions: Pick<DeletionRecords, 'redrive'>,
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

  /** Each of them once: one that is parked again meanwhile is behind, and left to the next call. */
  const redriveStuck = async (scope: RunScope, by: RunOperation): Promise<void> => {
    for (let after: readonly string[] | undefined, first = true; first || after; first = false) {
      const page = await runJobs.listStuck(scope, { limit: STUCK_PER_PAGE, after });
      for (let at = 0; at < page.items.length; at += REDRIVEN_AT_A_TIME) {
        const some = page.items.slice(at, at + REDRIVEN_AT_A_TIME);
        await Promise.all(some.map((id) => deletions.redrive(scope.tenantId, id, { ...by, isByPerson: false })));
        wake(some.length);
      }
      after = page.next;
    }
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
      const {
        counts: removed,
        failedKeys,
        stuck,
        open,
        queued,
      } = await runJobs.removalProgress(scope, order.operationId);
      const counts = toResourceCounts(removed, 'removed');
      const failedItems = failedKeys.map(({ isPermanent: permanent = false, ...item }) => ({ ...item, permanent }));
      const parked = stuck[0];
      if (parked && !isTriedAnew) {
        // The run's deletion retries and parks by its own rules, so its try is a new try for the job.
        isTriedAnew = true;
        await redriveStuck(scope, order);
      } else if (parked) {
        const { deletionId: key, lastError = '' } = parked;
        const permanent = needsPerson(reasonOf(lastError));
        const named = failedItems.length > 0 ? failedItems : [{ key, code: 'STUCK', message: lastError, permanent }];
        const failed = permanent ? named.map((item) => ({ ...item, permanent })) : named;
        return { progress: 'PARTIAL', counts, failedItems: failed, isQueued: false };
      } else if (open === 0) {
        return { progress: more ? 'PARTIAL' : 'COMPLETE', counts, failedItems, isQueued: false };
      }
      if (waited >= WAIT_MS) return { progress: 'PARTIAL', counts, failedItems, isQueued: queued > 0 };
      await sleep(Math.min(pollMs, WAIT_MS - waited));
    }
  };

  return {
    async preview(scope, { blockersOnly = false, ...look } = {}) {
      await refuseForeignStore();
      const { jobs, tasks, artifacts, sampleJobIds, unfinishedJobs } = await runJobs.inspect(scope);
      // The rows are told with the first of several answers.
      const isFirst = look.cursor === undefined;
      let stored: RemovalCounts = isFirst ? { ...NOTHING_REMOVED, tasks, artifacts, jobs } : NOTHING_REMOVED;
      const cursor = blockersOnly
        ? undefined
        : await visitPrefixes(runJobs, scope, look, COUNTED_AT_A_TIME, async (some) => {
            const found = await store.countEach(
              some.map(({ prefix }) => prefix),
              look.signal,
            );
            for (const { versions: objects, ...other } of found) stored = addCounts(stored, { objects, ...other });
          });
      return {
        cursor,
        counts: toResourceCounts(stored, 'found'),
        blockers: (isFirst ? unfinishedJobs : []).map(({ jobId: resourceId, state }) => {
          return { reason: 'JOB_NOT_TERMINAL', resourceType: 'job', resourceId, message: deletionRefusal(state) ?? '' };
        }),
        samples: (isFirst ? sampleJobIds : []).map(toSample),
      };
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

    async verify(scope, rowsOnly, look = {}) {
      const { jobs, sampleJobIds } = look.cursor === undefined ? await runJobs.inspect(scope) : NO_ROWS;
      const samples = [...sampleJobIds];
      let objects = 0;
      let cursor: string | undefined;
      if (!rowsOnly) {
        await refuseForeignStore();
        cursor = await visitPrefixes(runJobs, scope, look, LISTINGS_AT_A_TIME, async (some) => {
          // What is to be gone is looked for prefix by prefix.
          const found = await Promise.all(some.map(({ prefix }) => store.count(prefix, look.signal)));
          for (const [index, { versions, markers, uploads }] of found.entries()) {
            objects += versions + markers + uploads;
            if (versions + markers + uploads > 0) samples.push(some[index]?.jobId ?? '');
          }
        });
      }
      return {
        counts: toResourceCounts({ jobs, objects }, 'found'),
        samples: samples.slice(0, MAX_SAMPLES).map(toSample),
        cursor,
      };
    },
  };
}

const toSample = (resourceId: string): Sample => ({ resourceType: 'job', resourceId });

const orderOf = (
  action: Refusal['action'],
  { tenantId, runId }: RunScope,
  { caller, reason }: RunOperation,
): Omit<Refusal, 'outcome'> => ({ caller, tenantId, action, targetType: 'run', targetId: runId, reason });
