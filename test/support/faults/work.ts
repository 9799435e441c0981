import pg from 'pg';
import type { ServiceName } from '#deploy/local/stack.ts';
import { BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { PurgeItemState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { addChecks, addEnvironment, putPlan, rowsOf } from '#test/support/aged-data.ts';
import { incidentsOf, makeRunGraph, type RunGraph } from '#test/support/run-graph.ts';
import { until } from '#test/support/test-stack.ts';
import { type Ground, outcomeOf } from './ground.ts';

/** Long work of every service that stands in its middle, and those who watch it. */
export interface Work {
  /** Lets it go on. */
  release(): Promise<void>;
  /** Whether the service's part has ended as it should. */
  readonly isDone: Readonly<Record<ServiceName, () => Promise<boolean>>>;
  /** How the watch that was begun before the fault has ended, as `outcomeOf` tells; pending while it goes on. */
  readonly watches: Readonly<Record<Watched, Promise<string>>>;
  /** Sets parked work going again. */
  redrive(): Promise<void>;
}

/** The services that have watches. */
export type Watched = Exclude<ServiceName, 'incident'>;

/** What is called, done and watched of each service, for people. */
export const WORKS: Readonly<Record<ServiceName, readonly [read: string, write: string, long: string, watch: string]>> =
  {
    run: ['ListRuns', 'CreateRun', 'PurgeRun: a run with a job, an object and an incident', 'WatchDeletion'],
    job: ['ListJobs', 'CreateJob', 'DeleteJobs: a job with an object', 'WatchBulkDeletion'],
    incident: ['ListEnvironments', 'CreateEnvironment', 'its part of PurgeRun and of Purge', 'it has none'],
    retention: ['ListExecutionPolicies', 'UpsertExecutionPolicy', 'Purge: checks past their age', 'Purge'],
  };

/** Begins it in tenants of its own; resolves when IncidentService and JobService are in the middle of it. */
export async function beginWork({ stack }: Pick<Ground, 'stack'>, tenantId: string): Promise<Work> {
  const jobTenant = `${tenantId}-jobs`;
  const size = { steps: 1, jobs: 1, objectsPerJob: 1, incidents: 1, participants: ['job', 'incident'] };
  const [graph] = await Promise.all([
    makeRunGraph(stack, tenantId, size),
    makeRunGraph(stack, jobTenant, { ...size, incidents: 0, isFinished: false }),
    putPlan(stack, tenantId, 'PRO'),
    addChecks(stack, tenantId, await addEnvironment(stack, tenantId), ['31 days', '1 day']),
  ]);
  const held = await Promise.all([
    holdRows(stack.superuserUrl('job'), 'select from jobs where tenant_id = any($1) for update', [tenantId, jobTenant]),
    holdRows(stack.superuserUrl('incident'), 'select from drift_checks where tenant_id = any($1) for update', [
      tenantId,
    ]),
  ]);
  try {
    return await orderWork(stack, { tenantId, jobTenant }, graph, held);
  } catch (error) {
    // Left open, they would hold up every purge that follows: one waits while a snapshot is old.
    await releaseAll(held);
    throw error;
  }
}

async function orderWork(
  stack: Ground['stack'],
  { tenantId, jobTenant }: { readonly tenantId: string; readonly jobTenant: string },
  graph: RunGraph,
  held: readonly HeldRows[],
): Promise<Work> {
  const { runs } = stack.clients({ tenantId, role: 'admin' });
  const { jobs } = stack.clients({ tenantId: jobTenant, role: 'admin' });
  const { retention } = stack.clients({ role: 'platform' });
  // The watch is the order: who is watching a purge from its begin has made it.
  const purging = retention.purge({ tenantIds: [tenantId], reason: 'asked for' })[Symbol.asyncIterator]();
  const [{ deletion }, { bulkDeletion }, begun] = await Promise.all([
    runs.purgeRun({ runId: graph.runId, reason: 'asked for' }),
    jobs.deleteJobs({ filter: { states: [JobState.CANCELLED] }, reason: 'asked for', requestId: newId() }),
    purging.next(),
  ]);
  const deletionId = deletion?.id ?? '';
  const bulkDeletionId = bulkDeletion?.id ?? '';
  const purgeId = begun.value.event.case === 'started' ? (begun.value.event.value.purge?.id ?? '') : '';
  const isRunDone = async () => (await runs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE;
  const isBulkDone = async () =>
    (await jobs.getBulkDeletion({ bulkDeletionId })).bulkDeletion?.state === BulkDeletionState.COMPLETE;
  const isPurgeDone = async () => (await retention.getPurge({ purgeId })).items[0]?.state === PurgeItemState.COMPLETE;
  await Promise.all(held.map(({ isAwaited }) => until('the work is in its middle', isAwaited)));
  const [run, job] = await Promise.all([
    beginWatch(runs.watchDeletion({ deletionId })),
    beginWatch(jobs.watchBulkDeletion({ bulkDeletionId })),
  ]);
  return {
    release: () => releaseAll(held),
    isDone: {
      run: isRunDone,
      job: isBulkDone,
      incident: async () =>
        (await incidentsOf(stack, graph)).payloads === 0 && (await rowsOf(stack, 'drift_checks', tenantId)) === 1,
      retention: isPurgeDone,
    },
    watches: {
      run: watched(run),
      job: watched(job),
      retention: watched({ [Symbol.asyncIterator]: () => purging }),
    },
    async redrive() {
      await runs.redriveDeletion({ deletionId, reason: 'mended' }).catch(() => undefined);
      const { deletions } = await jobs.listDeletions({ state: DeletionState.STUCK });
      for (const { id } of deletions) await jobs.redriveDeletion({ deletionId: id, reason: 'mended' });
    },
  };
}

/** A watch that has told something: one that has not is begun anew by the client, and then it was not there before. */
async function beginWatch(messages: AsyncIterable<unknown>): Promise<AsyncIterable<unknown>> {
  const watching = messages[Symbol.asyncIterator]();
  await watching.next();
  return { [Symbol.asyncIterator]: () => watching };
}

const watched = (messages: AsyncIterable<unknown>): Promise<string> =>
  outcomeOf(
    (async () => {
      for await (const _ of messages);
    })(),
  );

interface HeldRows {
  /** Whether a session waits for them. */
  isAwaited(): Promise<boolean>;
  release(): Promise<void>;
}

const releaseAll = async (held: readonly HeldRows[]): Promise<void> => {
  await Promise.all(held.map(({ release }) => release()));
};

/** Locks rows until they are released, or the server ends the session. */
async function holdRows(url: string, sql: string, tenantIds: readonly string[]): Promise<HeldRows> {
  const client = new pg.Client(url);
  client.on('error', () => undefined);
  await client.connect();
  await client.query('begin');
  await client.query(sql, [tenantIds]);
  const watch = new pg.Client(url);
  watch.on('error', () => undefined);
  await watch.connect();
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
  return {
    isAwaited: async () => {
      const blocked = 'select from pg_stat_activity where $1 = any(pg_blocking_pids(pid))';
      return ((await watch.query(blocked, [rows[0]?.pid])).rowCount ?? 0) > 0;
    },
    async release() {
      await Promise.allSettled([client.end(), watch.end()]);
    },
  };
}
