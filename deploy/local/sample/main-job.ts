import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { type Deletion, DeletionState, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { DriftFlag, DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { Plan, PurgeState, type RetentionPurge } from '#gen/lethe/retention/v1/retention_pb.ts';
import { RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import type { Stack, StackClients } from '../stack.ts';
import { type Counts, countFiles, countRows, type EvidenceRow } from './evidence.ts';
import { uploadArtifact, workThrough } from './speech-worker.ts';

/** What the main job did, told step by step, and what was there at each stage. */
export interface MainJobReport {
  readonly told: readonly string[];
  readonly evidence: readonly EvidenceRow[];
  /** What differs from what must be; empty when every count is right. */
  readonly mistakes: readonly string[];
}

const JOB_TENANTS = ['acme', 'globex'] as const;
const PLAN_TENANTS = [
  { tenantId: 'hobby', plan: Plan.FREE, keepDays: 7 },
  { tenantId: 'studio', plan: Plan.PRO, keepDays: 30 },
  { tenantId: 'bureau', plan: Plan.AGENCY, keepDays: 90 },
  { tenantId: 'concern', plan: Plan.ENTERPRISE, keepDays: 180 },
] as const;
const CHECK_AGES_DAYS = [1, 6, 8, 29, 31, 89, 91, 179, 181] as const;
const RUN_JOBS = 2;
const DAY_MS = 86_400_000;

const recording = (name: string) => readFile(new URL(`../../../test/data/audio/${name}.wav`, import.meta.url));

/**
 * Runs Lethe's main job once, as its callers would, over gRPC: jobs of two tenants are worked, cancelled, failed and
 * deleted; a run with jobs is hidden, brought back and purged; the retention purge goes over aged drift checks of four plans.
 * Counts come from SQL and from the store's folder, which the services have no hand in.
 */
export async function runMainJob(stack: Stack, tell: (line: string) => void): Promise<MainJobReport> {
  const told: string[] = [];
  const say = (line: string): void => {
    told.push(line);
    tell(line);
  };
  const before = await takeEvidence(stack);
  const run = await fillJobs(stack, say);
  await fillDriftChecks(stack, say);
  const full = await takeEvidence(stack);
  const mistakes = [...(await endJobs(stack, run, say)), ...(await purgeByAge(stack, say))];
  const after = await takeEvidence(stack);

  const expected = expectedCounts();
  const evidence = Object.keys(after).map((what) => ({
    what,
    before: before[what] ?? 0,
    full: full[what] ?? 0,
    after: after[what] ?? 0,
    expected: expected[what] ?? 0,
  }));
  for (const row of evidence) {
    const left = row.after - row.before;
    if (left !== row.expected) mistakes.push(`${row.what}: the sample left ${left}, ${row.expected} expected`);
  }
  return { told, evidence, mistakes };
}

interface SampleRun {
  readonly runId: string;
  readonly jobToDelete: string;
}

async function fillJobs(stack: Stack, say: (line: string) => void): Promise<SampleRun> {
  const [call, note] = await Promise.all([recording('consent-call'), recording('standup-note')]);
  const garbage = Buffer.from('this is no recording');
  const addJob = async (tenantId: string, name: string, content: Uint8Array, runId = ''): Promise<string> => {
    const jobs = stack.clients({ tenantId, role: 'member' }).jobs;
    const { job } = await jobs.createJob({ displayName: name, taskNames: ['transcribe'], runId });
    const jobId = job?.id ?? '';
    const artifact = { kind: ArtifactKind.INPUT, name: `${name}.wav`, contentType: 'audio/wav', content };
    await uploadArtifact(jobs, jobId, artifact);
    return jobId;
  };
  const startRun = async (tenantId: string): Promise<string> => {
    const { runs } = stack.clients({ tenantId, role: 'member' });
    const { run } = await runs.createRun({ workflow: 'call-review' });
    const runId = run?.id ?? '';
    await runs.recordStep({ runId, name: 'transcribe', state: StepState.RUNNING, participants: ['job'] });
    return runId;
  };

  const acmeRun = await startRun('acme');
  const globexRun = await startRun('globex');
  const cancelled = await addJob('acme', 'standup-note', note);
  await stack.clients({ tenantId: 'acme', role: 'member' }).jobs.cancelJob({ jobId: cancelled, reason: 'not needed' });
  await addJob('acme', 'consent-call', call);
  const jobToDelete = await addJob('acme', 'standup-note', note);
  for (const name of ['consent-call', 'standup-note']) {
    await addJob('acme', name, name === 'consent-call' ? call : note, acmeRun);
  }
  await addJob('globex', 'consent-call', call);
  await addJob('globex', 'garbage', garbage);
  await addJob('globex', 'standup-note', note, globexRun);
  for (const tenantId of JOB_TENANTS) {
    const { completed, failed } = await workThrough(
      stack.clients({ tenantId, role: 'member' }).jobs,
      `worker-of-${tenantId}`,
    );
    say(`${tenantId}: ${completed} recordings became transcripts, ${failed} failed`);
  }
  for (const [tenantId, runId] of [
    ['acme', acmeRun],
    ['globex', globexRun],
  ] as const) {
    const { runs } = stack.clients({ tenantId, role: 'member' });
    await runs.recordStep({ runId, name: 'transcribe', state: StepState.COMPLETED });
    await runs.finishRun({ runId, state: RunState.COMPLETED });
  }
  return { runId: acmeRun, jobToDelete };
}

async function fillDriftChecks(stack: Stack, say: (line: string) => void): Promise<void> {
  const platform = stack.clients({ role: 'platform' });
  const now = Date.now();
  for (const { tenantId, plan } of PLAN_TENANTS) {
    await platform.retention.setTenantPlan({ tenantId, plan, reason: 'sample' });
    const { incidents } = stack.clients({ tenantId, role: 'member' });
    const { environments } = await incidents.listEnvironments({});
    const environment =
      environments[0] ?? (await incidents.createEnvironment({ displayName: 'production' })).environment;
    for (const days of CHECK_AGES_DAYS.toReversed()) {
      await incidents.recordDriftCheck({
        environmentId: environment?.id ?? '',
        status: DriftStatus.DRIFT,
        checkTime: timestampFromMs(now - days * DAY_MS),
        workflows: [
          { workflow: 'billing', flag: DriftFlag.MODIFIED },
          { workflow: 'import', flag: DriftFlag.NOT_IN_GIT },
        ],
      });
    }
  }
  say(`${PLAN_TENANTS.length} tenants, one a plan, have drift checks of ${CHECK_AGES_DAYS.join(', ')} days`);
}

async function endJobs(stack: Stack, sample: SampleRun, say: (line: string) => void): Promise<string[]> {
  const { runId, jobToDelete } = sample;
  const mistakes: string[] = [];
  const { jobs, runs } = stack.clients({ tenantId: 'acme', role: 'admin' });
  const stranger = stack.clients({ tenantId: 'globex', role: 'owner' });

  if (!(await isNotFound(stranger.jobs.deleteJob({ jobId: jobToDelete })))) {
    mistakes.push('another tenant could delete a job');
  }
  const ordered = await jobs.deleteJob({ jobId: jobToDelete, reason: 'its speaker asked for it' });
  if (!(await isNotFound(jobs.getJob({ jobId: jobToDelete })))) mistakes.push('a deleted job is still found');
  const deletionId = ordered.deletion?.id ?? '';
  const isRemoved = await eventually(
    async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE,
  );
  if (!isRemoved) mistakes.push('the deletion of a job did not end');
  say('acme deleted a job, which globex could not');

  const isShown = async (): Promise<boolean> =>
    !(await isNotFound(runs.getRun({ runId }))) && (await jobs.listJobs({ runId })).jobs.length === RUN_JOBS;
  const hidden = await runs.deleteRun({ runId, reason: 'by mistake' });
  await watchUntilSettled(runs, hidden.deletion?.id ?? '');
  if (await isShown()) mistakes.push('a soft-deleted run is still found');
  const shown = await runs.undeleteRun({ runId, reason: 'it was needed' });
  await watchUntilSettled(runs, shown.deletion?.id ?? '');
  if (!(await isShown())) mistakes.push('an undeleted run is not back with its jobs');
  say('acme hid a run with its jobs, and brought it back');

  const preview = await runs.previewPurgeRun({ runId });
  const foretold = totalsOf(
    preview.participants.flatMap(({ resourceCounts }) => resourceCounts),
    'found',
  );
  say(`a purge of it would take ${foretold}`);
  const { deletion } = await runs.purgeRun({ runId, reason: 'contract ended' });
  const last = await watchUntilSettled(runs, deletion?.id ?? '');
  if (last?.state !== DeletionState.COMPLETE) mistakes.push(`the purge of a run ended as ${last?.state}`);
  const taken = totalsOf(
    (last?.participants ?? []).flatMap(({ resourceCounts }) => resourceCounts),
    'deleted',
  );
  if (taken !== foretold) mistakes.push(`the purge took ${taken}`);
  say(`it was purged: deletion ${deletion?.id} is COMPLETE and took exactly that`);
  return mistakes;
}

async function purgeByAge(stack: Stack, say: (line: string) => void): Promise<string[]> {
  const { retention } = stack.clients({ role: 'platform' });
  let summary: RetentionPurge | undefined;
  const tenantIds = PLAN_TENANTS.map(({ tenantId }) => tenantId);
  for await (const { event } of retention.purge({ tenantIds, reason: 'sample' })) {
    if (event.case === 'summary') summary = event.value.purge;
  }
  if (summary?.state !== PurgeState.COMPLETE) return [`the retention purge ended as ${summary?.state}`];
  say(`the retention purge ${summary.id} is COMPLETE over ${summary.completeTenantCount} tenants`);
  return [];
}

async function watchUntilSettled(runs: StackClients['runs'], deletionId: string): Promise<Deletion | undefined> {
  let last: Deletion | undefined;
  for await (const { deletion } of runs.watchDeletion({ deletionId })) last = deletion;
  return last;
}

const totalsOf = (counts: readonly ResourceCount[], which: 'found' | 'deleted'): string =>
  counts.map((count) => `${count[which]} ${count.resourceType}`).join(', ');

async function eventually(isTrue: () => Promise<boolean>, deadlineMs = 10_000): Promise<boolean> {
  for (const deadline = performance.now() + deadlineMs; performance.now() < deadline; ) {
    if (await isTrue()) return true;
    await delay(50);
  }
  return false;
}

const isNotFound = (call: Promise<unknown>): Promise<boolean> =>
  call.then(
    () => false,
    (error: unknown) => ConnectError.from(error).code === Code.NotFound,
  );

async function takeEvidence(stack: Stack): Promise<Counts> {
  const counts: Record<string, number> = {};
  const tables = async (
    database: 'run' | 'job' | 'incident',
    names: readonly string[],
    tenantIds: readonly string[],
  ) => {
    for (const tenantId of tenantIds) {
      const rows = await countRows(stack.superuserUrl(database), names, [tenantId]);
      for (const [table, count] of Object.entries(rows)) counts[`${tenantId}: rows in ${table}`] = count;
    }
  };
  await tables('run', ['workflow_runs', 'workflow_run_steps'], JOB_TENANTS);
  await tables('job', ['jobs', 'job_tasks', 'artifacts'], JOB_TENANTS);
  for (const tenantId of JOB_TENANTS) {
    counts[`${tenantId}: objects in the store`] = await countFiles(`${stack.objectFolder}/objects`, [tenantId]);
  }
  await tables(
    'incident',
    ['drift_checks', 'drift_check_workflows'],
    PLAN_TENANTS.map((p) => p.tenantId),
  );
  return counts;
}

/** What the sample leaves: counted by hand from what it does, not by what the services answer. */
function expectedCounts(): Counts {
  // acme keeps a cancelled job (its input) and a completed one (input, words, transcript).
  // globex keeps two completed jobs and a failed one (its input).
  const counts: Record<string, number> = {
    'acme: rows in workflow_runs': 0,
    'acme: rows in workflow_run_steps': 0,
    'acme: rows in jobs': 2,
    'acme: rows in job_tasks': 2,
    'acme: rows in artifacts': 4,
    'acme: objects in the store': 4,
    'globex: rows in workflow_runs': 1,
    'globex: rows in workflow_run_steps': 1,
    'globex: rows in jobs': 3,
    'globex: rows in job_tasks': 3,
    'globex: rows in artifacts': 7,
    'globex: objects in the store': 7,
  };
  for (const { tenantId, keepDays } of PLAN_TENANTS) {
    const kept = CHECK_AGES_DAYS.filter((days) => days < keepDays).length;
    counts[`${tenantId}: rows in drift_checks`] = kept;
    counts[`${tenantId}: rows in drift_check_workflows`] = kept * 2;
  }
  return counts;
}
