import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { PurgeItemState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { putPlan } from '#test/support/aged-data.ts';
import { inputOf } from '#test/support/saga-harness.ts';
import { until } from '#test/support/test-stack.ts';
import { FAULTS } from './faults.ts';
import type { Ground } from './ground.ts';

/** What came of a storm. */
export interface Weathered {
  /** How many sessions were ended, one at a time. */
  readonly sessions: number;
  /** How often each service's work was accepted; all of it has ended as it should. */
  readonly accepted: Readonly<Record<ServiceName, number>>;
  /** Seconds from the end of the storm until all work of a service had ended. */
  readonly seconds: Readonly<Record<ServiceName, number>>;
  /** What was not as it should be, as sentences. */
  readonly findings: readonly string[];
}

const TENANT = 'storm';
const PAUSE_MS = 150;
// What was tried in vain waits longer each time before it is tried again.
const PATIENCE_MS = 180_000;
const RESTART = 'it is shut down, and started again';
const READ_ONLY = 'it is read-only';
const SPELLS = [RESTART, READ_ONLY, RESTART, READ_ONLY, RESTART, READ_ONLY, RESTART, RESTART];

/**
 * Ends sessions of every service's database at random, one after another, while the server is shut down and started five
 * times and is read-only three times, under callers that try again; then waits until all that they were told was
 * accepted has ended.
 */
export async function weatherStorm(ground: Ground, forSeconds: number, random: () => number): Promise<Weathered> {
  const { stack } = ground;
  const findings: string[] = [];
  const pids = SERVICE_NAMES.map((name) => stack.pid(name));
  const callers = await makeCallers(ground);
  const ends: Record<ServiceName, (() => Promise<boolean>)[]> = { run: [], job: [], incident: [], retention: [] };
  let isOver = false;
  let sessions = 0;

  const endSessions = async (): Promise<void> => {
    while (!isOver) {
      const name = SERVICE_NAMES[Math.floor(random() * SERVICE_NAMES.length)];
      // One of those that there are; in a moment without a server there is none.
      const ended = await ground
        .sql<object>(
          'run',
          `select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 order by md5(pid || $2) limit 1`,
          [`lethe-${name}`, String(random())],
        )
        .catch(() => []);
      sessions += ended.length;
      await delay(20 + 180 * random());
    }
  };
  const call = async (name: ServiceName): Promise<void> => {
    while (!isOver) {
      try {
        ends[name].push(await callers[name]());
      } catch (error) {
        findings.push(`a call of ${name}: ${error}`);
      }
      await delay(PAUSE_MS);
    }
  };
  const storm = [endSessions(), ...SERVICE_NAMES.map(call)];
  for (const spell of SPELLS) {
    const fault = FAULTS.find(({ name }) => name === spell);
    const halfMs = (forSeconds * 1_000) / SPELLS.length / 2;
    await delay(halfMs);
    await fault?.apply(ground);
    await delay(spell === READ_ONLY ? halfMs : 0);
    await fault?.undo(ground);
  }
  isOver = true;
  await Promise.all(storm);
  const endedAt = performance.now();
  const seconds = { run: 0, job: 0, incident: 0, retention: 0 };
  await Promise.all(
    SERVICE_NAMES.map(async (name, index) => {
      for (const isDone of ends[name])
        await until('it ends', isDone, PATIENCE_MS).catch((error: Error) =>
          findings.push(`work of ${name}: ${error.message}`),
        );
      seconds[name] = Math.round(performance.now() - endedAt) / 1_000;
      if (stack.pid(name) !== pids[index]) findings.push(`${name} was started anew`);
    }),
  );
  const accepted = Object.fromEntries(SERVICE_NAMES.map((name) => [name, ends[name].length]));
  return { sessions, accepted: accepted as Record<ServiceName, number>, seconds, findings };
}

/** Of each service, what has it take on a piece of work, and then tells whether that is done. */
async function makeCallers({ stack }: Ground): Promise<Record<ServiceName, () => Promise<() => Promise<boolean>>>> {
  const { runs, jobs, incidents } = stack.clients({ tenantId: TENANT, role: 'admin' });
  const { retention } = stack.clients({ role: 'platform' });
  await putPlan(stack, TENANT, 'PRO');
  const { environment } = await incidents.createEnvironment({ displayName: 'production' });
  const environmentId = environment?.id ?? '';
  const reason = 'asked for';
  return {
    async run() {
      const request = { workflow: 'client_to_delivery', input: inputOf({ environment_id: environmentId }) };
      const { run } = await again((requestId) => runs.startRun({ ...request, requestId } as never));
      return async () => (await runs.getRun({ runId: run?.id ?? '' })).run?.state === RunState.COMPLETED;
    },
    async job() {
      const { job } = await again((requestId) => jobs.createJob({ requestId }));
      const jobId = job?.id ?? '';
      await again(() => jobs.cancelJob({ jobId }));
      const { deletion } = await again((requestId) => jobs.deleteJob({ jobId, reason, requestId }));
      const deletionId = deletion?.id ?? '';
      return async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE;
    },
    async incident() {
      const check = { environmentId, status: DriftStatus.IN_SYNC };
      const { driftCheck } = await again((requestId) => incidents.recordDriftCheck({ ...check, requestId }));
      const driftCheckId = driftCheck?.id ?? '';
      return async () => (await incidents.getDriftCheck({ driftCheckId })).driftCheck?.id === driftCheckId;
    },
    async retention() {
      const purgeId = await again(async (requestId) => {
        for await (const { event } of retention.purge({ tenantIds: [TENANT], reason, requestId }))
          if (event.case === 'started') return event.value.purge?.id ?? '';
        throw new Error('a purge does not begin with its start');
      });
      // While one is under way, the next leaves the tenant to it.
      const over: readonly PurgeItemState[] = [PurgeItemState.COMPLETE, PurgeItemState.SKIPPED];
      return async () => {
        const [item] = (await retention.getPurge({ purgeId })).items;
        return item !== undefined && over.includes(item.state);
      };
    },
  };
}

/** Calls until it is answered, as the same request, while the answer is that it may be tried again. */
async function again<T>(call: (requestId: string) => Promise<T>): Promise<T> {
  const requestId = newId();
  for (const deadline = performance.now() + 60_000; ; ) {
    try {
      return await call(requestId);
    } catch (error) {
      const { code } = ConnectError.from(error);
      if ((code !== Code.Unavailable && code !== Code.Aborted) || performance.now() > deadline) throw error;
      await delay(PAUSE_MS);
    }
  }
}
