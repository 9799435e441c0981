import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { parse } from 'yaml';
import { freePort } from '#deploy/local/free-port.ts';
import { makeKeys } from '#deploy/make-keys.ts';
import { WorkKind } from '#gen/lethe/status/v1/status_service_pb.ts';
import { ITEM_ENDS } from '#libs/bulk-deletion/bulk-deletion.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Environment } from '#libs/kernel/settings.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import { type RunningService, startService } from '#libs/service/run-service.ts';
import { OVERDUE_AFTER } from '#services/console/page/overdue/overdue-after.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { readIncidentSettings } from '#services/incident/config.ts';
import { composeIncidentService } from '#services/incident/container.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { readJobSettings } from '#services/job/config.ts';
import { composeJobService } from '#services/job/container.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { readRetentionSettings } from '#services/retention/config.ts';
import { composeRetentionService } from '#services/retention/container.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { readRunSettings } from '#services/run/config.ts';
import { composeRunService } from '#services/run/container.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { bundleOf } from '#test/support/programs.ts';
import { hasProgram, testIfFound } from '#test/support/require.ts';

const exec = promisify(execFile);
const DEPLOY = fileURLToPath(new URL('../../deploy/', import.meta.url));

const SERVICES = {
  run: serviceOf(runMigrations, readRunSettings, composeRunService),
  job: serviceOf(jobMigrations, readJobSettings, composeJobService),
  incident: serviceOf(incidentMigrations, readIncidentSettings, composeIncidentService),
  retention: serviceOf(retentionMigrations, readRetentionSettings, composeRetentionService),
};

interface Served {
  readonly database: TestDatabase;
  readonly service: RunningService;
  /** What Prometheus would read now. */
  metrics(): Promise<string>;
}

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

interface Panel {
  readonly id: number;
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets: readonly { readonly expr: string; readonly datasource: { readonly uid: string } }[];
}

interface Context {
  folder: string;
  postgres: TestPostgres;
  served: Readonly<Record<keyof typeof SERVICES, Served>>;
  rules: readonly Rule[];
  panels: readonly Panel[];
}

const test = anyTest as TestFn<Context>;

/** A service as its main.ts composes it. */
function serviceOf<Settings extends Parameters<typeof startService>[1]>(
  migrations: readonly Migration[],
  readSettings: (env: Environment) => Settings,
  compose: (
    settings: Settings,
    foundation: Parameters<Parameters<typeof startService>[3]>[0],
  ) => ReturnType<Parameters<typeof startService>[3]>,
) {
  return {
    migrations,
    start(name: string, env: Environment) {
      const settings = readSettings(env);
      return startService(name, settings, migrations, (foundation) => compose(settings, foundation));
    },
  };
}

test.before(async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-alerts-'));
  await makeKeys(join(folder, 'keys'));
  const postgres = await startTestPostgres();
  const entries = await Promise.all(
    Object.entries(SERVICES).map(async ([name, { migrations, start }]) => {
      const database = await postgres.createDatabase(migrations);
      const metricsAddress = `127.0.0.1:${await freePort()}`;
      const service = await start(name, {
        LETHE_GRPC_ADDRESS: '127.0.0.1:0',
        LETHE_METRICS_ADDRESS: metricsAddress,
        LETHE_DATABASE_URL: database.appUrl,
        LETHE_TRUST_FILE: join(folder, 'keys/trust.json'),
        LETHE_SERVICE_KEY: join(folder, 'keys/run.json'),
        LETHE_PARTICIPANTS: 'job=127.0.0.1:1',
        LETHE_RETENTION_OWNERS: 'incident=127.0.0.1:1',
        LETHE_FILE_STORE_ROOT: join(folder, 'objects'),
        LETHE_LOG_LEVEL: 'silent',
      });
      const metrics = async () => (await fetch(`http://${metricsAddress}/metrics`)).text();
      return [name, { database, service, metrics }] as const;
    }),
  );
  const { groups } = parse(await readFile(join(DEPLOY, 'alerts/lethe.rules.yaml'), 'utf8'));
  const { panels } = JSON.parse(await readFile(join(DEPLOY, 'grafana/lethe.json'), 'utf8'));
  Object.assign(t.context, {
    folder,
    postgres,
    served: Object.fromEntries(entries),
    rules: groups.flatMap((group: { rules: Rule[] }) => group.rules),
    panels,
  });
});

test.after.always(async (t) => {
  const { served, postgres, folder } = t.context;
  for (const { service } of Object.values(served ?? {})) await service.stop();
  await postgres?.stop();
  await rm(folder, { recursive: true, force: true });
});

/** The names of metrics in a query: what is ours, Node's or the process's. */
const namesIn = (query: string): readonly string[] => query.match(/\b(?:lethe|process|nodejs)_\w+/g) ?? [];

/** The names under which a scrape has samples, or would have: of a counter without any its type is all there is. */
const exported = (scraped: string): ReadonlySet<string> =>
  new Set(
    [...scraped.matchAll(/^# TYPE (\w+) (\w+)$/gm)].flatMap(([, name = '', type]) =>
      type === 'histogram' ? ['_bucket', '_sum', '_count'].map((suffix) => name + suffix) : [name],
    ),
  );

const sample = (scraped: string, name: string): number => {
  const [, value] = new RegExp(`^${name}\\{[^}]*\\} (\\S+)$`, 'm').exec(scraped) ?? [];
  return Number(value);
};

test('every metric that an alert or a panel asks for is exported by a service', async (t) => {
  const { served, rules, panels } = t.context;
  const scraped = await Promise.all(Object.values(served).map(({ metrics }) => metrics()));
  const names = new Set(scraped.flatMap((text) => [...exported(text)]));
  const queries = [
    ...rules.map(({ expr }) => expr),
    ...panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)),
  ];
  t.true(queries.length >= 15);
  for (const query of queries) {
    t.true(namesIn(query).length > 0, query);
    for (const name of namesIn(query)) t.true(names.has(name), `${name} in ${query}`);
  }
  t.false(names.has('lethe_no_such_metric'));
});

// By the word of its metric; of the kinds that the console calls overdue.
const OLDEST: Readonly<Record<string, WorkKind>> = {
  deletion: WorkKind.DELETION,
  bulk_deletion: WorkKind.BULK_DELETION,
  run: WorkKind.RUN,
  compensation: WorkKind.COMPENSATION,
  upload: WorkKind.UPLOAD,
  purge: WorkKind.PURGE,
};

test('the age of the oldest unfinished work of every kind has a metric, an alert, a panel and a limit on the page', async (t) => {
  const { served, rules, panels } = t.context;
  const scraped = await Promise.all(Object.values(served).map(({ metrics }) => metrics()));
  const names = scraped.flatMap((text) => [...exported(text)]);
  const isKind = (kind: unknown) => typeof kind === 'number' && kind !== WorkKind.UNSPECIFIED;
  t.deepEqual(Object.values(OLDEST).toSorted(), Object.values(WorkKind).filter(isKind) as WorkKind[]);
  for (const [word, kind] of Object.entries(OLDEST)) {
    const metric = `lethe_oldest_unfinished_${word}_seconds`;
    t.true(names.includes(metric), metric);
    const [rule, ...others] = rules.filter(({ expr }) => expr.includes(metric));
    t.deepEqual(others, [], metric);
    const [, factor = 'NaN', hour] =
      />\s*(?:(\d+) \* )?(3600)$/.exec(rule?.expr ?? '')?.map((part) => part ?? '1') ?? [];
    t.is(Number(factor) * Number(hour), OVERDUE_AFTER[kind] ?? 0, `${metric}: ${rule?.expr}`);
    t.true(
      panels.some(({ targets }) => targets.some(({ expr }) => expr.includes(metric))),
      metric,
    );
  }
});

test('Run and Job tell of their deletions, Retention of its purges', async (t) => {
  const namesOf = async (service: keyof typeof SERVICES) => exported(await t.context.served[service].metrics());
  for (const service of ['run', 'job'] as const) {
    const names = await namesOf(service);
    for (const name of ['oldest_unfinished_deletion_seconds', 'stuck_deletions', 'bulk_deletion_items_left']) {
      t.true(names.has(`lethe_${name}`), name);
    }
  }
  const names = await namesOf('retention');
  for (const name of ['last_purge_timestamp_seconds', 'held_purges', 'purges_stopped', 'unplanned_tenants']) {
    t.true(names.has(`lethe_${name}`), name);
  }
  t.true(names.has('lethe_retention_overdue_seconds'));
});

test('deletions that are stuck are counted, whatever their tenant, and no others', async (t) => {
  const { job, run } = t.context.served;
  t.is(sample(await job.metrics(), 'lethe_stuck_deletions'), 0);
  for (const [tenantId, state] of [
    ['a', 'STUCK'],
    ['b', 'STUCK'],
    ['b', 'COMPLETE'],
    ['c', 'CANCELLED'],
  ]) {
    const values = [tenantId, newId(), newId(), state];
    await job.database.query(
      `insert into job_deletions (tenant_id, id, job_id, state, actor, subject, counts, created_at)
       values ($1, $2, $3, $4, 'x', 'x', '[]', now() - interval '1 hour')`,
      values,
    );
    await run.database.query(
      `insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint, created_at)
       values ($1, $2, $3, 'PURGE', $4, 'x', 'x', 'x', now() - interval '1 hour')`,
      values,
    );
  }
  for (const { metrics } of [job, run]) {
    const scraped = await metrics();
    t.is(sample(scraped, 'lethe_stuck_deletions'), 2);
    const age = sample(scraped, 'lethe_oldest_unfinished_deletion_seconds');
    t.true(age >= 3_600 && age < 3_700);
  }
});

test('the oldest run that Lethe is doing or undoing is told, and one that is parked or its caller does is not', async (t) => {
  const { database, metrics } = t.context.served.run;
  for (const [hours, state, driver, isDue] of [
    [5, 'RUNNING', 'CALLER', false],
    [4, 'FAILED', 'ENGINE', false],
    [3, 'COMPENSATING', 'ENGINE', true],
    [2, 'RUNNING', 'ENGINE', true],
  ]) {
    await database.query(
      `insert into workflow_runs (tenant_id, id, workflow, display_name, state, driver, created_at, due_at)
       values ('a', $1, 'w', 'w', $2, $3, now() - $4 * interval '1 hour',
               case when $5 then now() + interval '1 hour' end)`,
      [newId(), state, driver, hours, isDue],
    );
  }
  const age = sample(await metrics(), 'lethe_oldest_unfinished_run_seconds');
  t.true(age >= 3 * 3_600 && age < 3 * 3_600 + 100, String(age));
  const compensating = async () => sample(await metrics(), 'lethe_oldest_unfinished_compensation_seconds') / 3_600;
  t.is(Math.round(await compensating()), 3, 'one of which it is not known when it began');
  await database.query(
    "update workflow_runs set compensating_at = now() - interval '2 hours' where state = 'COMPENSATING'",
    [],
  );
  t.is(Math.round(await compensating()), 2, 'however long its run had gone on before');
});

test('bulk deletions tell their age and the items that are left, whatever their tenant, until they have ended', async (t) => {
  const { job, run } = t.context.served;
  for (const { metrics, database } of [job, run]) {
    const figures = async () => {
      const scraped = await metrics();
      return {
        left: sample(scraped, 'lethe_bulk_deletion_items_left'),
        hours: Math.round(sample(scraped, 'lethe_oldest_unfinished_bulk_deletion_seconds') / 3_600),
      };
    };
    t.deepEqual(await figures(), { left: 0, hours: 0 });
    for (const [tenantId, state, hoursAgo] of [
      ['a', 'RUNNING', 2],
      ['b', 'CANCELLING', 3],
      ['b', 'STUCK', 9],
    ] as const) {
      await database.query(
        `with b as (
           insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, fingerprint, force, filter, counts,
                                       created_at, next_attempt_at)
           values ($1, gen_random_uuid(), 'PURGE', $2, 'x', 'x', 'x', '', false, '{}',
                   case when $2 = 'STUCK' then '[]'::jsonb end, now() - $3::int * interval '1 hour',
                   now() + interval '1 hour')
           returning tenant_id, id)
         insert into bulk_deletion_items (tenant_id, bulk_deletion_id, position, target_id, etag, state)
         select b.tenant_id, b.id, n, gen_random_uuid(), '', s
         from b, unnest(array['PENDING', 'RUNNING', 'COMPLETE', 'STUCK']) with ordinality o (s, n)`,
        [tenantId, state, hoursAgo],
      );
    }
    t.deepEqual(await figures(), { left: 4, hours: 3 });
    await database.query("update bulk_deletions set state = 'COMPLETE', counts = '[]'", []);
    t.deepEqual(await figures(), { left: 0, hours: 0 });
  }
});

test('a purge counts as run when it went over every tenant and has ended, and a held tenant until it is purged', async (t) => {
  const { database, metrics } = t.context.served.retention;
  const figures = async () => {
    const scraped = await metrics();
    const age = Date.now() / 1_000 - sample(scraped, 'lethe_last_purge_timestamp_seconds');
    return { hours: Math.round(age / 3_600), held: sample(scraped, 'lethe_held_purges') };
  };
  const addPlan = (tenantId: string) =>
    database.query(
      `insert into tenant_plans (tenant_id, version, plan, effective_at, created_at, actor)
       values ($1, 1, 'FREE', now() - interval '99 days', now() - interval '99 days', 'x')`,
      [tenantId],
    );
  const addPurge = async (
    hoursAgo: number,
    items: Readonly<Record<string, string>>,
    trigger = 'PURGE',
    dry = false,
  ) => {
    const id = newId();
    const at = `now() - interval '1 hour' * ${hoursAgo}`;
    await database.query(
      `insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint, created_at)
       values ($1, $2, $3, 'x', 'x', 'x', ${at})`,
      [id, trigger, dry],
    );
    for (const [tenantId, state] of Object.entries(items)) {
      await database.query(
        `insert into retention_purge_items
           (tenant_id, purge_id, state, validate_only, actor, updated_at, finished_at, due_at)
         values ($1, $2, $3, $4, 'x', ${at}, ${at}, case when $3 in ('PENDING', 'RUNNING') then now() + interval '1 day' end)`,
        [tenantId, id, state, dry],
      );
      if (state === 'HELD') {
        await database.query(
          `insert into retention_purge_subjects
             (tenant_id, purge_id, subject, state, validate_only, kind, days, source, held_at)
           values ($1, $2, 'drift_checks', 'HELD', $3, 'DAYS', 7, 'PLAN', ${at})`,
          [tenantId, id, dry],
        );
      }
      if (state === 'COMPLETE' && !dry) {
        await database.query(
          `insert into last_purges (tenant_id, subject, days, purge_id, completed_at)
           values ($1, 'drift_checks', 7, $2, ${at})
           on conflict (tenant_id, subject) do update set completed_at = excluded.completed_at`,
          [tenantId, id],
        );
      }
    }
  };
  t.deepEqual(await figures(), { hours: 0, held: 0 }, 'of the schema, which is new');
  for (const tenantId of ['a', 'b']) await addPlan(tenantId);
  await addPurge(50, { a: 'COMPLETE', b: 'FAILED' });
  t.deepEqual(await figures(), { hours: 50, held: 0 });
  await addPurge(20, { a: 'HELD', b: 'COMPLETE' });
  await addPurge(10, { a: 'HELD' });
  t.deepEqual(await figures(), { hours: 20, held: 1 }, 'one tenant is not all of them, and is held once');
  await addPurge(9, { a: 'COMPLETE' }, 'PURGE_NOW');
  await addPurge(8, { a: 'COMPLETE', b: 'COMPLETE' }, 'PURGE', true);
  t.deepEqual(await figures(), { hours: 20, held: 0 }, 'a rehearsal is no purge');
  const unfinished = async () => sample(await metrics(), 'lethe_oldest_unfinished_purge_seconds') / 3_600;
  t.is(await unfinished(), 0, 'neither what is held nor a rehearsal waits to be done');
  await addPurge(5, { a: 'RUNNING', b: 'COMPLETE' });
  t.is((await figures()).hours, 20, 'it has not ended');
  t.is(Math.round(await unfinished()), 5);
});

test('the first item of a bulk deletion that ends is seen as one more', async (t) => {
  for (const service of ['run', 'job'] as const) {
    const scraped = await t.context.served[service].metrics();
    for (const outcome of ITEM_ENDS) {
      t.regex(scraped, new RegExp(`^lethe_bulk_deletion_items_total\\{outcome="${outcome}",[^}]*\\} 0$`, 'm'));
    }
  }
});

test('the first purge that fails is seen as one more', async (t) => {
  const scraped = await t.context.served.retention.metrics();
  for (const outcome of ['FAILED', 'PARTIAL']) {
    t.regex(scraped, new RegExp(`^lethe_deletions_total\\{kind="retention",outcome="${outcome}",[^}]*\\} 0$`, 'm'));
  }
});

test('every alert is told by namespace, so that one installation does not hide another', (t) => {
  for (const { alert, expr } of t.context.rules) {
    const sums = expr.match(/\b(?:max|min|sum|group)\b[^(]*\([^)]*\)/g) ?? [];
    t.true(sums.length > 0, alert);
    for (const sum of sums) t.regex(sum, /by \(namespace\b/, alert);
  }
});

test('every alert says how bad it is, what has happened, and what to do', (t) => {
  const { rules } = t.context;
  t.is(new Set(rules.map(({ alert }) => alert)).size, rules.length);
  for (const { alert, labels, annotations } of rules) {
    t.true(['warning', 'critical'].includes(labels['severity'] ?? ''), alert);
    t.true((annotations['summary'] ?? '').length > 20 && (annotations['description'] ?? '').length > 20, alert);
  }
});

test('every command that an alert advises is one that lethe has', async (t) => {
  const told = t.context.rules.flatMap(({ annotations }) =>
    [...(annotations['description'] ?? '').matchAll(/`lethe ([^`]+)`/g)].map(([, command = '']) => command),
  );
  const advised = [...new Set(told)].map((command) => command.split(/\s+/));
  t.true(advised.length >= 4);
  const program = await bundleOf('libs/cli/lethe.ts');
  for (const command of advised) {
    const { stdout } = await exec(process.execPath, [program, ...command, '--help']);
    t.true(stdout.startsWith(`Usage: lethe ${command.filter((word) => !word.startsWith('-')).join(' ')} `), stdout);
  }
});

test('every panel has a place of its own on the board and asks the source that the reader chose', (t) => {
  const taken = new Set<string>();
  for (const { title, gridPos, targets } of t.context.panels) {
    t.true(gridPos.x + gridPos.w <= 24, title);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
        t.false(taken.has(`${x}:${y}`), title);
        taken.add(`${x}:${y}`);
      }
    }
    t.true(targets.length > 0);
    for (const { datasource } of targets) t.regex(datasource.uid, /^\$\{datasource\}$/);
  }
  t.is(new Set(t.context.panels.map(({ id }) => id)).size, t.context.panels.length);
});

const testPromtool = (title: string, body: (t: ExecutionContext<Context>) => Promise<void>) =>
  testIfFound(test, hasProgram('promtool'), 'promtool', title, body);

testPromtool('the alerts fire when they promise to, and not before', async (t) => {
  const { stdout } = await exec('promtool', ['test', 'rules', join(DEPLOY, 'alerts/lethe.rules.test.yaml')]);
  t.regex(stdout, /SUCCESS/);
  const { tests } = parse(await readFile(join(DEPLOY, 'alerts/lethe.rules.test.yaml'), 'utf8'));
  const fired = new Set<string>();
  for (const { alert_rule_test: cases } of tests) {
    for (const { alertname, exp_alerts: expected } of cases) if (expected.length > 0) fired.add(alertname);
  }
  t.deepEqual([...fired].sort(), t.context.rules.map(({ alert }) => alert).sort());
});

testPromtool('every query of a panel is one that Prometheus reads', async (t) => {
  const { folder, panels } = t.context;
  const rules = panels
    .flatMap(({ targets }) => targets)
    .map(({ expr }, index) => ({
      record: `panel_${index}`,
      expr: expr.replaceAll('$__rate_interval', '5m'),
    }));
  const file = join(folder, 'panels.json');
  await writeFile(file, JSON.stringify({ groups: [{ name: 'panels', rules }] }));
  const { stdout } = await exec('promtool', ['check', 'rules', file]);
  t.regex(stdout, new RegExp(`SUCCESS: ${rules.length} rules found`));
});
