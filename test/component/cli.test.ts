import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import anyTest, { type TestFn } from 'ava';
import { DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { putPlan } from '#test/support/aged-data.ts';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { bundleOf } from '#test/support/programs.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine }>;

const PROGRAM = await bundleOf('libs/cli/lethe.ts');

test.before(async (t) => {
  t.context.stack = await startTestStack();
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack.dispose());

test('a job is created, shown, cancelled and deleted', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'cli-jobs'];
  const created = await lethe(...as, 'jobs', 'create', '--name', 'call', '--task', 'transcribe');
  t.is(created.code, 0, created.err);
  const id = created.out;
  t.true((await lethe(...as, 'jobs', 'list')).out.includes(id));
  const refused = await lethe(...as, 'jobs', 'delete', id, '--yes');
  t.is(refused.code, 1);
  t.is(refused.err.split('\n')[0], 'error: JOB_NOT_TERMINAL: Cannot delete pending job. Use cancel instead.');
  t.is((await lethe(...as, 'jobs', 'cancel', id)).code, 0);
  t.is((await lethe(...as, 'jobs', 'watch', id)).code, 0);
  const preview = await lethe(...as, '--json', 'jobs', 'delete', id, '--dry-run');
  t.is(JSON.parse(preview.out).participants[0].resourceCounts[0].resourceType, 'job');
  const deleted = await lethe(...as, 'jobs', 'delete', id, '--yes', '--reason', 'asked for');
  t.deepEqual([deleted.code, deleted.err], [0, '']);
  const [, deletion = ''] = new RegExp(`^${id} COMPLETE\\ndeletion (\\S+)$`).exec(deleted.out) ?? [];
  const receipt = await lethe(...as, 'deletions', 'get', deletion);
  t.regex(receipt.out, /^by ada: asked for$/m, receipt.err);
  t.regex(receipt.out, /^job +job +1 +1 +0 +0 +0$/m);
  t.regex(receipt.out, /^job +COMPLETE +\d{4}-\S+Z$/m, 'read back');
  const hint = await lethe(...as, 'deletions', 'get', id);
  t.is(hint.code, 1);
  t.regex(hint.err, new RegExp(`^error: DELETION_NOT_FOUND: ${id} is a job, .*lethe deletions get ${deletion}`));
  const gone = await lethe(...as, '--json', 'jobs', 'get', id);
  t.is(gone.code, 1);
  t.is(JSON.parse(gone.out).error.reason, 'JOB_NOT_FOUND');
});

test('what cannot be undone is not done without a terminal or --yes', async (t) => {
  const { lethe } = t.context;
  const { out: id } = await lethe('--tenant', 'cli-asks', 'jobs', 'create');
  await lethe('--tenant', 'cli-asks', 'jobs', 'cancel', id);
  const asked = await lethe('--tenant', 'cli-asks', 'jobs', 'delete', id);
  t.is(asked.code, 2);
  t.regex(asked.err, /^error: USAGE: Deleting the job \S+ cannot be undone; add --yes/);
  t.is((await lethe('--tenant', 'cli-asks', 'jobs', 'get', id)).code, 0);
});

test('a wrong call is refused before anything is sent', async (t) => {
  const { lethe } = t.context;
  for (const args of [
    ['no-such'],
    ['purge'],
    ['purge', '--all', '--of', 'a'],
    ['purge', '--of', 'A B'],
    ['--tenant', 'A B', 'jobs', 'list'],
    ['--tenant', 'ACME', 'jobs', 'list'],
    ['--output', 'xml', 'jobs', 'list'],
    ['jobs', 'list', '--state', 'ODD'],
    ['token', '--ttl', '5d'],
  ]) {
    t.is((await lethe(...args)).code, 2, args.join(' '));
  }
});

// Before any other test adds a tenant with a plan.
test.serial('the nightly command purges by plan, and tells in its exit code when a tenant was left', async (t) => {
  const { lethe, stack } = t.context;
  await putPlan(stack, 'cli-free', 'FREE');
  const { incidents } = stack.clients({ tenantId: 'cli-free', role: 'member' });
  const environmentId = (await incidents.createEnvironment({ displayName: 'production' })).environment?.id ?? '';
  for (const days of [1, 30]) {
    const checkTime = timestampFromMs(Date.now() - days * 86_400_000);
    await incidents.recordDriftCheck({ environmentId, status: DriftStatus.DRIFT, checkTime });
  }
  const checks = () =>
    queryOnce<{ count: number }>(
      stack.superuserUrl('incident'),
      "select count(*)::int as count from drift_checks where tenant_id = 'cli-free'",
    ).then(([row]) => row?.count);
  const rehearsal = await lethe('purge', '--all', '--wait', '--dry-run');
  t.is(rehearsal.code, 0, rehearsal.err);
  t.regex(rehearsal.out, /^cli-free COMPLETE drift_check 1$/m);
  t.is(await checks(), 2);
  const night = await lethe('purge', '--all', '--wait');
  t.is(night.code, 0, night.err);
  t.regex(night.out, /COMPLETE: 1 of 1 tenants$/);
  t.is(await checks(), 1);
  const badge = (await incidents.listEnvironments({})).environments[0];
  t.is(badge?.driftStatus, DriftStatus.DRIFT);
});

test('a run with a job is hidden, previewed and purged', async (t) => {
  const { lethe, stack } = t.context;
  const { runs } = stack.clients({ tenantId: 'cli-runs', role: 'owner' });
  const runId = (await runs.createRun({ workflow: 'review' })).run?.id ?? '';
  const as = ['--tenant', 'cli-runs'];
  const job = (await lethe(...as, 'jobs', 'create', '--run', runId)).out;
  const active = await lethe(...as, 'runs', 'purge', runId, '--reason', 'over', '--yes');
  t.regex(active.err, /RUN_NOT_TERMINAL/);
  await runs.finishRun({ runId, state: 3 });
  const blocked = await lethe(...as, 'runs', 'purge', runId, '--reason', 'over', '--yes');
  t.regex(blocked.err, /JOB_NOT_TERMINAL/);
  await lethe(...as, 'jobs', 'cancel', job);
  t.regex((await lethe(...as, 'runs', 'delete', runId)).out, /SOFT_DELETE +COMPLETE/);
  t.regex((await lethe(...as, 'jobs', 'get', job)).err, /JOB_NOT_FOUND/);
  t.regex((await lethe(...as, 'runs', 'undelete', runId)).out, /UNDELETE +COMPLETE/);
  t.is((await lethe(...as, 'jobs', 'get', job)).code, 0);
  t.regex((await lethe(...as, 'runs', 'preview', runId)).out, /job +job +1/);
  const purged = await lethe(...as, 'runs', 'purge', runId, '--reason', 'over', '--wait', '--yes');
  t.is(purged.code, 0, purged.err);
  t.regex(purged.out, /PURGE +COMPLETE/);
  t.deepEqual(await queryOnce(stack.superuserUrl('job'), 'select 1 from jobs where id = $1', [job]), []);
  t.deepEqual(await queryOnce(stack.superuserUrl('run'), 'select 1 from workflow_runs where id = $1', [runId]), []);
});

test('environments, checks, incidents and approvals are worked on from the command line', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'cli-incidents'];
  const environment = (await lethe(...as, 'environments', 'create', 'production')).out;
  const check = await lethe(
    ...[...as, '--json', 'checks', 'record', environment, '--status', 'drift', '--summary', '{"by": "nightly"}'],
    ...['--workflow', 'sync=MODIFIED', 'intake=NOT_IN_GIT'],
  );
  t.is(check.code, 0, check.err || check.out);
  const checkId = JSON.parse(check.out).id;
  t.regex((await lethe(...as, 'checks', 'get', checkId)).out, /^sync +MODIFIED$/m);
  t.true((await lethe(...as, 'checks', 'list', '--status', 'DRIFT')).out.includes(checkId));
  t.regex(
    (await lethe(...as, 'environments', 'list', '--drift', 'DRIFT')).out,
    /production +DRIFT +1 modified, 1 not in git/,
  );
  t.true((await lethe(...as, 'environments', 'get', environment)).out.includes(environment));
  const opened = await lethe(
    ...[...as, 'incidents', 'open', '--environment', environment, '--title', 'sync differs', '--check', checkId],
    ...['--details', '{"sync": "v2"}'],
  );
  t.is(opened.code, 0, opened.err);
  const id = opened.out;
  const approval = (await lethe(...as, 'approvals', 'request', id, 'ACKNOWLEDGED', '--notes', 'please')).out;
  t.regex((await lethe(...as, 'approvals', 'list', '--state', 'PENDING')).out, /PENDING +ACKNOWLEDGED +ada .*please$/m);
  t.regex(
    (await lethe(...as, 'approvals', 'decide', approval, 'approved', '--notes', 'go')).out,
    /APPROVED +ACKNOWLEDGED +ada +ada .*please; go$/m,
  );
  t.regex((await lethe(...as, 'approvals', 'decide', approval, 'REJECTED')).err, /^error: APPROVAL_DECIDED: /);
  t.regex((await lethe(...as, 'incidents', 'transition', id, 'CLOSED')).err, /^error: INCIDENT_TRANSITION_ILLEGAL: /);
  t.is((await lethe(...as, 'incidents', 'transition', id, 'acknowledged', '--note', 'mine')).code, 0);
  const shown = await lethe(...as, 'incidents', 'get', id);
  t.regex(shown.out, /^may go to: STABILIZED$/m);
  t.regex(shown.out, /ACKNOWLEDGED +ada +mine$/m);
  t.regex(shown.out, /^\{"sync":"v2"\}$/m);
  t.true(shown.out.includes(approval));
  t.true((await lethe(...as, 'incidents', 'list', '--state', 'ACKNOWLEDGED')).out.includes(id));
  t.regex((await lethe(...as, 'environments', 'dashboard')).out, /^1 incidents are open$/m);
  for (const args of [
    ['incidents', 'transition', id, 'ODD'],
    ['approvals', 'decide', approval, 'MAYBE'],
    ['checks', 'record', environment],
    ['checks', 'record', environment, '--status', 'DRIFT', '--workflow', 'sync'],
  ]) {
    t.is((await lethe(...as, ...args)).code, 2, args.join(' '));
  }
});

test('the audit of all services is one list, with every refusal and nothing of another tenant', async (t) => {
  const { lethe, stack } = t.context;
  const as = ['--tenant', 'cli-audit'];
  const { out: jobId } = await lethe(...as, '--as', 'grace', 'jobs', 'create');
  await lethe(...as, '--as', 'grace', 'jobs', 'cancel', jobId);
  await lethe('plans', 'set', 'cli-audit', 'FREE', '--reason', 'signed up');
  await lethe(
    '--tenant',
    'cli-audit-2',
    'jobs',
    'cancel',
    (await lethe('--tenant', 'cli-audit-2', 'jobs', 'create')).out,
  );
  t.is((await lethe(...as, '--role', 'viewer', '--as', 'eve', 'jobs', 'delete', jobId, '--yes')).code, 1);
  const refusals = () => lethe(...as, '--json', 'audit', '--refused');
  await until('the refusal is in the audit', async () => parsedLine((await refusals()).out).length === 1);
  t.like(parsedLine((await refusals()).out)[0], {
    service: 'job',
    tenantId: 'cli-audit',
    actor: 'eve',
    action: 'call',
    targetId: 'lethe.job.v1.JobService/DeleteJob',
    outcome: 'ROLE_TOO_LOW',
  });
  const all = await lethe(...as, 'audit');
  t.is(all.code, 0, all.err);
  const lines = all.out.split('\n');
  t.regex(lines[0] ?? '', /^TIME +SERVICE +ACTOR +ACTION +TARGET +OUTCOME +REASON$/);
  t.deepEqual(
    lines.slice(1).map((line) => /^\S+Z +(\S+) +(\S+) +(\S+)/.exec(line)?.slice(1)),
    [
      ['job', 'eve', 'call'],
      ['retention', 'ada', 'set-plan'],
      ['job', 'grace', 'cancel'],
    ],
  );
  const some = async (...args: string[]) => parsedLine((await lethe('--json', ...args)).out).length;
  t.is(await some(...as, 'audit', '--service', 'retention'), 1);
  t.is(await some(...as, 'audit', '--actor', 'grace'), 1);
  t.is(await some(...as, 'audit', '--target', jobId), 1);
  t.is(await some(...as, 'audit', '--limit', '2'), 2);
  t.is(await some(...as, 'audit', '--until', '2020-01-01T00:00:00Z'), 0);
  t.is(await some('audit', '--of', 'cli-audit'), 3);
  t.is(await some('--tenant', 'cli-audit-2', 'audit'), 1);
  t.regex((await lethe('--tenant', 'cli-audit-2', 'audit', '--of', 'cli-audit')).err, /^error: TENANT_MISMATCH: /);
  t.regex((await lethe(...as, '--role', 'member', 'audit')).err, /^error: ROLE_TOO_LOW: /);
  // A list that lacks a service is none.
  const away = lethe.with({ env: { LETHE_RUN_ADDRESS: '127.0.0.1:1' } });
  t.is((await away(...as, 'audit')).code, 1);
  t.is((await away(...as, 'audit', '--service', 'job', 'retention')).code, 0);
  const platform = stack.clients({ role: 'platform' });
  await t.notThrowsAsync(platform.incidents.listAuditEntries({}));
});

test('the program itself prints, ends with its code, and does not mind a reader that has seen enough', async (t) => {
  const { stack } = t.context;
  const run = async (args: readonly string[], onLine: (child: ChildProcess) => void = () => undefined) => {
    const child = spawn(process.execPath, [PROGRAM, '--profile', join(stack.folder, 'cli.json'), ...args]);
    let out = '';
    let err = '';
    child.stdout.on('data', (chunk) => {
      out += chunk;
      onLine(child);
    });
    child.stderr.on('data', (chunk) => {
      err += chunk;
    });
    const [code] = await once(child, 'close');
    return { code, out, err };
  };
  const as = ['--tenant', 'cli-program'];
  const created = await run([...as, 'jobs', 'create']);
  t.deepEqual([created.code, created.err], [0, '']);
  t.regex(created.out, /^[0-9a-f-]{36}\n$/);
  const missing = await run([...as, 'jobs', 'get', '018f6b1e-7c1a-7000-8000-000000000001']);
  t.deepEqual([missing.code, missing.out], [1, '']);
  t.regex(missing.err, /^error: JOB_NOT_FOUND: /);
  const watched = await run(['--json', ...as, 'jobs', 'watch', created.out.trim()], (child) => {
    child.stdout?.destroy();
    void stack
      .clients({ tenantId: 'cli-program', role: 'member' })
      .jobs.cancelJob({ jobId: created.out.trim() })
      .catch(() => undefined);
  });
  t.deepEqual([watched.code, watched.err], [0, '']);
});
