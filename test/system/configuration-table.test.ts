import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import anyTest, { type TestFn } from 'ava';
import type pg from 'pg';
import { runToEnd } from '#deploy/local/service-process.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { type UploadArtifactRequest, UploadArtifactRequestSchema } from '#gen/lethe/job/v1/job_service_pb.ts';
import { makeKeyPair } from '#libs/auth/keys.ts';
import { newId } from '#libs/kernel/id.ts';
import { provisionDatabase } from '#libs/postgres/provision.ts';
import { MARKER_KEY } from '#services/job/use-cases/check-store.ts';
import { addChecks, addEnvironment, purge, putPlan, rowsOf } from '#test/support/aged-data.ts';
import { type ForeignParticipant, startForeignParticipant } from '#test/support/foreign-participant.ts';
import { type MemoryOwner, startMemoryOwner } from '#test/support/memory-owner.ts';
import { holdRows, queryOnce } from '#test/support/postgres.ts';
import { bundleOf } from '#test/support/programs.ts';
import { evidenceOf, incidentsOf, makeRunGraph, type RunGraph } from '#test/support/run-graph.ts';
import { storedFiles } from '#test/support/stored-files.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

// Changes of configuration in the middle of every kind of work, on one stack that each test leaves as it was.

interface Context {
  readonly stack: TestStack;
  readonly notes: ForeignParticipant;
  readonly desk: MemoryOwner;
  /** URLs of databases that are migrated and empty. */
  readonly others: Readonly<Record<'run' | 'job' | 'incident' | 'retention', string>>;
}

const test = anyTest as TestFn<Context>;

/** What a piece of work came to: whether it says that it is done, and its reason where it does not. */
interface Outcome {
  readonly isComplete: boolean;
  readonly reason: string;
  /** Whether it stands until it is redriven. */
  readonly isParked?: boolean;
}

/** A piece of work that stands still in its middle. */
interface Standing {
  /** Lets it go on; resolves at once. */
  release(): Promise<void>;
  /** What it has come to; undefined while something still happens to it. */
  read(): Promise<Outcome | undefined>;
  /** What its being complete means, by hand-written SQL and a listing: throws or fails the test otherwise. */
  check(): Promise<readonly unknown[]>;
  /** The reason with which the service that keeps it refuses to tell of it; undefined where it tells. */
  ask?(): Promise<string | undefined>;
  /** Sets it going again after the fault is over. */
  resume(): Promise<void>;
}

type Begin = (context: Context, tenantId: string) => Promise<Standing>;

const query = <T extends object>(
  stack: TestStack,
  service: 'run' | 'job' | 'incident' | 'retention',
  sql: string,
  values: unknown[],
) => queryOnce<T & pg.QueryResultRow>(stack.superuserUrl(service), sql, values);

/** Locks rows until it is released. */
const lock = (stack: TestStack, service: 'job' | 'incident', sql: string, values: unknown[]) =>
  holdRows(stack.superuserUrl(service), sql, values);

const graphOf = (stack: TestStack, tenantId: string, isFinished: boolean) =>
  makeRunGraph(stack, tenantId, {
    steps: 1,
    jobs: 1,
    objectsPerJob: 2,
    incidents: 1,
    isFinished,
    participants: ['job', 'incident'],
  });

const holdJobs = (stack: TestStack, tenantId: string) =>
  lock(stack, 'job', 'select from jobs where tenant_id = $1 for update', [tenantId]);

/** Whether a deletion waits for its store and tries again by itself; it is not parked. */
const waitsForStore = (lastError: string | null): boolean => lastError?.startsWith('STORE_NOT_OURS') ?? false;

/** Why a call is refused. */
const reasonOf = (call: Promise<unknown>): Promise<string | undefined> =>
  call.then(
    () => undefined,
    async () => (await refusalOf(call)).reason,
  );

/** A deletion of a run that stands in JobService. */
const runDeletion =
  (mode: 'SOFT_DELETE' | 'PURGE'): Begin =>
  async ({ stack }, tenantId) => {
    const graph = await graphOf(stack, tenantId, true);
    const { runs } = stack.clients({ tenantId, role: 'admin' });
    const held = await holdJobs(stack, tenantId);
    const request = { runId: graph.runId, reason: 'asked for' };
    const { deletion } = await (mode === 'PURGE' ? runs.purgeRun(request) : runs.deleteRun(request));
    const deletionId = deletion?.id ?? '';
    await until('JobService is in the middle of it', held.isAwaited);
    return {
      release: held.release,
      async read() {
        const sql = 'select state, last_error from deletions where tenant_id = $1 and id = $2';
        const [row] = await query<{ state: string; last_error: string | null }>(stack, 'run', sql, [
          tenantId,
          deletionId,
        ]);
        if (!row || !(['COMPLETE', 'STUCK', 'CANCELLED'].includes(row.state) || waitsForStore(row.last_error)))
          return undefined;
        const isParked = row.state === 'STUCK';
        return { isComplete: row.state === 'COMPLETE', reason: row.last_error ?? '', isParked };
      },
      check: () => (mode === 'PURGE' ? leftOf(stack, graph) : shownOf(stack, graph)),
      ask: () => reasonOf(runs.getDeletion({ deletionId })),
      resume: async () => void (await runs.redriveDeletion({ deletionId })),
    };
  };

/** What a purge of the run should have taken and has not. */
async function leftOf(stack: TestStack, graph: RunGraph): Promise<readonly unknown[]> {
  const { runs, steps, jobs, tasks, artifacts, objects } = await evidenceOf(stack, graph);
  const { payloads } = await incidentsOf(stack, graph);
  return Object.entries({ runs, steps, jobs, tasks, artifacts, objects, payloads }).filter(([, count]) => count > 0);
}

/** What a soft delete of the run should have hidden and has not. */
async function shownOf(stack: TestStack, graph: RunGraph): Promise<readonly unknown[]> {
  const { runs, hiddenRuns, steps, hiddenSteps, jobs, hiddenJobs, objects } = await evidenceOf(stack, graph);
  const shown = { runs: runs - hiddenRuns, steps: steps - hiddenSteps, jobs: jobs - hiddenJobs, lost: 4 - objects };
  return Object.entries(shown).filter(([, count]) => count > 0);
}

/** A compensation that stands in JobService. */
const compensation: Begin = async ({ stack }, tenantId) => {
  const graph = await graphOf(stack, tenantId, false);
  const { runId } = graph;
  const { runs } = stack.clients({ tenantId, role: 'admin' });
  const held = await holdJobs(stack, tenantId);
  await runs.failRun({ runId, error: 'broke' });
  await until('JobService is in the middle of it', held.isAwaited);
  return {
    release: held.release,
    async read() {
      const sql = 'select state, parked_reason from workflow_runs where tenant_id = $1 and id = $2';
      const [row] = await query<{ state: string; parked_reason: string | null }>(stack, 'run', sql, [tenantId, runId]);
      if (!row || !['COMPENSATED', 'FAILED'].includes(row.state)) return undefined;
      return { isComplete: row.state === 'COMPENSATED', reason: row.parked_reason ?? '' };
    },
    async check() {
      const { jobs, tasks, artifacts, objects } = await evidenceOf(stack, graph);
      const { payloads } = await incidentsOf(stack, graph);
      return Object.entries({ jobs, tasks, artifacts, objects, payloads }).filter(([, count]) => count > 0);
    },
    ask: () => reasonOf(runs.getRun({ runId })),
    resume: async () => void (await runs.retryRun({ runId })),
  };
};

/** A deletion of a job that has been claimed and has not come to its objects yet. */
const jobDeletion: Begin = async ({ stack }, tenantId) => {
  const { jobs } = stack.clients({ tenantId, role: 'admin' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  for (const name of ['a', 'b']) await jobs.uploadArtifact(parts(jobId, name));
  await jobs.cancelJob({ jobId });
  // No row of its own to wait for: it looks at the index first. Everybody else of the service waits as well.
  const held = await lock(stack, 'job', 'lock table artifacts in access exclusive mode', []);
  const deletionId = (await jobs.deleteJob({ jobId })).deletion?.id ?? '';
  await until('it is claimed', held.isAwaited);
  return {
    release: held.release,
    async read() {
      const sql = 'select state, last_error from job_deletions where tenant_id = $1 and id = $2';
      const [row] = await query<{ state: string; last_error: string | null }>(stack, 'job', sql, [
        tenantId,
        deletionId,
      ]);
      const isParked = row?.state === 'STUCK';
      if (!row || !(isParked || row.state === 'COMPLETE' || waitsForStore(row.last_error))) return undefined;
      return { isComplete: row.state === 'COMPLETE', reason: row.last_error ?? '', isParked };
    },
    check: async () => [
      ...(await storedFiles(stack, { tenantId })),
      ...(await query(stack, 'job', 'select id from jobs where tenant_id = $1', [tenantId])),
    ],
    resume: async () => void (await jobs.redriveDeletion({ deletionId })),
  };
};

const CONTENT = Buffer.alloc(5_000, 'sound; ');

async function* parts(jobId: string, name: string, pause?: Promise<void>): AsyncIterable<UploadArtifactRequest> {
  const header = { jobId, kind: ArtifactKind.INPUT, name, contentType: 'audio/wav' };
  yield create(UploadArtifactRequestSchema, { part: { case: 'header', value: header } });
  yield create(UploadArtifactRequestSchema, { part: { case: 'chunk', value: CONTENT.subarray(0, 2_000) } });
  await pause;
  yield create(UploadArtifactRequestSchema, { part: { case: 'chunk', value: CONTENT.subarray(2_000) } });
}

/** An upload of which the first part has been stored. */
const upload: Begin = async ({ stack }, tenantId) => {
  const { jobs } = stack.clients({ tenantId, role: 'admin' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  let goOn = (): void => undefined;
  const pause = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  let outcome: Outcome | undefined;
  const send = async (waitsFor?: Promise<void>) => {
    outcome = undefined;
    const call = jobs.uploadArtifact(parts(jobId, 'call.wav', waitsFor));
    outcome = await call.then(
      () => ({ isComplete: true, reason: '' }),
      async () => {
        const { reason, message } = await refusalOf(call);
        return { isComplete: false, reason: reason ? `${reason}: ${message}` : `UNAVAILABLE: ${message}` };
      },
    );
  };
  void send(pause);
  const files = () => storedFiles(stack, { tenantId });
  await until('its first part is there', async () => (await files()).length > 0);
  return {
    release: async () => goOn(),
    read: async () => outcome,
    async check() {
      const rows = await query<{ bytes: number }>(stack, 'job', 'select bytes from artifacts where tenant_id = $1', [
        tenantId,
      ]);
      const isWhole = rows.length === 1 && Number(rows[0]?.bytes) === CONTENT.length;
      await until('nothing is under way', async () => {
        const open = await query(stack, 'job', 'select from artifact_uploads where tenant_id = $1', [tenantId]);
        return open.length === 0;
      });
      // The object and its media type.
      return isWhole && (await files()).length === 2 ? [] : [rows, await files()];
    },
    resume: async () => void send(),
  };
};

/** Executions of a tenant that its policy keeps for a month: some that are older, and one that is not. */
async function addExecutions(stack: TestStack, tenantId: string): Promise<void> {
  const { runs, retention } = stack.clients({ tenantId, role: 'admin' });
  await retention.upsertExecutionPolicy({ retentionDays: 30, minExecutionsToKeep: 0n });
  const ids = Array.from({ length: 4 }, () => newId());
  await runs.recordExecutions({ executions: ids.map((id) => ({ id, workflow: 'call', status: 'done' })) });
  const old = "update executions set started_at = now() - interval '31 days' where tenant_id = $1 and id = any($2)";
  await query(stack, 'run', old, [tenantId, ids.slice(1)]);
}

/**
 * A retention purge of a tenant: of what IncidentService holds the first batch is gone and the second waits, and what
 * RunService holds comes after that.
 */
const retentionPurge: Begin = async ({ stack }, tenantId) => {
  const expired = 1_500;
  await addExecutions(stack, tenantId);
  const environmentId = await addEnvironment(stack, tenantId);
  await putPlan(stack, tenantId, 'PRO');
  await addChecks(stack, tenantId, environmentId, [...Array(expired).fill('31 days'), '1 day']);
  const held = await lock(
    stack,
    'incident',
    `select from drift_checks where tenant_id = $1 and id = (
       select id from drift_checks where tenant_id = $1 order by checked_at, id offset 1200 limit 1) for update`,
    [tenantId],
  );
  const platform = stack.clients({ role: 'platform' }).retention;
  let purgeId = (await platform.purgeNow({ tenantId, reason: 'asked for' })).purge?.id ?? '';
  await until('IncidentService is in the middle of it', held.isAwaited);
  const checks = () => rowsOf(stack, 'drift_checks', tenantId);
  const executions = () => query(stack, 'run', 'select from executions where tenant_id = $1', [tenantId]);
  let planned = 1;
  return {
    release: held.release,
    async read() {
      const sql = 'select state, error, plan from retention_purge_items where tenant_id = $1 and purge_id = $2';
      const [row] = await query<{ state: string; error: string | null; plan: string }>(stack, 'retention', sql, [
        tenantId,
        purgeId,
      ]);
      if (!row || ['PENDING', 'RUNNING'].includes(row.state)) return undefined;
      // What is older than the plan keeps; a plan that keeps more leaves the rest.
      planned = row.plan === 'ENTERPRISE' ? await checks() : 1;
      return { isComplete: row.state === 'COMPLETE', reason: row.error ?? '' };
    },
    async check() {
      const left = { checks: await checks(), executions: (await executions()).length };
      return left.checks === planned && left.executions === 1 ? [] : [left];
    },
    ask: () => reasonOf(platform.getPurge({ purgeId })),
    async resume() {
      purgeId = (await purge(stack, { tenantIds: [tenantId] })).summary.id;
    },
  };
};

const WORK = {
  'soft delete of a run': runDeletion('SOFT_DELETE'),
  'purge of a run': runDeletion('PURGE'),
  compensation,
  'retention purge': retentionPurge,
  upload,
  // Last: while it stands, JobService reads no artifact.
  'deletion of a job': jobDeletion,
} as const satisfies Record<string, Begin>;

type WorkName = keyof typeof WORK;

/**
 * `ends`, or what its reason looks like where it is not complete, or with which reason the service that keeps it denies
 * it while it stands still, or why the two have nothing to do with each other.
 */
type Cell = 'ends' | RegExp | { readonly denied: string } | { readonly none: string };

interface Fault {
  readonly apply: (context: Context, tenantOf: (work: WorkName) => string) => Promise<void>;
  readonly undo: (context: Context) => Promise<void>;
  readonly cells: Readonly<Record<WorkName, Cell>>;
}

const NO_PEERS = { none: 'JobService calls no other service for it' };
const NO_PLAN = { none: 'plans are about what ages' };
const NO_CEILING = { none: 'a person names the one run or job that goes' };

const restart =
  (
    ...changes: readonly (readonly [
      'run' | 'job' | 'incident' | 'retention',
      (context: Context) => Readonly<Record<string, string>>,
    ])[]
  ) =>
  async (context: Context) => {
    await Promise.all(
      changes.map(async ([service, envOf]) => {
        // As a power cut would: a drain would wait for the work that stands.
        const pid = context.stack.pid(service);
        if (pid !== undefined) process.kill(pid, 'SIGKILL');
        await context.stack.restart(service, envOf(context));
      }),
    );
  };
const asBefore = () => ({});
const trustFileOf = (stack: TestStack) => join(stack.folder, 'keys', 'trust.json');

const FAULTS: Readonly<Record<string, Fault>> = {
  'participants and owners removed': {
    apply: restart(
      ['run', ({ stack: { addresses } }) => ({ LETHE_PARTICIPANTS: `incident=${addresses.incident}` })],
      ['retention', ({ stack: { addresses } }) => ({ LETHE_RETENTION_OWNERS: `run=${addresses.run}` })],
    ),
    undo: restart(['run', asBefore], ['retention', asBefore]),
    cells: {
      'soft delete of a run': /^PARTICIPANT_UNKNOWN: .*job/,
      'purge of a run': /^PARTICIPANT_UNKNOWN: .*job/,
      compensation: /^PARTICIPANT_UNKNOWN: .*job/,
      'retention purge': /^OWNER_UNKNOWN: .*incident/,
      upload: NO_PEERS,
      'deletion of a job': NO_PEERS,
    },
  },
  'participants and owners added': {
    apply: restart(
      [
        'run',
        ({ stack, notes }) => ({
          LETHE_PARTICIPANTS: `notes=${notes.address},${stack.environment('run')['LETHE_PARTICIPANTS']}`,
        }),
      ],
      [
        'retention',
        ({ stack, desk }) => ({
          LETHE_RETENTION_OWNERS: `desk=${desk.address},${stack.environment('retention')['LETHE_RETENTION_OWNERS']}`,
        }),
      ],
    ),
    async undo(context) {
      await restart(['run', asBefore], ['retention', asBefore])(context);
      const { runs } = context.stack.clients({ role: 'platform' });
      await runs.retireParticipant({ name: 'notes', reason: 'test over' });
    },
    cells: {
      'soft delete of a run': 'ends',
      'purge of a run': 'ends',
      compensation: 'ends',
      'retention purge': 'ends',
      upload: NO_PEERS,
      'deletion of a job': NO_PEERS,
    },
  },
  'participants and owners reordered': {
    apply: restart(
      [
        'run',
        ({ stack: { addresses } }) => ({ LETHE_PARTICIPANTS: `incident=${addresses.incident},job=${addresses.job}` }),
      ],
      [
        'retention',
        ({ stack: { addresses } }) => ({
          LETHE_RETENTION_OWNERS: `run=${addresses.run},incident=${addresses.incident}`,
        }),
      ],
    ),
    undo: restart(['run', asBefore], ['retention', asBefore]),
    cells: {
      'soft delete of a run': 'ends',
      'purge of a run': 'ends',
      compensation: 'ends',
      'retention purge': 'ends',
      upload: NO_PEERS,
      'deletion of a job': NO_PEERS,
    },
  },
  "another database in IncidentService's place": {
    apply: restart(['incident', ({ others }) => ({ LETHE_DATABASE_URL: others.incident })]),
    undo: restart(['incident', asBefore]),
    cells: {
      'soft delete of a run': /^PARTICIPANT_CHANGED: .*incident/,
      'purge of a run': /^PARTICIPANT_CHANGED: .*incident/,
      compensation: /^PARTICIPANT_CHANGED: .*incident/,
      'retention purge': /OWNER_CHANGED: /,
      upload: { none: 'it is no part of it' },
      'deletion of a job': { none: 'it is no part of it' },
    },
  },
  "another database in RunService's place": {
    apply: restart(['run', ({ others }) => ({ LETHE_DATABASE_URL: others.run })]),
    undo: restart(['run', asBefore]),
    cells: {
      'soft delete of a run': { denied: 'DELETION_NOT_FOUND' },
      'purge of a run': { denied: 'DELETION_NOT_FOUND' },
      compensation: { denied: 'RUN_NOT_FOUND' },
      'retention purge': /OWNER_CHANGED: .*run/,
      upload: { none: 'it is no part of it' },
      'deletion of a job': { none: 'it is no part of it' },
    },
  },
  "another database in RetentionService's place": {
    apply: restart(['retention', ({ others }) => ({ LETHE_DATABASE_URL: others.retention })]),
    undo: restart(['retention', asBefore]),
    cells: {
      'soft delete of a run': { none: 'it is no part of it' },
      'purge of a run': { none: 'it is no part of it' },
      compensation: { none: 'it is no part of it' },
      'retention purge': { denied: 'PURGE_NOT_FOUND' },
      upload: { none: 'it is no part of it' },
      'deletion of a job': { none: 'it is no part of it' },
    },
  },
  'another bucket': {
    // As if another were mounted in its place: all that it has is another installation's marker.
    async apply({ stack }) {
      await rename(stack.objectFolder, `${stack.objectFolder}.before`);
      const marker = join(stack.objectFolder, 'objects', MARKER_KEY);
      await mkdir(dirname(marker), { recursive: true });
      await writeFile(marker, newId());
    },
    async undo({ stack }) {
      await rm(stack.objectFolder, { recursive: true });
      await rename(`${stack.objectFolder}.before`, stack.objectFolder);
    },
    cells: {
      'soft delete of a run': { none: 'it is about rows alone' },
      'purge of a run': /^STORE_NOT_OURS: /,
      compensation: /STORE_NOT_OURS/,
      'retention purge': { none: 'what ages has no objects' },
      upload: /^STORE_NOT_OURS: /,
      // It was claimed before, and finds none of the objects that the database knows.
      'deletion of a job': /^(OBJECTS_MISSING|STORE_NOT_OURS): /,
    },
  },
  'another key set': {
    async apply({ stack }) {
      const written = await readFile(trustFileOf(stack), 'utf8');
      await writeFile(`${trustFileOf(stack)}.before`, written);
      const { trust } = JSON.parse(written) as { trust: Record<string, unknown>[] };
      for (const entry of trust) entry['jwks'] = { keys: [(await makeKeyPair()).publicJwk] };
      await writeFile(trustFileOf(stack), JSON.stringify({ trust }));
    },
    async undo({ stack }) {
      await rename(`${trustFileOf(stack)}.before`, trustFileOf(stack));
      const { runs, jobs, incidents } = stack.clients({ role: 'admin', tenantId: 'any' });
      const { retention } = stack.clients({ role: 'platform' });
      const calls = [() => runs.listRuns({}), () => jobs.listJobs({}), () => incidents.listIncidents({})];
      const asked = [...calls, () => retention.listSubjects({})];
      for (const ask of asked) await until('the keys are believed again', () => ask().then(() => true));
    },
    cells: {
      'soft delete of a run': /^DEPENDENCY_UNAVAILABLE: .*refuses RunService's token/,
      'purge of a run': /^DEPENDENCY_UNAVAILABLE: .*refuses RunService's token/,
      compensation: /^DEPENDENCY_UNAVAILABLE: .*refuses RunService's token/,
      'retention purge': /^[A-Z_]+: .*incident/,
      // Who calls is decided when the call begins; the work itself needs no key.
      upload: 'ends',
      'deletion of a job': 'ends',
    },
  },
  'a plan changed': {
    apply: async ({ stack }, tenantOf) => {
      const request = { tenantId: tenantOf('retention purge'), planName: 'ENTERPRISE' };
      await stack.clients({ role: 'platform' }).retention.setTenantPlan(request);
    },
    undo: async () => undefined,
    cells: {
      'soft delete of a run': NO_PLAN,
      'purge of a run': NO_PLAN,
      compensation: NO_PLAN,
      'retention purge': 'ends',
      upload: NO_PLAN,
      'deletion of a job': NO_PLAN,
    },
  },
  'a ceiling lowered': {
    apply: restart(
      ['retention', () => ({ LETHE_PURGE_CEILING_ROWS: '1' })],
      ['job', () => ({ LETHE_MAX_ARTIFACT_BYTES: '3000' })],
    ),
    undo: restart(['retention', asBefore], ['job', asBefore]),
    cells: {
      'soft delete of a run': NO_CEILING,
      'purge of a run': NO_CEILING,
      compensation: NO_CEILING,
      // What was below the ceiling when it was decided goes on.
      'retention purge': 'ends',
      // Made again by the client, it may meet what the stopped service has left of it, and after that the ceiling.
      upload: /^(UNAVAILABLE|OPERATION_IN_PROGRESS|ARTIFACT_TOO_LARGE): /,
      'deletion of a job': NO_CEILING,
    },
  },
};

const isNone = (cell: Cell): cell is { readonly none: string } => typeof cell === 'object' && 'none' in cell;

test.before(async (t) => {
  const [notes, desk] = [await startForeignParticipant(1_000), await startMemoryOwner([], 'desk-1')];
  const stack = await startTestStack({
    env: { LETHE_LOCK_TIMEOUT_MS: '60000', LETHE_STATEMENT_TIMEOUT_MS: '60000' },
    envOf: {
      // A call that waits for a lock is cut off, leaves no connection waiting, and is repeated: no attempt may be the
      // last while the work stands.
      run: {
        LETHE_PARTICIPANT_TIMEOUT_MS: '2000',
        LETHE_DELETION_ATTEMPTS: '40',
        LETHE_DELETION_BACKOFF_MS: '50',
        LETHE_DELETION_BACKOFF_MAX_MS: '100',
        LETHE_RUN_ATTEMPTS: '40',
        LETHE_RUN_BACKOFF_MS: '50',
        LETHE_RUN_BACKOFF_MAX_MS: '100',
        LETHE_RUN_LEASE_MS: '3000',
      },
      job: {
        LETHE_LOCK_TIMEOUT_MS: '1500',
        LETHE_DELETION_ATTEMPTS: '40',
        LETHE_DELETION_BACKOFF_MS: '50',
        LETHE_DELETION_BACKOFF_MAX_MS: '100',
        LETHE_DELETION_LEASE_MS: '3000',
        LETHE_UPLOAD_LEASE_MS: '1500',
        LETHE_UPLOAD_GRACE_MS: '300',
      },
      retention: {
        LETHE_OWNER_TIMEOUT_MS: '5000',
        LETHE_OWNER_MAX_WAIT: '30',
        LETHE_PURGE_CEILING_SHARE: 'off',
        LETHE_PURGE_ATTEMPTS: '2',
        LETHE_PURGE_BACKOFF_MS: '50',
        LETHE_PURGE_ROWS_PER_CALL: '1000',
      },
    },
  });
  const others: Record<string, string> = {};
  for (const service of ['run', 'incident', 'retention'] as const) {
    const other = await provisionDatabase({
      superuserUrl: stack.superuserUrl(service),
      database: `lethe_${service}_other`,
      ownerPassword: 'owner',
      appPassword: 'app',
    });
    const migrating = { LETHE_DATABASE_OWNER_URL: other.ownerUrl, LETHE_DATABASE_APP_ROLE: other.appRole };
    await runToEnd([await bundleOf(`services/${service}/main.ts`), 'migrate'], migrating);
    others[service] = other.appUrl;
  }
  Object.assign(t.context, { stack, notes, desk, others });
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await t.context.notes?.close();
  await t.context.desk?.close();
});

for (const [index, [fault, { apply, undo, cells }]] of Object.entries(FAULTS).entries()) {
  const names = (Object.keys(WORK) as WorkName[]).filter((work) => !isNone(cells[work]));
  test.serial(
    `${fault} in the middle of ${names.join(', ')}: nothing is complete that is not, and it says why`,
    async (t) => {
      t.timeout(180_000);
      const tenantOf = (work: WorkName) => `f${index}-${work.replaceAll(' ', '-')}`;
      const standing = new Map<WorkName, Standing>();
      for (const work of names) standing.set(work, await WORK[work](t.context, tenantOf(work)));
      let isUndone = false;
      t.teardown(async () => {
        if (isUndone) return;
        for (const { release } of standing.values()) await release().catch(() => undefined);
        await undo(t.context);
      });
      await apply(t.context, tenantOf);
      // A snapshot of what is trusted and a good answer about the store hold for a second.
      const appliedAt = performance.now();
      await until('it is noticed', async () => performance.now() - appliedAt > 1_100);
      for (const { release } of standing.values()) await release();

      const settle = async (work: WorkName, { read }: Standing): Promise<Outcome> => {
        let outcome: Outcome | undefined;
        await until(`${work} settles`, async () => {
          outcome = await read();
          return outcome !== undefined;
        });
        if (!outcome) throw new Error('it did not settle');
        return outcome;
      };
      const undone = new Set<WorkName>();
      for (const [work, each] of standing) {
        const cell = cells[work];
        if (typeof cell === 'object' && 'denied' in cell) {
          await until(`${work} is denied`, async () => (await each.ask?.()) === cell.denied);
          t.false((await each.read())?.isComplete ?? false, work);
          continue;
        }
        const { isComplete, reason } = await settle(work, each);
        t.log(`${work}: ${isComplete ? 'complete' : reason}`);
        if (cell instanceof RegExp) {
          t.false(isComplete, work);
          t.regex(reason, cell, work);
          undone.add(work);
        } else {
          t.true(isComplete, `${work}: ${reason}`);
        }
        if (isComplete) t.deepEqual(await each.check(), [], work);
      }
      await undo(t.context);
      isUndone = true;
      for (const [work, each] of standing) {
        if (undone.has(work)) await each.resume();
        // What it tells until it has been tried again is how it stood before.
        await until(`${work} is complete after it`, async () => {
          const outcome = await each.read();
          // An attempt that began under the fault may have been its last.
          if (outcome?.isParked) await each.resume();
          return outcome?.isComplete ?? false;
        });
        t.deepEqual(await each.check(), [], `${work}, after`);
      }
    },
  );
}

test('each fault is tried with each kind of work, or it is said why not', (t) => {
  for (const [fault, { cells }] of Object.entries(FAULTS)) {
    for (const [work, cell] of Object.entries(cells)) {
      if (isNone(cell)) t.log(`${fault} × ${work}: not tried, ${cell.none}`);
      else if (cell === 'ends') t.log(`${fault} × ${work}: ends, truly`);
      else t.log(`${fault} × ${work}: not complete, ${cell instanceof RegExp ? cell : cell.denied}`);
    }
  }
  t.is(Object.keys(FAULTS).length * Object.keys(WORK).length, 60);
});
