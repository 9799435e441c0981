import { randomInt, randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { makeKeyPair } from '#libs/auth/keys.ts';
import { SUITE_KEY, toTrustFile } from '#libs/auth/lethe-keys.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { crashesOf } from '#test/support/arm-crash.ts';
import { type OwnerBox, startOwnerBox } from '#test/support/owner-box.ts';
import { NIGHT_TOKEN, type OwnerAccess, openOwner } from '#test/support/owner-clients.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';
import { type Declare, type OwnerUnderTest, ownerContract } from './owner.ts';

const NAME = 'mail';

interface Context {
  folder: string;
  postgres: TestPostgres;
  database: TestDatabase;
  box: OwnerBox;
  access: OwnerAccess;
  /** Another one on the same database, which is killed. */
  mortal: { box: OwnerBox; access: OwnerAccess };
}

const test = anyTest as TestFn<Context>;

const SCHEMA = `
  create schema mail;
  create table mail.messages (
    tenant_id text not null, id uuid not null, sent_at timestamptz, body text, primary key (tenant_id, id)
  );
  create index on mail.messages (tenant_id, sent_at, id);
  create table mail.attachments (
    tenant_id text not null, message_id uuid not null, name text not null,
    primary key (tenant_id, message_id, name),
    foreign key (tenant_id, message_id) references mail.messages
  );
  -- A key of two columns, and instants without a time zone.
  create table mail.visits (
    org text not null, page text not null, n integer not null, at timestamp, primary key (org, page, n)
  );
  create index on mail.visits (org, at, page, n);
  -- Tenants and ids that are numbers, and no floor.
  create table mail.calls (
    account bigint not null, number bigint not null, ended_at timestamptz, primary key (account, number)
  );
  create index on mail.calls (account, ended_at, number);
  create table mail.recordings (number bigint not null, account bigint not null, at_second integer not null);
  create index on mail.recordings (number);
  grant usage on schema mail to "app_role";
  grant select, delete on all tables in schema mail to "app_role";
`;

const SUBJECTS = [
  {
    name: 'messages',
    resource_type: 'message',
    table: 'mail.messages',
    tenant: 'tenant_id',
    instant: 'sent_at',
    id: 'id',
    floor: true,
    dependents: [
      { table: 'mail.attachments', resource_type: 'attachment', columns: { tenant_id: 'tenant_id', message_id: 'id' } },
    ],
  },
  {
    name: 'visits',
    resource_type: 'visit',
    table: 'mail.visits',
    tenant: 'org',
    instant: 'at',
    instant_zone: 'UTC',
    id: ['page', 'n'],
    floor: true,
  },
  {
    name: 'calls',
    resource_type: 'call',
    table: 'mail.calls',
    tenant: 'account',
    instant: 'ended_at',
    id: 'number',
    dependents: [
      {
        table: 'mail.recordings',
        resource_type: 'recording',
        columns: { account: 'account', number: 'number' },
      },
    ],
  },
];

test.before(async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-owner-box-'));
  const postgres = await startTestPostgres();
  Object.assign(t.context, { folder, postgres });
  const { privateJwk, publicJwk } = await makeKeyPair();
  const trustFile = join(folder, 'trust.json');
  const entry = { name: 'suite', issuer: 'lethe', jwks: { keys: [publicJwk] }, allow: SUITE_KEY };
  await writeFile(trustFile, toTrustFile([entry]));
  await writeFile(join(folder, 'key.json'), JSON.stringify(privateJwk));
  const database = await postgres.createDatabase([]);
  await database.query(SCHEMA.replaceAll('app_role', database.appRole));
  const start = async () => {
    const box = await startOwnerBox({ database, subjects: SUBJECTS, name: NAME, trustFile });
    return { box, access: await openOwner({ address: box.address, name: NAME, keyFile: join(folder, 'key.json') }) };
  };
  Object.assign(t.context, { database, ...(await start()) });
  Object.assign(t.context, { mortal: await start() });
  current = t.context;
});

test.after.always(async (t) => {
  const { folder, postgres, box, access, mortal } = t.context;
  for (const each of [{ box, access }, mortal]) {
    each?.access?.close();
    await each?.box?.stop();
  }
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
});

/** What the suite is told of one table: how to make a row, and how to find a tenant's. */
interface Seeding {
  readonly subject: string;
  readonly table: string;
  readonly tenant: string;
  readonly instant: string;
  readonly newTenant?: () => string;
  /** Selects rows to insert: `$1` is the tenant, `made` the instant, and `n` another number for each. */
  readonly row: string;
  readonly dependents?: { readonly table: string; readonly tenant: string; readonly row: string };
}

let current: Context | undefined;
let rowsMade = 0;

function underTest({ subject, table, tenant, instant, newTenant, row, dependents }: Seeding): OwnerUnderTest {
  return {
    subject,
    ...(newTenant ? { newTenant } : {}),
    client: (token) => context().access.client(token),
    async seed(tenantId, rows) {
      const ages = rows.map(({ age }) => age?.toString() ?? null);
      const from = rowsMade;
      rowsMade += rows.length;
      const values = [tenantId, ages, from];
      const source = `unnest($2::text[]) with ordinality u (text, nth), cast(u.text as timestamptz) as made, cast($3 + u.nth as int) as n`;
      await context().database.query(`insert into ${table} select ${row} from ${source}`, values);
      if (!dependents) return;
      await context().database.query(
        `insert into ${dependents.table} select ${dependents.row} from ${source}, generate_series(1, 2) k`,
        values,
      );
    },
    async left(tenantId) {
      const { database } = context();
      const found = await database.query<{ text: string | null }>(
        `select to_char(${instant} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as text from ${table} where ${tenant} = $1`,
        [tenantId],
      );
      const ages = found.map(({ text }) => (text === null ? null : Temporal.Instant.from(text)));
      if (!dependents) return { ages, dependents: 0 };
      const [count] = await database.query<{ n: number }>(
        `select count(*)::int as n from ${dependents.table} where ${dependents.tenant} = $1`,
        [tenantId],
      );
      return { ages, dependents: count?.n ?? 0 };
    },
  };
}

const context = (): Context => {
  if (!current) throw new Error('the box was not started');
  return current;
};

const ID = `lpad(to_hex(n), 32, '0')::uuid`;
const SEEDINGS: readonly Seeding[] = [
  {
    subject: 'messages',
    table: 'mail.messages',
    tenant: 'tenant_id',
    instant: 'sent_at',
    row: `$1, ${ID}, made, 'hello'`,
    dependents: { table: 'mail.attachments', tenant: 'tenant_id', row: `$1, ${ID}, 'file ' || k` },
  },
  {
    subject: 'visits',
    table: 'mail.visits',
    tenant: 'org',
    // Told to be UTC, as the file tells the box.
    instant: `mail.visits.at at time zone 'UTC'`,
    row: `$1, 'page ' || n % 3, n, made at time zone 'UTC'`,
  },
  {
    subject: 'calls',
    table: 'mail.calls',
    tenant: 'account',
    instant: 'ended_at',
    newTenant: () => String(randomInt(1, 2 ** 47)),
    row: `cast($1 as bigint), n, made`,
    dependents: { table: 'mail.recordings', tenant: 'account', row: `n, cast($1 as bigint), k` },
  },
];

const declare: Declare = (title, body) => test.serial(title, (t) => body(t as ExecutionContext<unknown>));
for (const seeding of SEEDINGS)
  ownerContract(declare, `an owner in a box, ${seeding.subject}`, () => underTest(seeding));

// A process of its own, whose first batch is small, so that it is met between two of them.
const declareCrash: Declare = (title, body) => title.includes(': an owner that dies ') && declare(title, body);
for (const seeding of SEEDINGS) {
  ownerContract(declareCrash, `an owner in a box that is killed, ${seeding.subject}`, () => ({
    ...underTest(seeding),
    client: (token) => context().mortal.access.client(token),
    ...crashesOf(() => context().mortal.box.crashFile, seeding.subject === 'messages' ? 'all' : 'between batches'),
  }));
}

test.serial('what is hung on a row while it goes is counted as well', async (t) => {
  const { database, access } = t.context;
  const [tenantId, subject, operationId] = ['hung', 'messages', randomUUID()];
  await database.query(`
    insert into mail.messages select 'hung', gen_random_uuid(), now() - interval '40 days' from generate_series(1, 10)`);
  const rule = { subject, retentionDays: 30, latestCutoffTime: toTimestamp(Temporal.Now.instant()) };
  const writer = new pg.Client({ connectionString: database.superuserUrl });
  await writer.connect();
  t.teardown(() => writer.end());
  await writer.query(
    `begin; insert into mail.attachments select tenant_id, id, 'late' from mail.messages where tenant_id = 'hung'`,
  );
  const purged = access.client({ ...NIGHT_TOKEN, tenantId, subject, operationId }).purge({ operationId, rule });
  await until('the batch waits for the writer', async () => {
    const waiting = await database.query(`select from pg_locks where not granted`);
    return waiting.length > 0;
  });
  await writer.query('commit');
  const { progress, resourceCounts } = await purged;
  t.is(progress, Progress.COMPLETE);
  t.deepEqual(
    resourceCounts.map(({ deleted }) => deleted),
    [10n, 10n],
  );
  t.deepEqual(await database.query(`select from mail.attachments where name = 'late'`), []);
});

test.serial(
  'triggers of the tables find what they always found, though a table of the owner has the same name',
  async (t) => {
    const { database, access } = t.context;
    const [tenantId, subject, operationId] = ['audited', 'messages', randomUUID()];
    await database.query(`
    create table public.audit_entries (id uuid, what text);
    grant insert on public.audit_entries to ${database.appRole};
    create function public.note_end() returns trigger language plpgsql as $$
      begin insert into audit_entries values (old.id, tg_argv[0]); return null; end $$;
    create trigger note_at_once after delete on mail.messages for each row when (old.tenant_id = 'audited')
      execute function public.note_end('at once');
    create constraint trigger note_at_commit after delete on mail.messages deferrable initially deferred
      for each row when (old.tenant_id = 'audited') execute function public.note_end('at commit');
    insert into mail.messages select 'audited', gen_random_uuid(), now() - interval '40 days' from generate_series(1, 3)`);
    t.teardown(() => database.query('drop function public.note_end() cascade; drop table public.audit_entries'));
    const rule = { subject, retentionDays: 30, latestCutoffTime: toTimestamp(Temporal.Now.instant()) };
    const owner = access.client({ ...NIGHT_TOKEN, tenantId, subject, operationId });
    t.is((await owner.purge({ operationId, rule })).progress, Progress.COMPLETE);
    t.deepEqual(await database.query('select what, count(*)::int from public.audit_entries group by 1 order by 1'), [
      { what: 'at commit', count: 3 },
      { what: 'at once', count: 3 },
    ]);
    t.deepEqual(
      await database.query(`select action, counts from lethe_owner.audit_entries where tenant_id = 'audited'`),
      [{ action: 'purge-messages', counts: { message: 3, attachment: 0 } }],
    );
  },
);

test.serial('it shows its figures, and ends when it is told to', async (t) => {
  const { database, folder, box } = t.context;
  const figures = await (await fetch(`http://${box.metricsAddress}/metrics`)).text();
  t.regex(figures, /lethe_rpc_duration_seconds/);
  const second = await startOwnerBox({
    database,
    subjects: SUBJECTS,
    name: 'other',
    trustFile: join(folder, 'trust.json'),
  });
  await t.notThrowsAsync(second.stop());
});
