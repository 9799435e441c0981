import anyTest, { type TestFn } from 'ava';
import { addChecks, addEnvironment, putPlan, rowsOf } from '#test/support/aged-data.ts';
import { type CommandLine, makeCommandLine, type Outcome, parsedLine } from '#test/support/command-line.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['run', 'incident', 'retention'],
    env: {
      LETHE_PURGE_CEILING_SHARE: '0.5',
      LETHE_PURGE_CEILING_SHARE_FROM: '4',
      LETHE_FLEET_CEILING_TENANTS: '2',
      LETHE_TENANT_SWEEP_SECONDS: '1',
    },
  });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack?.dispose());

const lastLine = ({ out }: Outcome) => parsedLine(out.split('\n').at(-1) ?? '');

/** A tenant on Pro since long ago with drift checks of these ages. */
async function addTenant(stack: TestStack, tenantId: string, ages: readonly string[]): Promise<void> {
  await putPlan(stack, tenantId, 'PRO');
  await addChecks(stack, tenantId, await addEnvironment(stack, tenantId), ages);
}

test.serial('a plan is set, shown with the windows that it gives, listed and remembered', async (t) => {
  const { lethe } = t.context;
  const set = await lethe('plans', 'set', 'planned', 'enterprise', '--reason', 'signed');
  t.is(set.code, 0, set.err);
  t.regex(set.out, /^planned +ENTERPRISE +1 .* signed$/m);
  t.is((await lethe('plans', 'set', 'planned', 'PRO', '--reason', 'left')).code, 0);
  t.regex((await lethe('plans', 'get', 'planned')).out, /^planned +PRO +2 /m);
  t.regex((await lethe('--tenant', 'planned', 'plans', 'get')).out, /^planned +PRO +2 /m);
  const windows = await lethe('--tenant', 'planned', 'plans', 'windows');
  t.regex(
    windows.out,
    /^drift_checks +everything +GRACE .* 180 days$/m,
    'no plan at all kept everything until just now',
  );
  const history = parsedLine((await lethe('--json', 'plans', 'history', 'planned')).out);
  t.deepEqual(
    history.map(({ planName }: { planName: string }) => planName),
    ['PRO', 'ENTERPRISE'],
  );
  await lethe('plans', 'set', 'free', 'FREE');
  const free = parsedLine((await lethe('--json', 'tenants', 'list', '--plan', 'free')).out);
  t.deepEqual(
    free.map(({ tenantId }: { tenantId: string }) => tenantId),
    ['free'],
  );
  const none = await lethe('plans', 'set', 'free', '--none', '--reason', 'left');
  t.regex(none.out, /^free +none +2 .* left$/m, none.err);
  t.is((await lethe('plans', 'get', 'nobody')).code, 1);
  t.regex((await lethe('plans', 'set', 'planned', 'GOLD')).err, /PLAN_NOT_FOUND/);
  for (const args of [
    ['set', 'planned'],
    ['set', 'planned', 'PRO', '--none'],
    ['set', 'x', 'PRO', '--effective', 'soon'],
  ]) {
    t.is((await lethe('plans', ...args)).code, 2, args.join(' '));
  }
});

test.serial('plans are listed with their windows, and the four of the seed are there', async (t) => {
  const { lethe } = t.context;
  const { code, out } = await lethe('plans', 'list');
  t.is(code, 0);
  for (const [plan, subject, kept] of [
    ['FREE', 'drift_checks', '7 days'],
    ['FREE', 'incident_payloads', 'not in the plan'],
    ['PRO', 'approvals', '180 days'],
    ['AGENCY', 'drift_checks', '90 days'],
    ['ENTERPRISE', 'incident_payloads', '2555 days'],
  ]) {
    t.regex(out, new RegExp(`^${plan} +${subject} +${kept} +1 `, 'm'));
  }
  t.regex((await lethe('plans', 'get', 'PRO')).out, /^PRO +drift_checks +30 days /m);
});

test.serial('a plan is created, rehearsed, changed and remembered, and a stale etag is refused', async (t) => {
  const { lethe, stack } = t.context;
  const made = await lethe(
    ...['plans', 'update', 'TRIAL', '--create', '--reason', 'new offer'],
    ...['--window', 'drift_checks=60d', '--window', 'approvals=keep', '--window', 'incident_payloads=none'],
  );
  t.is(made.code, 0, made.err);
  t.regex(made.out, /^TRIAL +approvals +everything +1 .* new offer$/m);
  t.regex(made.out, /^TRIAL +incident_payloads +not in the plan +1 /m);
  const { etag } = parsedLine((await lethe('--json', 'plans', 'get', 'TRIAL')).out);

  await putPlan(stack, 'trying', 'TRIAL');
  const narrower = ['plans', 'update', 'TRIAL', '--window', 'drift_checks=10d', '--reason', 'too much'];
  const rehearsed = await lethe(...narrower, '--dry-run');
  t.is(rehearsed.code, 0, rehearsed.err);
  t.regex(rehearsed.out, /^Nothing was changed\./);
  t.regex(rehearsed.out, /^TRIAL +drift_checks +10 days /m);
  t.regex(rehearsed.out, /^drift_checks +0 +0 +1 +0 +\d{4}-/m, 'grace keeps the wider window for now');
  t.regex((await lethe('plans', 'get', 'TRIAL')).out, /^TRIAL +drift_checks +60 days +1 /m);

  t.is((await lethe(...narrower, '--etag', etag)).code, 0);
  const stale = await lethe(...narrower, '--etag', etag);
  t.deepEqual([stale.code, /ETAG_MISMATCH/.test(stale.err)], [1, true]);
  const history = parsedLine((await lethe('--json', 'plans', 'history', 'TRIAL')).out);
  t.deepEqual(
    history
      .filter(({ subject }: { subject: string }) => subject === 'drift_checks')
      .map(({ retentionDays, version }: { retentionDays: number; version: string }) => [retentionDays, version]),
    [
      [10, '2'],
      [60, '1'],
    ],
  );
  t.regex(
    (await lethe('plans', 'update', 'NEVER', '--window', 'drift_checks=1d', '--reason', 'x')).err,
    /PLAN_NOT_FOUND/,
  );
  t.regex(
    (await lethe('plans', 'update', 'TRIAL', '--window', 'no_such=1d', '--reason', 'x')).err,
    /FIELD_INVALID/,
    'a subject that no owner has',
  );
  for (const window of ['drift_checks', 'drift_checks=30', 'drift_checks=0d', 'drift_checks=40000d', 'Drift=1d']) {
    t.is((await lethe('plans', 'update', 'TRIAL', '--reason', 'x', '--window', window)).code, 2, window);
  }
  t.is((await lethe('plans', 'update', 'TRIAL', '--window', 'drift_checks=1d')).code, 2, 'a reason is needed');
});

test.serial('a policy is created, changed in part, rehearsed and deleted', async (t) => {
  const { lethe } = t.context;
  const get = async (): Promise<unknown[]> => {
    const policy = parsedLine((await lethe('--json', 'policies', 'get', 'polite')).out);
    return [policy.retentionDays, policy.minExecutionsToKeep, policy.isEnabled, policy.staleAfterDays];
  };
  t.regex((await lethe('policies', 'get', 'polite')).err, /EXECUTION_POLICY_NOT_FOUND/);
  t.is((await lethe('policies', 'set', 'polite')).code, 0);
  t.deepEqual(await get(), [90, '100', true, 30]);
  t.is((await lethe('policies', 'set', 'polite', '--days', '400', '--keep', '7')).code, 0);
  t.is((await lethe('policies', 'set', 'polite', '--disable', '--stale-after', '3')).code, 0);
  t.deepEqual(await get(), [400, '7', false, 3], 'what was not named stays');
  const rehearsed = await lethe('policies', 'set', 'polite', '--enable', '--days', '5', '--dry-run');
  t.is(rehearsed.code, 0, rehearsed.err);
  t.regex(rehearsed.out, /^executions +0 +0 +1 /m);
  t.deepEqual(await get(), [400, '7', false, 3]);
  t.is((await lethe('--tenant', 'polite', '--role', 'admin', 'policies', 'set', '--enable')).code, 0, 'its own admin');
  t.regex((await lethe('--tenant', 'polite', '--role', 'member', 'policies', 'set')).err, /ROLE_TOO_LOW/);
  t.regex((await lethe('policies', 'list')).out, /^polite +400 days +7 +3 days/m);
  t.is((await lethe('policies', 'delete', 'polite')).code, 0);
  t.is((await lethe('policies', 'get', 'polite')).code, 1);
  for (const args of [
    ['--days', '0'],
    ['--keep', '-1'],
    ['--enable', '--disable'],
  ]) {
    t.is((await lethe('policies', 'set', 'polite', ...args)).code, 2, args.join(' '));
  }
});

test.serial('the catalogue tells what owners hold, and a subject that is listed cannot be retired', async (t) => {
  const { lethe } = t.context;
  const { out } = await lethe('subjects', 'list');
  for (const [subject, owner] of [
    ['drift_checks', 'incident'],
    ['incident_payloads', 'incident'],
    ['approvals', 'incident'],
    ['executions', 'run'],
  ]) {
    t.regex(out, new RegExp(`^${subject} +${owner} +ACTIVE `, 'm'));
  }
  t.is((await lethe('subjects', 'confirm', 'drift_checks', '--reason', 'nothing has changed')).code, 0);
  t.regex((await lethe('subjects', 'retire', 'drift_checks', '--reason', 'x')).err, /SUBJECT_LISTED/);
  t.regex((await lethe('subjects', 'retire', 'no_such', '--reason', 'x')).err, /SUBJECT_NOT_FOUND/);
  t.is((await lethe('subjects', 'retire', 'drift_checks')).code, 2, 'a reason is needed');
});

test.serial('tenants that have data and no plan are found', async (t) => {
  const { lethe, stack } = t.context;
  await addChecks(stack, 'unplanned', await addEnvironment(stack, 'unplanned'), ['1 day']);
  await until('it is found', async () => /^unplanned +drift_checks /m.test((await lethe('tenants', 'unplanned')).out));
  t.notRegex((await lethe('tenants', 'unplanned')).out, /^planned /m);
});

test.serial('a tenant that nobody knows is refused, and not purged with nothing to do', async (t) => {
  const typo = await t.context.lethe('purge', '--of', 'nobody-typo', '--wait');
  t.deepEqual([typo.code, /TENANT_UNKNOWN/.test(typo.err)], [1, true], typo.out);
});

test.serial('a purge that is held alone is 4, is found, and is released by subject with a reason', async (t) => {
  const { lethe, stack } = t.context;
  await addTenant(stack, 'held', [...Array(6).fill('31 days'), '1 day']);
  const night = await lethe('--json', 'purge', '--of', 'held', '--wait', '--reason', 'night');
  t.is(night.code, 4, night.err);
  const { id, state } = lastLine(night);
  t.is(state, 'PURGE_STATE_PARTIAL');
  t.regex((await lethe('purges', 'list', '--state', 'partial')).out, new RegExp(`^${id} +PARTIAL`, 'm'));
  const shown = (await lethe('purges', 'get', id)).out;
  t.regex(shown, /^held +HELD +PRO .*drift_checks: 6 of 7 would go$/m);
  t.regex(shown, /^held +drift_checks +HELD +30 days +6 of 7 .*6 of 7 would go$/m);
  t.regex(shown, /^held +approvals +COMPLETE +180 days +0 of 0 /m, 'the other subjects are done');
  t.is((await lethe('purges', 'approve', id, 'held')).code, 2, 'a reason is needed');
  t.is((await lethe('purges', 'approve', id, 'held', '--subjects', 'approvals', '--reason', 'x')).code, 1);
  const approve = await lethe(
    'purges',
    'approve',
    id,
    'held',
    '--subjects',
    'drift_checks',
    '--reason',
    'their backlog',
  );
  t.is(approve.code, 0, approve.err);
  await until('it went', async () =>
    /^held +COMPLETE +PRO +.*drift_check 6/m.test((await lethe('purges', 'get', id)).out),
  );
  t.regex((await lethe('purges', 'get', id)).out, /6 released by \S+: their backlog/);
  t.is((await lethe('purges', 'approve', id, 'nobody', '--reason', 'again')).code, 1);
});

test.serial(
  'a purge shows how it goes, a rehearsal removes nothing, and subjects that are not named stay',
  async (t) => {
    const { lethe, stack } = t.context;
    await addTenant(stack, 'goes', ['31 days', '1 day', '1 day']);
    const rehearsal = await lethe('purge', '--of', 'goes', '--wait', '--dry-run');
    t.deepEqual([rehearsal.code, /drift_check 1\b/.test(rehearsal.out)], [0, true], rehearsal.out);
    const others = await lethe('purge', '--of', 'goes', '--subjects', 'approvals,incident_payloads', '--wait');
    t.is(others.code, 0, others.err);
    t.is(await rowsOf(stack, 'drift_checks', 'goes'), 3);
    const watched = await lethe.with({ typing: ['purge'] })('purge', '--of', 'goes', '--wait', '--reason', 'night');
    t.is(watched.code, 0, watched.err);
    t.regex(watched.screen, /1\/1 tenants/);
    t.regex(watched.out, /^goes COMPLETE .*drift_check 1\b/m);
    t.is(await rowsOf(stack, 'drift_checks', 'goes'), 2);
    t.regex((await lethe('purge', '--of', 'goes', '--subjects', 'no_such')).err, /FIELD_INVALID/);
    t.is((await lethe('purge', '--all', '--of', 'goes')).code, 2);
    t.is((await lethe('purge')).code, 2);
  },
);

test.serial("a tenant's own admin purges their tenant, by key and by token, and nobody else's", async (t) => {
  const { lethe, stack } = t.context;
  await addTenant(stack, 'own', ['31 days', '1 day', '1 day']);
  await addTenant(stack, 'other', ['31 days', '1 day', '1 day']);
  const asAdmin = ['--tenant', 'own', '--role', 'admin'];
  const rehearsal = await lethe(...asAdmin, 'purge', '--dry-run', '--wait');
  t.deepEqual([rehearsal.code, /^own COMPLETE .*drift_check 1\b/m.test(rehearsal.out)], [0, true], rehearsal.err);
  const begun = await lethe(...asAdmin, 'purge', '--reason', 'spring cleaning');
  t.is(begun.code, 0, begun.err);
  t.regex(begun.out, /^purge \S+ is under way$/);
  await until('it went', async () => (await rowsOf(stack, 'drift_checks', 'own')) === 2);

  await addChecks(stack, 'own', await addEnvironment(stack, 'own', 'staging'), ['31 days']);
  const LETHE_TOKEN = await stack.token({ role: 'admin', tenantId: 'own' });
  const byToken = lethe.with({ env: { LETHE_TOKEN } });
  let waited = await byToken('purge', '--wait');
  // The one before may have its last steps to do.
  await until('no other purge of the tenant runs', async () => {
    if (!/OPERATION_IN_PROGRESS/.test(waited.err)) return true;
    waited = await byToken('purge', '--wait');
    return false;
  });
  t.is(waited.code, 0, waited.err);
  t.regex(waited.out, /COMPLETE: 1 of 1 tenants$/m);
  t.is(await rowsOf(stack, 'drift_checks', 'own'), 2);

  t.is((await byToken('purge', '--of', 'other')).code, 1, "another tenant's does not exist");
  t.is((await byToken('purge', '--all')).code, 2);
  t.is((await lethe(...asAdmin, 'purge', '--of', 'own', 'other')).code, 2);
  t.regex((await lethe('--tenant', 'own', '--role', 'member', 'purge')).err, /ROLE_TOO_LOW/);
  t.is(await rowsOf(stack, 'drift_checks', 'other'), 3);
});

test.serial('while purges are stopped a purge waits and says so, and goes on when the stop is lifted', async (t) => {
  const { lethe, stack } = t.context;
  await addTenant(stack, 'stopped', ['31 days', '1 day', '1 day']);
  t.regex((await lethe('stop', '--status')).out, /^purges are not stopped/);
  for (const args of [[], ['--reason', 'x', '--status']]) t.is((await lethe('stop', ...args)).code, 2);
  t.is((await lethe('resume')).code, 2, 'a reason is needed');
  t.regex(
    (await lethe('--tenant', 'stopped', '--role', 'admin', 'stop', '--reason', 'x')).err,
    /ROLE_TOO_LOW|PERMISSION/,
  );

  const stopped = await lethe('stop', '--reason', 'we saw the wrong counts');
  t.regex(stopped.out, /^purges are stopped since \S+ by \S+: we saw the wrong counts$/);
  const begun = await lethe('purge', '--of', 'stopped');
  t.regex(begun.out, /^purge \S+ waits: purges are stopped since .*: we saw the wrong counts$/);
  const { id } = parsedLine((await lethe('--json', 'purges', 'list', '--limit', '1')).out)[0];
  t.regex((await lethe('purges', 'get', id)).out, /^purges are stopped since /m);

  let isOver = false;
  const waiting = lethe('purge', '--all', '--wait').finally(() => {
    isOver = true;
  });
  await until('it is ordered', async () => parsedLine((await lethe('--json', 'purges', 'list')).out)[0].id !== id);
  t.is(await rowsOf(stack, 'drift_checks', 'stopped'), 3);
  t.false(isOver);
  t.is((await lethe('resume', '--reason', 'the counts were right')).code, 0);
  const outcome = await waiting;
  t.regex(outcome.err, /purges are stopped since .*we saw the wrong counts.* waits for `lethe resume`/);
  await until('it went', async () => (await rowsOf(stack, 'drift_checks', 'stopped')) === 2);
  t.regex(
    (await lethe('stop', '--status')).out,
    /^purges are not stopped; resumed at \S+ by \S+: the counts were right$/,
  );
});

test.serial('a purge in which too many tenants are narrowed is held whole, is 4, and is released whole', async (t) => {
  const { lethe } = t.context;
  const tenants = ['fleet-a', 'fleet-b'];
  const each = (...args: string[]) =>
    Promise.all(tenants.map(async (tenant) => t.is((await lethe('policies', 'set', tenant, ...args)).code, 0)));
  await each('--days', '90');
  t.is((await lethe('purge', '--of', ...tenants, '--wait')).code, 0);
  await each('--days', '10');
  const held = await lethe('--json', 'purge', '--of', ...tenants, '--wait');
  const { id, state } = lastLine(held);
  t.deepEqual([held.code, state], [4, 'PURGE_STATE_HELD'], held.err);
  t.regex((await lethe('purges', 'get', id)).out, /^2 of 2 tenants have a narrower window than in their last purge; /m);
  t.is((await lethe('purges', 'approve', id, '--reason', 'they asked for it')).code, 0);
  await until('it went', async () =>
    new RegExp(`^${id} +COMPLETE .* 2/2 `, 'm').test((await lethe('purges', 'get', id)).out),
  );
  t.regex((await lethe('purges', 'get', id)).out, /released at \S+ by \S+: they asked for it/);
});

test.serial(
  'what makes data go asks on a terminal, what is mistyped changes nothing, and --yes is not asked',
  async (t) => {
    const { lethe, stack } = t.context;
    await addTenant(stack, 'sure', [...Array(6).fill('31 days'), '1 day']);
    const typed = (...typing: string[]) => lethe.with({ typing });
    const newest = async (): Promise<string> =>
      parsedLine((await lethe('--json', 'purges', 'list', '--limit', '1')).out)[0].id;
    const before = await newest();

    const all = ['purge', '--all', '--reason', 'night'];
    const mistyped = await typed('yes')(...all);
    t.deepEqual([mistyped.code, mistyped.asked.length], [2, 1]);
    t.regex(mistyped.asked[0] ?? '', /of every tenant, cannot be undone\. Type all to go on:/);
    t.is(await newest(), before, 'no purge was ordered');
    t.deepEqual((await typed()(...all, '--dry-run')).asked, [], 'a rehearsal takes nothing');

    // A purge of the one tenant, held by its ceiling.
    const held = await typed('purge')('--json', 'purge', '--of', 'sure', '--wait');
    t.deepEqual([held.code, held.asked.length], [4, 1], held.err);
    const { id } = lastLine(held);
    const approve = ['purges', 'approve', id, '--of', 'sure', '--reason', 'their backlog'];
    const refused = await typed(id)(...approve);
    t.is(refused.code, 2);
    t.regex(refused.err, /6 of 7 would go/, 'what is released is shown');
    t.regex(refused.asked[0] ?? '', /Type sure to go on:/);
    t.is(await rowsOf(stack, 'drift_checks', 'sure'), 7);
    t.is((await typed('sure')(...approve)).code, 0);
    await until('it went', async () => (await rowsOf(stack, 'drift_checks', 'sure')) === 1);

    await addTenant(stack, 'shrinks', ['8 days', '9 days', '1 day']);
    const plan = ['plans', 'set', 'shrinks', 'FREE', '--reason', 'cheaper'];
    const kept = await typed('FREE')(...plan);
    t.deepEqual([kept.code, kept.asked.length], [2, 1], kept.err);
    t.regex((await lethe('plans', 'get', 'shrinks')).out, /^shrinks +PRO +1 /m);
    t.is((await typed('shrinks')(...plan)).code, 0);
    t.regex((await lethe('plans', 'get', 'shrinks')).out, /^shrinks +FREE +2 /m);
    const back = await typed()('plans', 'set', 'shrinks', 'PRO', '--reason', 'they stay');
    t.deepEqual([back.code, back.asked], [0, []], 'a longer window takes nothing');

    const unset = ['policies', 'delete', 'shrinks'];
    t.is((await lethe('policies', 'set', 'shrinks', '--days', '400')).code, 0);
    t.is((await typed('no')(...unset)).code, 2);
    t.is((await lethe('policies', 'get', 'shrinks')).code, 0);
    t.deepEqual((await typed()(...unset, '--yes')).asked, []);

    // Nobody is there: the CronJob is never asked.
    const night = await lethe(...all);
    t.deepEqual([night.code, night.asked], [0, []], night.err);
    t.not(await newest(), id);
  },
);
