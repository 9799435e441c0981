import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { downloadArtifact, uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import type { Identity, ServiceName, StackClients } from '#deploy/local/stack.ts';
import { type BulkDeletion, BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DriftStatus, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { ArtifactKind, JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { addChecks, addEnvironment, addIncidents, census, less, purge, putPlan, removedBy } from './aged-data.ts';
import { queryOnce } from './postgres.ts';
import { evidenceOf, incidentsOf, makeRunGraph, NOTHING, type RunGraph } from './run-graph.ts';
import { COMPLETE, countTen, inputOf } from './saga-harness.ts';
import { storedFiles } from './stored-files.ts';
import { type TestStack, until } from './test-stack.ts';

// Callers that never pause would leave two cores no time to start and migrate anything.
const PAUSE_MS = 500;

/** What callers do over and over, each time through to its end. */
interface Story {
  readonly title: string;
  /** Throws when a call failed or promised something else than it should. */
  tell(stack: TestStack): Promise<void>;
  /** Once nothing more is told: compares what was promised with what databases and store hold. */
  check(stack: TestStack): Promise<void>;
}

/** Calls that go on until they are stopped. */
export interface Load {
  /** Resolves when each caller has told its story from beginning to end once more; throws as soon as a call has failed. */
  onceMore(): Promise<void>;
  /** Begins no more stories, and lets those that are under way come to their end. */
  stop(): Promise<void>;
  /** Compares what was promised with what is there, after the stop; answers how often each story was told. */
  check(): Promise<Readonly<Record<string, number>>>;
}

/** Tells all stories side by side, through these addresses, as callers outside of the services do. */
export function startLoad(stack: TestStack, addresses: Readonly<Record<ServiceName, string>>): Load {
  const stories = [workflows(), jobs(), runGraphs(), bulkDeletions(), incidents(), agedTenants()];
  const told = new Map<Story, number>(stories.map((story) => [story, 0]));
  const failures: Error[] = [];
  /** When each caller began the story that it told last. */
  const begunAt: number[] = [];
  let isOver = false;

  const repeat = async (story: Story, caller: number, keepsConnections: boolean): Promise<void> => {
    let through = connectThrough(stack, addresses);
    while (!isOver && failures.length === 0) {
      const begins = performance.now();
      try {
        await story.tell(through.stack);
        begunAt[caller] = begins;
        told.set(story, (told.get(story) ?? 0) + 1);
      } catch (cause) {
        failures.push(new Error(`${story.title}: ${cause}`, { cause }));
      }
      await delay(PAUSE_MS);
      if (keepsConnections) continue;
      through.close();
      through = connectThrough(stack, addresses);
    }
    through.close();
  };
  // Of each, one caller that stays connected, and one that comes anew and may reach another process each time.
  const callers = stories.flatMap((story, index) => [
    repeat(story, 2 * index, true),
    repeat(story, 2 * index + 1, false),
  ]);
  const throwFailure = (): void => {
    if (failures[0]) throw failures[0];
  };
  return {
    async onceMore() {
      const since = performance.now();
      const haveAll = () => callers.every((_, caller) => (begunAt[caller] ?? 0) > since);
      await until('each caller has told its story', async () => failures.length > 0 || haveAll(), 120_000);
      throwFailure();
    },
    async stop() {
      isOver = true;
      await Promise.all(callers);
    },
    async check() {
      throwFailure();
      for (const story of stories) await story.check(stack);
      return Object.fromEntries([...told].map(([story, count]) => [story.title, count]));
    },
  };
}

/** The stack as those see it who call its services through other addresses. */
function connectThrough(
  stack: TestStack,
  addresses: Readonly<Record<ServiceName, string>>,
): { stack: TestStack; close(): void } {
  const connections = new Map<ServiceName, Connection>();
  const connectionOf = (name: ServiceName): Connection => {
    const known = connections.get(name);
    if (known) return known;
    const opened = connect({ address: addresses[name], token: () => stack.token({ role: 'platform' }) });
    connections.set(name, opened);
    return opened;
  };
  const clients = (identity: Identity): StackClients => {
    const token = () => stack.token(identity);
    return {
      get runs() {
        return connectionOf('run').client(RunService, token);
      },
      get jobs() {
        return connectionOf('job').client(JobService, token);
      },
      get incidents() {
        return connectionOf('incident').client(IncidentService, token);
      },
      get retention() {
        return connectionOf('retention').client(RetentionService, token);
      },
    };
  };
  return {
    stack: { ...stack, clients },
    close() {
      for (const connection of connections.values()) connection.close();
    },
  };
}

/** Reads a stream to its end, and begins it anew when its server is stopped, as a caller of a stream has to. */
async function toItsEnd<T>(read: () => Promise<T>): Promise<T> {
  for (const deadline = performance.now() + 60_000; ; ) {
    try {
      return await read();
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable || performance.now() > deadline) throw error;
    }
  }
}

function expectSame(what: string, seen: unknown, wanted: unknown): void {
  const [found, promised] = [JSON.stringify(seen), JSON.stringify(wanted)];
  if (found !== promised) throw new Error(`${what}: ${found} instead of ${promised}`);
}

/** Takes turns among its values. */
function inTurn<const T>(...values: readonly [T, ...T[]]): () => T {
  let index = 0;
  return () => values[index++ % values.length] ?? values[0];
}

/** Runs that complete and runs that are compensated, watched to their end. */
function workflows(): Story {
  const tenantId = 'workflows';
  const next = inTurn({}, { force_qc_fail: true }, {}, { force_delivery_fail: true });
  const ended = { completed: 0, compensated: 0 };
  return {
    title: 'a workflow is run and watched',
    async tell({ clients }) {
      const { runs, incidents } = clients({ tenantId, role: 'member' });
      const flags = next();
      const completes = Object.keys(flags).length === 0;
      const { environment } = await incidents.createEnvironment({ displayName: newId() });
      const input = inputOf({ environment_id: environment?.id ?? '', ...flags }) as never;
      const { run } = await runs.startRun({ workflow: 'client_to_delivery', input });
      const state = await toItsEnd(async () => {
        let last = run?.state;
        for await (const update of runs.watchRun({ runId: run?.id ?? '' })) last = update.run?.state;
        return last;
      });
      expectSame(`run ${run?.id}`, state, completes ? RunState.COMPLETED : RunState.COMPENSATED);
      ended[completes ? 'completed' : 'compensated'] += 1;
    },
    async check(stack) {
      const { completed, compensated } = ended;
      const query = <Row>(sql: string, values?: readonly unknown[]) =>
        queryOnce<Row>(stack.superuserUrl('run'), sql, values);
      const rows = await countTen({ query }, tenantId);
      expectSame('rows of workflows', Object.entries(rows).toSorted(), ofEach(COMPLETE, completed));
      const states = await query(
        `select state, count(*)::int as count from workflow_runs where tenant_id = $1 group by state order by state`,
        [tenantId],
      );
      expectSame('runs of workflows', states, [
        { state: 'COMPENSATED', count: compensated },
        { state: 'COMPLETED', count: completed },
      ]);
      const [found] = await queryOnce<{ jobs: number; artifacts: number }>(
        stack.superuserUrl('job'),
        `select (select count(*)::int from jobs where tenant_id = $1) as jobs,
                (select count(*)::int from artifacts where tenant_id = $1) as artifacts`,
        [tenantId],
      );
      const files = await storedFiles(stack, { tenantId, areas: ['objects'] });
      const promised = { jobs: completed, artifacts: completed * 3, files: completed * 3 };
      expectSame(
        'jobs of workflows',
        { jobs: found?.jobs, artifacts: found?.artifacts, files: files.length },
        promised,
      );
    },
  };
}

const ofEach = (counts: Readonly<Record<string, number>>, times: number): [string, number][] =>
  Object.entries(counts)
    .map(([table, count]): [string, number] => [table, count * times])
    .toSorted();

/** Jobs with an artifact that is read back; two of three are deleted. */
function jobs(): Story {
  const tenantId = 'jobs';
  const next = inTurn('delete', 'keep', 'delete');
  const promised = { kept: new Map<string, Buffer>(), deleted: new Map<string, string>() };
  const read = ({ clients }: TestStack, jobId: string): Promise<Buffer> => {
    const { jobs } = clients({ tenantId, role: 'admin' });
    return toItsEnd(() => downloadArtifact(jobs, jobId, ArtifactKind.INPUT, 'a.wav'));
  };
  return {
    title: 'a job is given an artifact and deleted',
    async tell(stack) {
      const { jobs } = stack.clients({ tenantId, role: 'admin' });
      const { job } = await jobs.createJob({ displayName: 'call', taskNames: ['transcribe'] });
      const jobId = job?.id ?? '';
      const content = randomBytes(150_000);
      await uploadArtifact(jobs, jobId, { kind: ArtifactKind.INPUT, name: 'a.wav', contentType: 'audio/wav', content });
      expectSame('an artifact', (await read(stack, jobId)).equals(content), true);
      await jobs.cancelJob({ jobId });
      if (next() === 'keep') {
        promised.kept.set(jobId, content);
      } else {
        const { deletion } = await jobs.deleteJob({ jobId, reason: 'asked for' });
        promised.deleted.set(jobId, deletion?.id ?? '');
      }
    },
    async check(stack) {
      const { kept, deleted } = promised;
      const url = stack.superuserUrl('job');
      await until('the deletions of jobs are over', async () => {
        const open = "select from job_deletions where tenant_id = $1 and state <> 'COMPLETE' limit 1";
        return (await queryOnce(url, open, [tenantId])).length === 0;
      });
      const receipts = await queryOnce<{ id: string }>(url, 'select id from job_deletions where tenant_id = $1', [
        tenantId,
      ]);
      expectSame('receipts', receipts.map(({ id }) => id).toSorted(), [...deleted.values()].toSorted());
      const left = await queryOnce<{ id: string }>(url, 'select id from jobs where tenant_id = $1', [tenantId]);
      expectSame('jobs', left.map(({ id }) => id).toSorted(), [...kept.keys()].toSorted());
      const files = await storedFiles(stack, { tenantId, areas: ['objects'] });
      expectSame('files', files.length, kept.size);
      for (const [jobId, content] of kept) {
        expectSame(`artifact of ${jobId}`, (await read(stack, jobId)).equals(content), true);
      }
    },
  };
}

/** Runs with jobs and incidents that are hidden, brought back, or purged. */
function runGraphs(): Story {
  const tenantId = 'graphs';
  const next = inTurn('purge', 'hide', 'bring back');
  const promised: { graph: RunGraph; end: ReturnType<typeof next> }[] = [];
  return {
    title: 'a run is hidden, brought back or purged',
    async tell(stack) {
      const participants = ['job', 'incident'];
      const graph = await makeRunGraph(stack, tenantId, { objectsPerJob: 1, incidents: 1, participants });
      const { runId } = graph;
      const { runs } = stack.clients({ tenantId, role: 'admin' });
      const end = next();
      if (end === 'purge') {
        const { deletion } = await runs.purgeRun({ runId, reason: 'contract ended' });
        await toItsEnd(async () => {
          for await (const _ of runs.watchDeletion({ deletionId: deletion?.id ?? '' }));
        });
      } else {
        await runs.deleteRun({ runId, reason: 'by mistake' });
        if (end === 'bring back') await runs.undeleteRun({ runId });
      }
      promised.push({ graph, end });
    },
    async check(stack) {
      await until('the deletions of runs are over', async () => {
        const open = "select from deletions where tenant_id = $1 and state not in ('COMPLETE', 'CANCELLED') limit 1";
        return (await queryOnce(stack.superuserUrl('run'), open, [tenantId])).length === 0;
      });
      const whole = { ...NOTHING, runs: 1, steps: 2, jobs: 2, tasks: 2, artifacts: 2, objects: 2 };
      const wanted = {
        purge: NOTHING,
        hide: { ...whole, hiddenRuns: 1, hiddenSteps: 2, hiddenJobs: 2 },
        'bring back': whole,
      };
      for (const { graph, end } of promised) {
        const seen = await evidenceOf(stack, graph);
        // An object is two files in the file store: its bytes and its media type.
        expectSame(`${end} of run ${graph.runId}`, { ...seen, objects: seen.objects / 2 }, wanted[end]);
        const { shells, payloads } = await incidentsOf(stack, graph);
        expectSame(`incident, ${end}`, { shells, payloads }, { shells: 1, payloads: end === 'purge' ? 0 : 1 });
      }
    },
  };
}

/** Tenants of which all runs are purged by one order, and then all jobs. */
function bulkDeletions(): Story {
  const promised: RunGraph[] = [];
  let count = 0;
  return {
    title: 'runs and jobs are deleted by a filter',
    async tell(stack) {
      count += 1;
      const tenantId = `bulk-${count}`;
      const { runs, jobs } = stack.clients({ tenantId, role: 'admin' });
      const size = { steps: 1, jobs: 1, objectsPerJob: 1 };
      promised.push(await makeRunGraph(stack, tenantId, size), await makeRunGraph(stack, tenantId, size));
      const { job } = await jobs.createJob({ displayName: 'call', taskNames: ['transcribe'] });
      await jobs.cancelJob({ jobId: job?.id ?? '' });
      const reason = 'contract ended';
      const ofRuns = await runs.purgeRuns({ filter: { states: [RunState.COMPLETED] }, reason });
      const runsEnd = await endOf(() => runs.watchBulkDeletion({ bulkDeletionId: ofRuns.bulkDeletion?.id ?? '' }));
      const ofJobs = await jobs.deleteJobs({ filter: { states: [JobState.CANCELLED] }, reason });
      const jobsEnd = await endOf(() => jobs.watchBulkDeletion({ bulkDeletionId: ofJobs.bulkDeletion?.id ?? '' }));
      expectSame(
        `bulk deletions of ${tenantId}`,
        [runsEnd, jobsEnd].map((bulk) => [bulk?.state, Number(bulk?.counts?.completed)]),
        [
          [BulkDeletionState.COMPLETE, 2],
          [BulkDeletionState.COMPLETE, 1],
        ],
      );
    },
    async check(stack) {
      for (const graph of promised) expectSame(`run ${graph.runId}`, await evidenceOf(stack, graph), NOTHING);
      const left = await queryOnce(stack.superuserUrl('job'), "select id from jobs where tenant_id like 'bulk-%'");
      expectSame('jobs of bulk deletions', left, []);
    },
  };
}

/** What a watch of a bulk deletion tells last. */
const endOf = (
  watch: () => AsyncIterable<{ readonly bulkDeletion?: BulkDeletion | undefined }>,
): Promise<BulkDeletion | undefined> =>
  toItsEnd(async () => {
    let last: BulkDeletion | undefined;
    for await (const { bulkDeletion } of watch()) last = bulkDeletion;
    return last;
  });

/** Drift that becomes an incident, which somebody takes. */
function incidents(): Story {
  const tenantId = 'incidents';
  let count = 0;
  return {
    title: 'drift is recorded and its incident taken',
    async tell({ clients }) {
      const { incidents } = clients({ tenantId, role: 'admin' });
      const { environment } = await incidents.createEnvironment({ displayName: newId() });
      const environmentId = environment?.id ?? '';
      const { driftCheck } = await incidents.recordDriftCheck({ environmentId, status: DriftStatus.DRIFT });
      const { incident } = await incidents.openIncident({
        environmentId,
        driftCheckId: driftCheck?.id ?? '',
        title: 'drift',
        driftSummary: { lines: 3 },
      });
      await incidents.transitionIncident({ incidentId: incident?.id ?? '', state: IncidentState.ACKNOWLEDGED });
      count += 1;
    },
    async check(stack) {
      const [found] = await queryOnce(
        stack.superuserUrl('incident'),
        `select (select count(*)::int from environments where tenant_id = $1) as environments,
                (select count(*)::int from drift_checks where tenant_id = $1) as checks,
                (select count(*)::int from incidents where tenant_id = $1 and state = 'ACKNOWLEDGED') as taken,
                (select count(*)::int from incident_payloads where tenant_id = $1) as payloads`,
        [tenantId],
      );
      expectSame('incidents', found, { environments: count, checks: count, taken: count, payloads: count });
    },
  };
}

/** Tenants whose old data is purged by age, each row counted once. */
function agedTenants(): Story {
  const gone = { drift_check: 100, drift_check_workflow: 200, incident_payload: 1, approval: 1 };
  let count = 0;
  return {
    title: "a tenant's old data is purged by age",
    async tell(stack) {
      count += 1;
      const tenantId = `aged-${count}`;
      await putPlan(stack, tenantId, 'PRO');
      const environmentId = await addEnvironment(stack, tenantId);
      await addChecks(stack, tenantId, environmentId, [...Array(gone.drift_check).fill('31 days'), '1 day']);
      await addIncidents(stack, tenantId, environmentId, [
        { state: 'CLOSED', age: '181 days' },
        { state: 'RECONCILED', age: '181 days' },
      ]);
      await queryOnce(
        stack.superuserUrl('run'),
        `insert into executions (tenant_id, workflow, started_at)
         select $1, 'seeded', now() - days * interval '1 day' from unnest(array_fill(1, array[5]) || array_fill(40, array[50])) days`,
        [tenantId],
      );
      await queryOnce(
        stack.superuserUrl('retention'),
        `insert into execution_retention_policies (tenant_id, retention_days, min_executions_to_keep) values ($1, 30, 7)`,
        [tenantId],
      );
      const before = await census(stack, tenantId);
      const request = { tenantIds: [tenantId], requestId: newId() };
      const { summary, items } = await toItsEnd(() => purge(stack, request));
      expectSame(`purge of ${tenantId} (${items[0]?.error})`, summary.state, PurgeState.COMPLETE);
      expectSame(`rows of ${tenantId}`, less(before, await census(stack, tenantId)), gone);
      const types = [...Object.keys(gone), 'execution'];
      expectSame(`receipt of ${tenantId}`, removedBy(summary.resourceCounts, types), { ...gone, execution: 48 });
    },
    async check(stack) {
      const left = await queryOnce(
        stack.superuserUrl('run'),
        `select tenant_id from executions where tenant_id like 'aged-%' group by tenant_id having count(*) <> 7`,
      );
      expectSame('executions', left, []);
    },
  };
}
