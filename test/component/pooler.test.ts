import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import anyTest, { type TestFn } from 'ava';
import type { Knex } from 'knex';
import pg from 'pg';
import { freePort } from '#deploy/local/free-port.ts';
import { OwnerBoxError, parseOwnerFile } from '#libs/owner-box/parse-file.ts';
import { runOwnerBox } from '#libs/owner-box/serve.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { ownerRoleOf } from '#libs/postgres/provision.ts';
import { assertSessionSettings, DEFAULT_TIMEOUTS } from '#libs/postgres/session-settings.ts';
import { createTenantFunction, dropTenantFunction, secureTable } from '#libs/postgres/tenant-security.ts';
import { DIRECT, hasPooler } from '#test/support/pooler.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import { until } from '#test/support/test-stack.ts';

interface Context {
  postgres: TestPostgres;
  created: TestDatabase;
}

const test = anyTest as TestFn<Context>;
const isFound = await hasPooler();
const behindPooler = (title: string, body: Parameters<typeof testIfFound<Context>>[4]): void =>
  testIfFound(test, isFound, 'pgbouncer 1.21 or later', title, body);

const notes: Migration = {
  name: '001-notes',
  async up(knex: Knex, appRole: string) {
    await createTenantFunction(knex);
    await knex.raw('create table notes (tenant_id text, id int, at timestamptz, primary key (tenant_id, id))');
    await secureTable(knex, 'notes', appRole);
  },
  async down(knex: Knex) {
    await knex.raw('drop table notes');
    await dropTenantFunction(knex);
  },
};

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());
test.beforeEach(async (t) => {
  t.context.created = await t.context.postgres.createDatabase([notes]);
});

const sessionOf = async (database: Database): Promise<number | undefined> =>
  (await database.acrossTenants<{ pid: number }>({ text: 'select pg_backend_pid() as pid', values: [] }))[0]?.pid;

behindPooler('a component test reaches its databases through a pooler, whose sessions go round', async (t) => {
  const { postgres, created } = t.context;
  t.not(new URL(created.appUrl).port, new URL(postgres.url).port);
  const [one, two] = [created.open({ poolSize: 1 }), created.open({ poolSize: 1 })];
  t.teardown(() => Promise.all([one.close(), two.close()]));
  // The first session may be long in coming: its role's password is looked up first.
  await until('both have the same session in turn', async () => (await sessionOf(one)) === (await sessionOf(two)));
  t.pass();
});

test('the component tests that go past the pooler are there', (t) => {
  for (const name of Object.keys(DIRECT)) t.true(existsSync(new URL(`${name}.test.ts`, import.meta.url)), name);
});

behindPooler(
  'sessions that a pooler opened have what a service relies on, whatever the database’s defaults',
  async (t) => {
    const { created } = t.context;
    for (const [setting, value] of Object.entries({
      datestyle: "'SQL, DMY'",
      intervalstyle: 'sql_standard',
      timezone: "'Asia/Kolkata'",
      bytea_output: 'escape',
      search_path: 'nowhere',
      default_transaction_isolation: 'serializable',
      standard_conforming_strings: 'off',
      statement_timeout: 0,
      lock_timeout: 0,
      idle_in_transaction_session_timeout: 0,
    })) {
      await created.query(`alter database ${created.name} set ${setting} = ${value}`);
    }
    const database = created.open();
    t.teardown(() => database.close());
    await t.notThrowsAsync(assertSessionSettings(database.acrossTenants, DEFAULT_TIMEOUTS));
    const at = '2026-02-03T04:05:06.789012Z';
    await database.forTenant('acme', (trx) => trx.raw('insert into notes values (?, 1, ?)', ['acme', at]));
    const read = { text: 'select at from notes', values: [] };
    t.is((await database.readForTenant<{ at: Temporal.Instant }>('acme', read))[0]?.at.toString(), at);
  },
);

test('deploy/README.md has for a role that was made otherwise what provisioning gives it', async (t) => {
  const readme = await readFile(new URL('../../deploy/README.md', import.meta.url), 'utf8');
  const [, block = ''] = /<!-- tested by test\/component\/pooler\S+ -->\n```sql\n([\s\S]*?)```/.exec(readme) ?? [];
  const { created } = t.context;
  const settings = async (role: string) =>
    (
      await created.query<{ setting: string }>('select unnest(rolconfig) as setting from pg_roles where rolname = $1', [
        role,
      ])
    )
      .map(({ setting }) => setting)
      .toSorted();
  await created.query(`create role lethe_run_app; ${block}`);
  t.deepEqual(await settings('lethe_run_app'), await settings(created.appRole));
  t.is((await settings(created.appRole)).length, 10);
});

behindPooler('a service whose sessions lack a setting is told which, rather than run without it', async (t) => {
  const { created } = t.context;
  for (const setting of ['lock_timeout = 0', "bytea_output = 'escape'"]) {
    await created.query(`alter role ${created.appRole} in database ${created.name} set ${setting}`);
  }
  const database = created.open();
  t.teardown(() => database.close());
  await t.throwsAsync(assertSessionSettings(database.acrossTenants, DEFAULT_TIMEOUTS), {
    message: /bytea_output is 'escape', not 'hex'; lock_timeout is '0', not '5000'\. A pooler /,
  });
  const longer = { ...DEFAULT_TIMEOUTS, statementTimeoutMs: 30_000 };
  await t.throwsAsync(assertSessionSettings(database.acrossTenants, longer), {
    message: /statement_timeout is '10000', not '30000'/,
  });
});

behindPooler('replicas that share sessions share neither tenants nor statements of one name', async (t) => {
  const { created } = t.context;
  const replicas = Array.from({ length: 3 }, () => created.open({ poolSize: 10 }));
  t.teardown(() => Promise.all(replicas.map((replica) => replica.close())));
  const calls = Array.from({ length: 120 }, async (_, index) => {
    const tenant = `tenant-${index}`;
    const replica = replicas[index % replicas.length];
    // Versions of a program may give one name to different texts.
    const more = ' and true'.repeat(index % replicas.length);
    const write = {
      name: 'write',
      text: `insert into notes select $1, $2::int where true${more} returning id`,
      values: [tenant, index],
    };
    const read = { name: 'read', text: `select tenant_id, id from notes where true${more}`, values: [] };
    t.deepEqual(await replica?.writeForTenant(tenant, [write]), [[{ id: index }]]);
    t.deepEqual(await replica?.readForTenant(tenant, read), [{ tenant_id: tenant, id: index }]);
    await replica?.forTenant(tenant, (trx) => trx.raw('update notes set at = now()'));
  });
  await Promise.all(calls);
  t.deepEqual(await created.query('select count(*)::int, count(at)::int as written from notes'), [
    { count: 120, written: 120 },
  ]);
});

behindPooler('a column that changes its type under prepared statements fails no call', async (t) => {
  const { created } = t.context;
  const database = created.open();
  t.teardown(() => database.close());
  const read = { name: 'read', text: 'select id from notes', values: [] };
  const write = { name: 'write', text: 'insert into notes values ($1, $2) returning id', values: ['acme', 1] };
  await database.writeForTenant('acme', [write]);
  await database.readForTenant('acme', read);
  await created.query('alter table notes alter column id type bigint');
  for (let times = 0; times < 3; times += 1) {
    t.deepEqual(await database.readForTenant('acme', read), [{ id: 1 }]);
    t.deepEqual(await database.writeForTenant('acme', [{ ...write, values: ['acme', 2 + times] }]), [
      [{ id: 2 + times }],
    ]);
    await created.query(`delete from notes where id > 1`);
  }
});

behindPooler(
  'a client that is gone in the middle of its transaction leaves neither rows nor its tenant behind',
  async (t) => {
    const { created } = t.context;
    const client = new pg.Client({ connectionString: created.appUrl });
    client.on('error', () => undefined);
    await client.connect();
    await client.query("begin; set local lethe.tenant = 'acme'; insert into notes values ('acme', 1, now())");
    (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    await until('its session is given up', async () => {
      const open = await created.query(
        `select from pg_stat_activity where datname = '${created.name}' and state like 'idle in transaction%'`,
      );
      return open.length === 0;
    });
    const database = created.open();
    t.teardown(() => database.close());
    t.deepEqual(await created.query('select * from notes'), []);
    await t.throwsAsync(database.acrossTenants({ text: 'select * from notes', values: [] }), { message: /no tenant/ });
  },
);

behindPooler('a password or a database that is wrong is a refusal also where a pooler tells it', async (t) => {
  const { created } = t.context;
  const wrongPassword = new URL(created.appUrl);
  wrongPassword.password = 'wrong';
  const wrongUser = new URL(created.appUrl);
  wrongUser.username = 'nobody';
  const wrongDatabase = new URL(created.appUrl);
  wrongDatabase.pathname = '/nowhere';
  for (const url of [wrongPassword, wrongUser, wrongDatabase]) {
    const database = created.open({ url: url.toString() });
    await t.throwsAsync(database.check(), { message: /refuses the connection/ }, url.toString());
    await database.close();
  }
});

behindPooler('an owner in a box that a pooler keeps from its schema is not served, and says why', async (t) => {
  const { created } = t.context;
  await created.query(`
    create table messages (tenant_id text not null, id uuid, sent_at timestamptz, primary key (tenant_id, id));
    create index on messages (tenant_id, sent_at, id);
    grant select, delete on messages to ${created.appRole};
    create schema lethe_owner authorization ${ownerRoleOf('lethe_test')};`);
  const file = parseOwnerFile(
    'mail.yaml',
    `
    database: { url_from: MAIL_DATABASE_URL, owner_url_from: MAIL_DATABASE_OWNER_URL }
    subjects:
      - { name: messages, resource_type: message, table: messages, tenant: tenant_id, instant: sent_at, id: id }`,
  );
  const env = {
    MAIL_DATABASE_URL: created.appUrl,
    MAIL_DATABASE_OWNER_URL: created.ownerUrl,
    LETHE_OWNER_NAME: 'mail',
    LETHE_TRUST_FILE: 'trust.json',
    LETHE_METRICS_ADDRESS: `127.0.0.1:${await freePort()}`,
  };
  const error = await t.throwsAsync(runOwnerBox(file, env), { instanceOf: OwnerBoxError });
  t.regex((error as OwnerBoxError).problems.join(), /do not search the schema lethe_owner first.*connect directly/);
});
