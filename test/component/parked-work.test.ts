import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { toJsonString } from '@bufbuild/protobuf';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { parse } from 'yaml';
import { type ParkedWork, ParkedWorkKind, ParkedWorkSchema } from '#gen/lethe/status/v1/status_service_pb.ts';
import { createLethe } from '#libs/client/lethe.ts';
import type { ServiceName } from '#libs/client/services.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

interface Context {
  stack: TestStack;
  lethe: CommandLine;
}

type T = ExecutionContext<Context>;

const test = anyTest as TestFn<Context>;
const DEPLOY = fileURLToPath(new URL('../../deploy/', import.meta.url));
const PRIVATE = 'what-a-tenant-wrote';

const query = (t: T, service: ServiceName, sql: string, values: readonly unknown[] = []) =>
  queryOnce<Record<string, string>>(t.context.stack.superuserUrl(service), sql, values);

async function addRunDeletion(t: T, tenantId: string, state = 'STUCK'): Promise<string> {
  const id = newId();
  await query(
    t,
    'run',
    `insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, reason, fingerprint, attempts, last_error)
     values ($1, $2, $3, 'PURGE', $4, 'x', 'x', $5, 'x', 10, 'STORE_REFUSED: ' || $5)`,
    [tenantId, id, newId(), state, PRIVATE],
  );
  return id;
}

async function addJobDeletion(t: T, tenantId: string): Promise<string> {
  const id = newId();
  await query(
    t,
    'job',
    `insert into job_deletions (tenant_id, id, job_id, state, actor, subject, reason, counts, attempts, last_error)
     values ($1, $2, $3, 'STUCK', 'x', 'x', $4, '[]', 3, $4)`,
    [tenantId, id, newId(), PRIVATE],
  );
  return id;
}

async function addBulkDeletion(t: T, tenantId: string, hoursAgo = 0): Promise<string> {
  const id = newId();
  await query(
    t,
    'run',
    `insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, fingerprint, force, filter,
                                 created_at, next_attempt_at)
     values ($1, $2, 'PURGE', 'RUNNING', 'x', 'x', $3, '', false, '{"states": [], "showDeleted": true}', now() - $4 * interval '1 hour',
             now() + interval '1 day')`,
    [tenantId, id, PRIVATE, hoursAgo],
  );
  return id;
}

async function addParkedRun(t: T, tenantId: string): Promise<string> {
  const id = newId();
  await query(
    t,
    'run',
    `insert into workflow_runs (tenant_id, id, workflow, display_name, state, driver, parked_reason, attempts)
     values ($1, $2, $3, $3, 'FAILED', 'ENGINE', 'DEPENDENCY_UNAVAILABLE: ' || $3, 10)`,
    [tenantId, id, PRIVATE],
  );
  return id;
}

async function addHeldSubject(t: T, tenantId: string, hoursAgo: number, isFleet = false): Promise<string> {
  const id = newId();
  await query(
    t,
    'retention',
    `with p as (
       insert into retention_purges (id, trigger, validate_only, actor, subject, reason, fingerprint, fleet_held_at)
       values ($2, 'PURGE', false, 'x', 'x', $3, 'x', case when $5 then now() end)),
     i as (
       insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor)
       values ($1, $2, 'HELD', false, 'x'))
     insert into retention_purge_subjects
       (tenant_id, purge_id, subject, owner, state, validate_only, kind, days, source, held_at, error)
     values ($1, $2, 'drift_checks', 'incident', case when $5 then 'PENDING' else 'HELD' end, false, 'DAYS', 7, 'PLAN',
             case when not $5 then now() - $4 * interval '1 hour' end, $3)`,
    [tenantId, id, PRIVATE, hoursAgo, isFleet],
  );
  return id;
}

async function parkedFor(t: T, identity: Parameters<TestStack['token']>[0], tenantId = '') {
  const { stack } = t.context;
  const lethe = createLethe({ ...stack.addresses, token: await stack.token(identity) });
  const found: ParkedWork[] = [];
  try {
    for (const service of ['run', 'job', 'incident', 'retention'] as const) {
      let pageToken = '';
      do {
        const page = await lethe.services.status[service].listParkedWork({ pageSize: 1, pageToken, tenantId });
        t.true(page.items.length <= 1);
        found.push(...page.items);
        pageToken = page.nextPageToken;
      } while (pageToken !== '');
    }
  } finally {
    lethe.close();
  }
  return found;
}

const idsOf = (found: readonly ParkedWork[]) => found.map(({ id }) => id);

test.before(async (t) => {
  t.context.stack = await startTestStack();
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack?.dispose());

test.serial(
  'what waits for a person is listed over all tenants, page by page, without what tenants wrote',
  async (t) => {
    const stuck = await addRunDeletion(t, 'acme');
    const otherStuck = await addRunDeletion(t, 'zeta');
    const run = await addParkedRun(t, 'acme');
    const job = await addJobDeletion(t, 'acme');
    await addHeldSubject(t, 'acme', 25);
    const held = await addHeldSubject(t, 'acme', 1);
    const fleet = await addHeldSubject(t, 'zeta', 0, true);
    await addRunDeletion(t, 'acme', 'COMPLETE');
    await addRunDeletion(t, 'acme', 'CANCELLED');

    const all = await parkedFor(t, { role: 'platform' });
    t.deepEqual(idsOf(all), [stuck, run, otherStuck, job, fleet, held], 'held night after night is held once');
    t.deepEqual(
      all.map(({ tenantId, kind, targetType, state, reason, attemptCount }) => [
        tenantId,
        kind,
        targetType,
        state,
        reason,
        attemptCount,
      ]),
      [
        ['acme', ParkedWorkKind.DELETION, 'run', 'STUCK', 'STORE_REFUSED', 10],
        ['acme', ParkedWorkKind.COMPENSATION, 'run', 'FAILED', 'DEPENDENCY_UNAVAILABLE', 10],
        ['zeta', ParkedWorkKind.DELETION, 'run', 'STUCK', 'STORE_REFUSED', 10],
        ['acme', ParkedWorkKind.DELETION, 'job', 'STUCK', '', 3],
        ['', ParkedWorkKind.HELD_PURGE, 'purge', 'HELD', 'FLEET_CEILING', 0],
        ['acme', ParkedWorkKind.HELD_SUBJECT, 'subject', 'HELD', 'PURGE_CEILING', 0],
      ],
    );
    t.true(all.every(({ parkTime }) => parkTime !== undefined));
    for (const work of all) t.false(toJsonString(ParkedWorkSchema, work).includes(PRIVATE));

    const acme = [stuck, run, job, held];
    t.deepEqual(idsOf(await parkedFor(t, { role: 'platform' }, 'acme')), acme);
    t.deepEqual(idsOf(await parkedFor(t, { role: 'admin', tenantId: 'acme' })), acme, 'their own, and no other');
    t.deepEqual(idsOf(await parkedFor(t, { role: 'admin', tenantId: 'zeta' })), [otherStuck]);
    t.deepEqual(await parkedFor(t, { role: 'owner', tenantId: 'nobody' }), []);
    await t.throwsAsync(parkedFor(t, { role: 'admin', tenantId: 'acme' }, 'zeta'), { code: 'PERMISSION_DENIED' });
    await t.throwsAsync(parkedFor(t, { role: 'member', tenantId: 'acme' }), { code: 'PERMISSION_DENIED' });
  },
);

test.serial('`lethe parked` shows all of it with a command for each that an operator may run', async (t) => {
  const { lethe } = t.context;
  const shown = await lethe.with({ columns: 80 })('parked');
  t.is(shown.code, 0, shown.err);
  t.true(
    shown.out.split('\n').every((line) => line.length <= 80 || line.startsWith('lethe ')),
    shown.out,
  );
  const listed = parsedLine((await lethe('--json', 'parked')).out) as { service: string; command: string }[];
  t.is(listed.length, 6);
  for (const { command } of listed) t.true(shown.out.includes(`\n${command}`), command);
  t.is((parsedLine((await lethe('--json', 'parked', '--of', 'zeta')).out) as unknown[]).length, 1);
  t.is((parsedLine((await lethe('--json', 'parked', '--service', 'job')).out) as unknown[]).length, 1);
  t.is((parsedLine((await lethe('--json', '--tenant', 'zeta', 'parked')).out) as unknown[]).length, 1);
  const away = await lethe.with({ env: { LETHE_JOB_ADDRESS: '127.0.0.1:1' } })('parked', '--limit', '1');
  t.is(away.code, 1, 'a list that lacks a service is none');

  for (const { command } of listed) {
    const words = command
      .split(' ')
      .slice(1)
      .map((word) => (word === "'…'" ? 'the store is back' : word));
    const { code, err } = await lethe(...words, ...(words[0] === 'purges' ? ['--yes'] : []));
    t.is(code, 0, `${command}: ${err}`);
  }
});

test.serial('a page is read by an index, whatever else there is', async (t) => {
  await query(
    t,
    'job',
    `insert into job_deletions (tenant_id, id, job_id, state, actor, subject, counts)
     select 'many', gen_random_uuid(), gen_random_uuid(), case when n % 100 = 0 then 'STUCK' else 'COMPLETE' end, 'x', 'x', '[]'
     from generate_series(1, 20000) n`,
  );
  await query(t, 'job', 'analyze job_deletions');
  const plan = await query(
    t,
    'job',
    `explain select * from parked_work p
     where (p.tenant_id, p.id, p.target_id) > ('many', '00000000-0000-0000-0000-000000000000', '')
     order by p.tenant_id, p.id, p.target_id limit 51`,
  );
  t.regex(JSON.stringify(plan), /using job_deletions_stuck/);
  t.notRegex(JSON.stringify(plan), /Sort/);
});

/** The commands of each alert's entry in the runbook, by alert. */
async function runbook(): Promise<ReadonlyMap<string, readonly string[]>> {
  const text = await readFile(join(DEPLOY, 'README.md'), 'utf8');
  const entries = [...text.matchAll(/^#### (Lethe\w+)\n(?:(?!^#)[\s\S])*?^```sh\n([\s\S]*?)^```/gm)];
  return new Map(entries.map(([, alert = '', commands = '']) => [alert, commands.trim().split('\n')]));
}

test.serial('every alert names its entry in the runbook, whose commands its reader can run', async (t) => {
  const { groups } = parse(await readFile(join(DEPLOY, 'alerts/lethe.rules.yaml'), 'utf8'));
  const rules: readonly { alert: string; annotations: Record<string, string> }[] = groups.flatMap(
    (group: { rules: unknown[] }) => group.rules,
  );
  const entries = await runbook();
  t.deepEqual([...entries.keys()].toSorted(), rules.map(({ alert }) => alert).toSorted());
  for (const { alert, annotations } of rules)
    t.is(annotations['runbook'], `deploy/README.md#${alert.toLowerCase()}`, alert);

  const { stack, lethe } = t.context;
  const { jobs } = stack.clients({ role: 'admin', tenantId: 'acme' });
  const { job } = await jobs.createJob({});
  for (const [alert, commands] of entries) {
    const ids: Readonly<Record<string, string>> = {
      TENANT: 'acme',
      DELETION: await addRunDeletion(t, 'acme'),
      RUN: await addParkedRun(t, 'acme'),
      JOB: job?.id ?? '',
      BULK: await addBulkDeletion(t, 'acme'),
      PURGE: await addHeldSubject(t, 'acme', 0),
    };
    for (const command of commands) {
      const [program, ...words] = [...command.matchAll(/'([^']*)'|"\$(\w+)"|(\S+)/g)].map(
        ([, quoted, name, word]) => quoted ?? (name === undefined ? word : ids[name]) ?? '',
      );
      t.is(program, 'lethe', command);
      const { code, err } = await lethe(...words);
      t.is(code, 0, `${alert}: ${command}: ${err}`);
    }
  }
});

test.serial('`lethe overdue` tells the oldest work of each kind that is not done, and how to see it', async (t) => {
  const { lethe } = t.context;
  const bulk = await addBulkDeletion(t, 'omega', 30);
  const deletion = newId();
  await query(
    t,
    'run',
    `insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint, created_at, next_attempt_at)
     values ('omega', $1, $1, 'PURGE', 'CASCADING', 'x', $2, 'x', now() - interval '51 hours', now() + interval '1 day')`,
    [deletion, PRIVATE],
  );
  const compensation = newId();
  await query(
    t,
    'run',
    `insert into workflow_runs (tenant_id, id, workflow, display_name, state, driver, created_at, compensating_at, due_at)
     values ('omega', $1, $2, $2, 'COMPENSATING', 'ENGINE', now() - interval '90 hours', now() - interval '20 hours',
             now() + interval '1 day')`,
    [compensation, PRIVATE],
  );
  const { jobs } = t.context.stack.clients({ role: 'admin', tenantId: 'omega' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  await query(
    t,
    'job',
    `insert into artifact_uploads (tenant_id, job_id, id, kind, name, state, due_at, created_at)
     values ('omega', $1, gen_random_uuid(), 'INPUT', $2, 'OPEN', now() + interval '1 day', now() - interval '7 hours')`,
    [jobId, PRIVATE],
  );
  await query(
    t,
    'retention',
    `with p as (
       insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint, created_at)
       values ($1, 'PURGE', false, 'x', 'x', 'x', now() - interval '3 hours'))
     insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, due_at)
     values ('omega', $1, 'PENDING', false, 'x', now() + interval '1 day')`,
    [compensation],
  );
  const expected = [
    ['run', 'WORK_KIND_DELETION', deletion, 51],
    ['run', 'WORK_KIND_BULK_DELETION', bulk, 30],
    ['run', 'WORK_KIND_COMPENSATION', compensation, 20],
    ['job', 'WORK_KIND_UPLOAD', jobId, 7],
    ['retention', 'WORK_KIND_PURGE', compensation, 3],
  ];
  const found = async (...args: string[]) =>
    (
      parsedLine((await lethe('--json', ...args, 'overdue')).out) as {
        service: string;
        kind: string;
        id: string;
        ageSeconds: number;
      }[]
    ).map(({ service, kind, id, ageSeconds }) => [service, kind, id, Math.round(ageSeconds / 3_600)]);
  t.deepEqual(await found('--tenant', 'omega'), expected);
  t.deepEqual(await found('--tenant', 'nobody'), []);
  const all = (await found()).filter((row) => row[3] !== 0);
  t.deepEqual(all, expected, 'of all tenants');
  const shown = await lethe.with({ columns: 80 })('overdue');
  t.true(
    shown.out.split('\n').every((line) => line.length <= 80 || line.startsWith('lethe ')),
    shown.out,
  );
  t.false(shown.out.includes(PRIVATE));
  for (const line of shown.out.split('\n').filter((each) => each.startsWith('lethe '))) {
    const { code, err } = await lethe(...line.split(' ').slice(1));
    t.is(code, 0, `${line}: ${err}`);
  }
  t.is((await lethe.with({ env: { LETHE_JOB_ADDRESS: '127.0.0.1:1' } })('overdue')).code, 1);
});

for (const service of ['run', 'job'] as const) {
  test.serial(
    `${service}: a deletion that is parked while it is redriven is driven anew, and the audit tells of it`,
    async (t) => {
      const tenantId = `parking-${service}`;
      const table = service === 'run' ? 'deletions' : 'job_deletions';
      const id = service === 'run' ? await addRunDeletion(t, tenantId) : await addJobDeletion(t, tenantId);
      const underWay = `update ${table} set state = 'PENDING', next_attempt_at = now() + interval '1 hour' where id = $1`;
      await query(t, service, underWay, [id]);
      const worker = new pg.Client(t.context.stack.superuserUrl(service));
      await worker.connect();
      try {
        await worker.query('begin');
        await worker.query(`update ${table} set state = 'STUCK', next_attempt_at = null where id = $1`, [id]);
        const { runs, jobs } = t.context.stack.clients({ tenantId, role: 'admin' });
        const redriven = (service === 'run' ? runs : jobs).redriveDeletion({ deletionId: id });
        await new Promise((resolve) => setTimeout(resolve, 300));
        await worker.query('commit');
        await redriven;
        const [row] = await query(t, service, `select attempts::text from ${table} where id = $1`, [id]);
        // Of several before; a worker may have taken it up by now.
        t.true(Number(row?.['attempts']) <= 1, row?.['attempts']);
        const audited = "select 1 from audit_entries where tenant_id = $1 and lower(action) = 'redrive'";
        t.is((await query(t, service, audited, [tenantId])).length, 1);
      } finally {
        await worker.end();
      }
    },
  );
}
