import { Code } from '@connectrpc/connect';
import test from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { ArtifactKind, JobState, TaskState } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { type Refusal, refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

/** What the background loops, the metrics and `/ready` ask all the time, whoever calls. */
const LOOPS = new RegExp(
  [
    /\b(?:due|abandoned|expired)_\w+\(/,
    /\boldest_unfinished_\w+_seconds\(|\bstuck_deletions\(|\borphan_reports\b/,
    /\blethe_migrations\b|\bfrom installation$|select 1$/,
  ]
    .map(({ source }) => source)
    .join('|'),
);

// Refusals are written to the audit in the background, in transactions of nothing else.
const REFUSALS =
  /^.* begin; set local lethe\.tenant = .*\n(.* insert into "(audit_entries|installation_audit)" .*\n)+.* commit\n?/gm;

/** Every statement that JobService has sent since PostgreSQL was told to log them, from the server's own log. */
async function statementsOf(stack: TestStack): Promise<string[]> {
  const [row] = await queryOnce<{ log: string }>(
    stack.superuserUrl('job'),
    `select pg_read_file(regexp_replace(current_setting('data_directory'), 'data$', 'postgres.log')) as log`,
  );
  const lines = (row?.log ?? '').split('\n');
  const sent = lines.filter((line) => line.startsWith('<lethe-job> LOG:') && /(statement|execute [^:]*): /.test(line));
  const statements = sent.filter((line) => !LOOPS.test(line)).join('\n');
  return statements.replaceAll(REFUSALS, '').split('\n');
}

test('bad tokens, too little rights and bad input get their documented errors, and none of them reaches SQL', async (t) => {
  const stack = await startTestStack({ services: ['job'] });
  t.teardown(() => stack.dispose());
  const member = stack.clients({ tenantId: 'acme', role: 'member' }).jobs;
  const admin = stack.clients({ tenantId: 'acme', role: 'admin' }).jobs;
  const viewer = stack.clients({ tenantId: 'acme', role: 'viewer' }).jobs;
  const other = stack.clients({ tenantId: 'other', role: 'member' }).jobs;
  const scopeless = stack.clients({ tenantId: 'acme', role: 'owner', scopes: ['jobs:read'] }).jobs;
  const platform = stack.clients({ role: 'platform' }).jobs;
  const connection = connect({ address: stack.addresses.job, token: async () => 'forged' });
  t.teardown(() => connection.close());
  const participant = stackParticipant(stack, connection, 'job', 'acme');
  const person = connection.client(ParticipantService, () => stack.token({ role: 'owner', tenantId: 'acme' }));
  await other.createJob({});
  await other.createJob({});
  const { nextPageToken } = await other.listJobs({ pageSize: 1 });
  t.not(nextPageToken, '');

  const jobId = newId();
  const artifact = { kind: ArtifactKind.INPUT, contentType: 'a/b', content: Buffer.of(1) };
  const download = (request: object) => Array.fromAsync(member.downloadArtifact(request));
  const sweep = (jobs: typeof platform, request: object) => Array.fromAsync(jobs.sweepOrphans(request));
  const key = { operationId: jobId, step: 's' };
  const unauthenticated = { code: Code.Unauthenticated, reason: 'TOKEN_INVALID' };
  const denied = (reason: string) => ({ code: Code.PermissionDenied, reason });
  const invalid = { code: Code.InvalidArgument, reason: 'FIELD_INVALID' };
  const cases: [string, Partial<Refusal>, () => Promise<unknown>][] = [
    ['a bad token', unauthenticated, () => connection.client(JobService).getJob({ jobId })],
    ['a bad token of a stream', unauthenticated, () => sweep(connection.client(JobService), {})],
    ['a missing scope', denied('SCOPE_MISSING'), () => scopeless.deleteJob({ jobId })],
    [
      'a missing scope to upload',
      denied('SCOPE_MISSING'),
      () => uploadArtifact(scopeless, jobId, { ...artifact, name: 'a' }),
    ],
    ['a role too low', denied('ROLE_TOO_LOW'), () => member.deleteJob({ jobId })],
    ['a role too low for what is hidden', denied('ROLE_TOO_LOW'), () => viewer.getJob({ jobId, showDeleted: true })],
    ['a person as a participant’s caller', unauthenticated, () => person.preview({ runId: jobId })],
    ['an owner who would sweep', denied('ROLE_TOO_LOW'), () => sweep(admin, { allTenants: true, reason: 'r' })],
    ['no tenant', denied('TENANT_MISSING'), () => platform.getJob({ jobId })],
    [
      'an oversized message',
      { code: Code.ResourceExhausted },
      () => member.createJob({ displayName: 'x'.repeat(5e6) }),
    ],
    ['a long name', invalid, () => member.createJob({ displayName: 'x'.repeat(201) })],
    ['a step without a run', invalid, () => member.createJob({ step: 's' })],
    ['a malformed request id', invalid, () => member.createJob({ requestId: '1' })],
    ['a malformed run id', invalid, () => member.createJob({ runId: "' or true --" })],
    ['a malformed task name', invalid, () => member.createJob({ taskNames: ['No'] })],
    ['too many tasks', invalid, () => member.createJob({ taskNames: Array.from({ length: 51 }, (_, at) => `t${at}`) })],
    ['a malformed id to get', invalid, () => member.getJob({ jobId: "x' or 1=1" })],
    ['a page token of another tenant', invalid, () => member.listJobs({ pageSize: 1, pageToken: nextPageToken })],
    ['a page token of nobody', invalid, () => member.listJobs({ pageToken: 'rubbish' })],
    ['a negative page size', invalid, () => member.listJobs({ pageSize: -1 })],
    ['a state that there is not', invalid, () => member.listJobs({ state: 99 as JobState })],
    ['a page token of another list', invalid, () => member.listArtifacts({ jobId, pageToken: nextPageToken })],
    ['a malformed id to list', invalid, () => member.listArtifacts({ jobId: '' })],
    ['a path as a name', invalid, () => uploadArtifact(member, jobId, { ...artifact, name: '../x' })],
    ['a malformed id to upload', invalid, () => uploadArtifact(member, 'x', { ...artifact, name: 'x' })],
    ['a path to download', invalid, () => download({ jobId, kind: ArtifactKind.INPUT, name: '/etc/passwd' })],
    ['no kind to download', invalid, () => download({ jobId, name: 'a' })],
    ['no worker', invalid, () => member.claimJob({})],
    [
      'a lease of days',
      invalid,
      () => member.claimJob({ workerId: 'w', leaseDuration: { seconds: 1_000_000n, nanos: 0 } }),
    ],
    [
      'a malformed id to update',
      invalid,
      () => member.updateTask({ jobId: 'x', state: TaskState.RUNNING, taskName: 'a' }),
    ],
    ['an end that is none', invalid, () => member.finishJob({ jobId, state: JobState.RUNNING })],
    ['a malformed id to cancel', invalid, () => member.cancelJob({ jobId: '1e9' })],
    ['a malformed id to delete', invalid, () => admin.deleteJob({ jobId: 'null' })],
    ['a long reason', invalid, () => admin.deleteJob({ jobId, reason: 'x'.repeat(501) })],
    ['a malformed deletion id', invalid, () => member.getDeletion({ deletionId: 'x' })],
    ['a malformed id to redrive', invalid, () => admin.redriveDeletion({ deletionId: 'x' })],
    ['a sweep of nobody', invalid, () => sweep(platform, { reason: 'r' })],
    ['a sweep of a path', invalid, () => sweep(platform, { reason: 'r', tenantIds: ['../etc'] })],
    ['a sweep without a reason', { reason: 'REASON_REQUIRED' }, () => sweep(platform, { allTenants: true })],
    ['a malformed run to preview', invalid, () => participant.preview({ runId: 'x' })],
    ['a malformed run to verify', invalid, () => participant.verify({ runId: 'x' })],
    ['a step of another run', invalid, () => participant.execute({ key, runId: newId(), action: 'create-job' })],
    ['an unknown action', invalid, () => participant.execute({ key, runId: jobId, action: 'drop-table' })],
    ['no key to compensate', invalid, () => participant.compensate({ runId: jobId })],
    ['a malformed run to hide', invalid, () => participant.softDelete({ key, runId: 'x' })],
    ['a restore of nothing', invalid, () => participant.restore({ key, runId: jobId })],
    ['a limit beyond the limit', invalid, () => participant.purge({ key, runId: jobId, limit: 100_001, reason: 'r' })],
    ['no reason to purge', { reason: 'REASON_REQUIRED' }, () => participant.purge({ key, runId: jobId })],
  ];

  const superuser = (sql: string) => queryOnce(stack.superuserUrl('job'), sql);
  await superuser("alter system set log_line_prefix = '<%a> '");
  await superuser("alter system set log_statement = 'all'");
  await superuser('select pg_reload_conf()');
  await until(
    'PostgreSQL logs what JobService sends',
    async () => {
      await other.listJobs({});
      return (await statementsOf(stack)).at(-1)?.endsWith(' commit') === true;
    },
    90_000,
  );
  const before = await statementsOf(stack);
  for (const [title, expected, call] of cases) t.like(await refusalOf(call()), expected, title);
  // While a refusal is being written, only part of its transaction is in the log.
  await until('nothing is left but what was there before', async () => {
    return (await statementsOf(stack)).join('\n').trim() === before.join('\n');
  }).catch(() => undefined);
  t.deepEqual((await statementsOf(stack)).join('\n').trim(), before.join('\n'));
  await refusalOf(member.getJob({ jobId }));
  const after = await statementsOf(stack);
  t.true(after.length > before.length, 'what is well-formed does reach SQL, and is seen');
});
