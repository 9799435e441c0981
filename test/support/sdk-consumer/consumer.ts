import assert from 'node:assert/strict';
import {
  ArtifactKind,
  CancelledError,
  createLethe,
  DeadlineExceededError,
  DriftStatus,
  FailedPreconditionError,
  type Incident,
  IncidentState,
  InvalidArgumentError,
  JobState,
  type Lethe,
  NotFoundError,
  PermissionError,
  type Run,
  RunState,
  TaskState,
  UnauthenticatedError,
  UnavailableError,
} from '@lethe/sdk';

const { LETHE_TOKEN: token = '', PLATFORM_TOKEN = '' } = process.env;
const addresses = {
  run: process.env['LETHE_RUN_ADDRESS'],
  job: process.env['LETHE_JOB_ADDRESS'],
  incident: process.env['LETHE_INCIDENT_ADDRESS'],
  retention: process.env['LETHE_RETENTION_ADDRESS'],
};
const lethe: Lethe = createLethe({ ...addresses, token });
const platform: Lethe = createLethe({ ...addresses, token: PLATFORM_TOKEN });
const NOWHERE = '018f6b1e-7c1a-7000-8000-000000000001';

const run: Run = await lethe.runs.create({ workflow: 'made_elsewhere', timeoutMs: 20_000 });
await lethe.runs.finish(run.id, { state: RunState.COMPLETED });
const states: RunState[] = [];
for await (const { state } of lethe.runs.list()) states.push(state);
assert.deepEqual(states, [RunState.COMPLETED]);
const { deletion } = await lethe.runs.delete(run.id, { reason: 'tried' });
assert.ok(deletion);
for await (const _ of lethe.deletions.watch(deletion.id, { timeoutMs: 20_000 }));
assert.equal((await lethe.runs.undelete(run.id)).run.id, run.id);

const waiting = await lethe.jobs.create({ displayName: 'call', taskNames: ['transcribe'] });
const claim = await lethe.jobs.claim({ workerId: 'consumer', leaseMs: 30_000 });
assert.ok(claim);
assert.equal(claim.job.id, waiting.id);
await lethe.jobs.updateTask(claim, { taskName: 'transcribe', state: TaskState.RUNNING });
const renewed = await lethe.jobs.renew(claim, { leaseMs: 60_000 });
assert.ok(renewed.leaseExpireTime.seconds > claim.leaseExpireTime.seconds);
await lethe.jobs.updateTask(claim, { taskName: 'transcribe', state: TaskState.COMPLETED, leaseMs: 60_000 });
assert.equal((await lethe.jobs.finish(claim, { state: JobState.COMPLETED })).state, JobState.COMPLETED);
assert.equal(await lethe.jobs.claim({ workerId: 'consumer' }), undefined);

const job = await lethe.jobs.create({ displayName: 'call' });
await assert.rejects(lethe.jobs.delete(job.id), (error) => {
  assert.ok(error instanceof FailedPreconditionError);
  assert.equal(error.reason, 'JOB_NOT_TERMINAL');
  return true;
});
const input = { kind: ArtifactKind.INPUT, name: 'call.wav' };
await lethe.jobs.upload(
  job.id,
  input,
  (async function* () {
    yield Buffer.from('sound');
  })(),
);
const { body } = await lethe.jobs.download(job.id, input);
assert.equal(Buffer.concat(await Array.fromAsync(body)).toString(), 'sound');
await lethe.jobs.cancel(job.id);
assert.ok((await lethe.jobs.delete(job.id))?.id);

const environment = await lethe.environments.create({ displayName: 'production' });
await lethe.environments.recordDriftCheck(environment.id, { status: DriftStatus.IN_SYNC });
const incident: Incident = await lethe.incidents.open({ environmentId: environment.id, title: 'It drifts' });
const seen = await lethe.incidents.transition(incident.id, { state: IncidentState.ACKNOWLEDGED, etag: incident.etag });
assert.equal(seen.state, IncidentState.ACKNOWLEDGED);
assert.equal((await lethe.incidents.dashboard()).openIncidentCount, 1n);

const executions = async function* () {
  for (let n = 0; n < 1_500; n += 1) yield { workflow: `w${n % 3}` };
};
assert.equal((await lethe.executions.record(executions())).created, 1_500);
await lethe.retention.policies.upsert({ retentionDays: 30 });
assert.equal((await Array.fromAsync(lethe.retention.plans.list())).length, 4);
assert.ok((await lethe.retention.purgeNow({ validateOnly: true, reason: 'tried' })).purge.id);
const [entry] = await Array.fromAsync(lethe.audit.list({ services: ['job'], targetId: job.id }));
assert.equal(entry?.service, 'job');
assert.ok((await Array.fromAsync(platform.participants.list())).length > 0);

const many = lethe.runs.get('no id', {});
await assert.rejects(many, (error) => error instanceof InvalidArgumentError && error.fields.join() === 'run_id');
await assert.rejects(lethe.runs.get(NOWHERE), NotFoundError);
await assert.rejects(lethe.retention.stopSwitch.stop({ reason: 'no' }), PermissionError);
await assert.rejects(createLethe({ ...addresses, token: 'none' }).runs.get(NOWHERE), UnauthenticatedError);
await assert.rejects(lethe.runs.get(run.id, { timeoutMs: 0 }), DeadlineExceededError);
await assert.rejects(lethe.runs.get(run.id, { signal: AbortSignal.abort() }), CancelledError);
await assert.rejects(createLethe({ run: '127.0.0.1:1', token }).runs.get(run.id), UnavailableError);
lethe.close();
platform.close();
console.log('done');
process.exit(0);
