import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { type Deletion, DeletionState, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import type { Stack, StackClients } from '../stack.ts';
import { type Counts, countFiles, countRows, showEnds } from './evidence.ts';
import type { Part } from './part.ts';
import { uploadArtifact, workThrough } from './speech-worker.ts';

const TENANTS = ['acme', 'globex'] as const;
const RUN_JOBS = 2;
/** What the sample leaves: counted by hand from what it does, not by what the services answer. */
const LEFT: Counts = {
  // acme keeps a cancelled job (its input) and a completed one (input, words, transcript).
  'acme: rows in workflow_runs': 0,
  'acme: rows in workflow_run_steps': 0,
  'acme: rows in jobs': 2,
  'acme: rows in job_tasks': 2,
  'acme: rows in artifacts': 4,
  'acme: objects in the store': 4,
  // globex keeps two completed jobs and a failed one (its input).
  'globex: rows in workflow_runs': 1,
  'globex: rows in workflow_run_steps': 1,
  'globex: rows in jobs': 3,
  'globex: rows in job_tasks': 3,
  'globex: rows in artifacts': 7,
  'globex: objects in the store': 7,
};

const recording = (name: string) => readFile(new URL(`../../../test/data/audio/${name}.wav`, import.meta.url));

/** Jobs of two tenants are worked, cancelled, failed and deleted; a run with jobs is hidden, brought back and purged. */
export const jobsAndRuns: Part = async (stack, say) => {
  const before = await count(stack);
  const run = await fillJobs(stack, say);
  const full = await count(stack);
  const mistakes = await endJobs(stack, run, say);
  const after = await count(stack);
  for (const [what, expected] of Object.entries(LEFT)) {
    const left = (after[what] ?? 0) - (before[what] ?? 0);
    if (left !== expected) mistakes.push(`${what}: the sample left ${left}, ${expected} expected`);
  }
  return { table: showEnds(before, full, after), mistakes };
};

async function count(stack: Stack): Promise<Counts> {
  const counts: Record<string, number> = {};
  for (const tenantId of TENANTS) {
    const ofRuns = await countRows(stack.superuserUrl('run'), ['workflow_runs', 'workflow_run_steps'], [tenantId]);
    const ofJobs = await countRows(stack.superuserUrl('job'), ['jobs', 'job_tasks', 'artifacts'], [tenantId]);
    for (const [table, rows] of Object.entries({ ...ofRuns, ...ofJobs }))
      counts[`${tenantId}: rows in ${table}`] = rows;
    counts[`${tenantId}: objects in the store`] = await countFiles(`${stack.objectFolder}/objects`, [tenantId]);
  }
  return counts;
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
  for (const tenantId of TENANTS) {
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
