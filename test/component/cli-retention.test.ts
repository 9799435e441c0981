import anyTest, { type TestFn } from 'ava';
import { addChecks, addEnvironment } from '#test/support/aged-data.ts';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['incident', 'retention'],
    env: { LETHE_PURGE_CEILING_SHARE: '0.5', LETHE_PURGE_CEILING_SHARE_FROM: '4' },
  });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack?.dispose());

test.serial('a plan is set, shown with the windows that it gives, listed and remembered', async (t) => {
  const { lethe } = t.context;
  const set = await lethe('plans', 'set', 'planned', 'enterprise', '--reason', 'signed');
  t.is(set.code, 0, set.err);
  t.regex(set.out, /^planned +ENTERPRISE +1 .* signed$/m);
  t.is((await lethe('plans', 'set', 'planned', 'PRO', '--reason', 'left')).code, 0);
  t.regex((await lethe('plans', 'get', 'planned')).out, /^planned +PRO +2 /m);
  t.regex((await lethe('--tenant', 'planned', 'plans', 'get')).out, /^planned +PRO +2 /m);
  const windows = await lethe('--tenant', 'planned', 'plans', 'windows');
  t.regex(windows.out, /^DRIFT_CHECKS +180 days +/m, 'after a downgrade the longer window holds for a while');
  const history = parsedLine((await lethe('--json', 'plans', 'history', 'planned')).out);
  t.deepEqual(
    history.map(({ plan }: { plan: string }) => plan),
    ['PLAN_PRO', 'PLAN_ENTERPRISE'],
  );
  await lethe('plans', 'set', 'free', 'FREE');
  const free = parsedLine((await lethe('--json', 'plans', 'list', '--plan', 'free')).out);
  t.deepEqual(
    free.map(({ tenantId }: { tenantId: string }) => tenantId),
    ['free'],
  );
  t.is((await lethe('plans', 'get', 'nobody')).code, 1);
  for (const args of [
    ['set', 'planned'],
    ['set', 'planned', 'GOLD'],
    ['set', 'x', 'PRO', '--effective', 'soon'],
  ]) {
    t.is((await lethe('plans', ...args)).code, 2, args.join(' '));
  }
});

test.serial('a purge of which too much would go is 3, is found, and is released with a reason', async (t) => {
  const { lethe, stack } = t.context;
  await lethe('plans', 'set', 'held', 'PRO');
  const environmentId = await addEnvironment(stack, 'held');
  await addChecks(stack, 'held', environmentId, [...Array(6).fill('31 days'), '1 day']);
  const night = await lethe('--json', 'purge', '--tenants', 'held', '--wait', '--reason', 'night');
  t.is(night.code, 3, night.err);
  const { id, state } = parsedLine(night.out.split('\n').at(-1) ?? '');
  t.is(state, 'PURGE_STATE_PARTIAL');
  t.regex((await lethe('purges', 'list', '--state', 'partial')).out, new RegExp(`^${id} +PARTIAL`, 'm'));
  t.regex((await lethe('purges', 'get', id)).out, /^held +HELD +PRO .*6 of 7 drift checks would go$/m);
  t.is((await lethe('purges', 'approve', id, 'held')).code, 2, 'a reason is needed');
  t.is((await lethe('purges', 'approve', id, 'held', '--reason', 'their backlog')).code, 0);
  await until('it went', async () =>
    /^held +COMPLETE +PRO +drift_check 6/m.test((await lethe('purges', 'get', id)).out),
  );
  t.is((await lethe('purges', 'approve', id, 'nobody', '--reason', 'again')).code, 1);
});

test.serial('a purge shows how it goes, and a rehearsal removes nothing', async (t) => {
  const { lethe, stack } = t.context;
  await lethe('plans', 'set', 'goes', 'FREE');
  const environmentId = await addEnvironment(stack, 'goes');
  await addChecks(stack, 'goes', environmentId, ['8 days', '1 day', '1 day']);
  const rehearsal = await lethe('--tenant', 'goes', 'purge', '--wait', '--dry-run');
  t.deepEqual([rehearsal.code, /drift_check 1\b/.test(rehearsal.out)], [0, true], rehearsal.out);
  const watched = await lethe.with({ typing: [] })('--tenant', 'goes', 'purge', '--wait', '--reason', 'night');
  t.is(watched.code, 0, watched.err);
  t.regex(watched.screen, /1\/1 tenants/);
  t.regex(watched.out, /^goes COMPLETE drift_check 1\b/m);
  t.is((await lethe('purge', '--all', '--tenants', 'goes')).code, 2);
  t.is((await lethe('purge')).code, 2);
});
