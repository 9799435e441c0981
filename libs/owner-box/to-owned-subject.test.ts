import test from 'ava';
import knexOf, { type Knex } from 'knex';
import { makeTurns } from '#libs/durable/turns.ts';
import { type ExpiredRange, type Named, removeBatch } from '#libs/owner/statements.ts';
import type { Position } from '#libs/owner/subject.ts';
import { openDatabase, typeParsers } from '#libs/postgres/open-database.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { withOwnerSchema } from './connect.ts';
import { type BoxTable, inspectTables } from './inspect-tables.ts';
import { makeBoxOwner } from './make-box-owner.ts';
import { parseOwnerFile } from './parse-file.ts';
import { toOwnedSubject } from './to-owned-subject.ts';

const ROLE = { searchPath: 'public' };

let postgres: TestPostgres;
test.before(async () => {
  postgres = await startTestPostgres();
});
test.after.always(() => postgres.stop());

/** A database with this schema, its first subject, and what runs statements of libs/owner as the server does. */
async function open(schema: string, subject: object) {
  const database = await postgres.createDatabase([]);
  await database.query(schema);
  const connectionString = withOwnerSchema(database.superuserUrl, ROLE);
  const connection = { connectionString, types: typeParsers } as Knex.PgConnectionConfig;
  const knex = knexOf({ client: 'pg', connection, pool: { min: 0, max: 1 } });
  const table = await inspected(database, subject);
  const run = async <Row>({ text, bindings }: Named, before = ''): Promise<Row[]> =>
    (await knex.raw(`${before}${text}`, bindings as Record<string, string>)).rows;
  return { database, table, owned: toOwnedSubject(table, ROLE), run, close: () => knex.destroy() };
}

async function inspected(database: TestDatabase, subject: object): Promise<BoxTable> {
  const file = parseOwnerFile('test', JSON.stringify({ database: { url_from: 'A' }, subjects: [subject] }));
  const query = async <Row>(text: string, values: readonly unknown[]) => database.query<Row>(text, values);
  const { tables, problems } = await inspectTables(query, file);
  const [table] = tables;
  if (!table) throw new Error(problems.join('\n'));
  return table;
}

const NOTES = { name: 'notes', resource_type: 'note', table: 'notes', tenant: 'org', instant: 'at' };
const range = (tenantId: string, cutoff: string, more: Partial<ExpiredRange> = {}): ExpiredRange => ({
  tenantId,
  cutoff: Temporal.Instant.from(cutoff),
  stale: undefined,
  floor: undefined,
  after: undefined,
  scan: 1_000,
  ...more,
});

test('rows of a composite key leave oldest first, a microsecond apart, with what hangs on them', async (t) => {
  const { database, owned, run, close } = await open(
    `create table notes (org int not null, box text not null, n bigint not null, at timestamp, primary key (org, box, n));
     create index on notes (org, at, box, n);
     create table marks (org int, box text, n bigint, k int, foreign key (org, box, n) references notes on delete restrict);
     create index on marks (org, box, n);
     insert into notes select org, 'b' || n % 2, n, timestamp '2026-01-01' + (n / 2) * interval '1 microsecond'
       from generate_series(0, 9) n, (values (7), (8)) o (org);
     insert into notes values (7, 'x', 1, null), (7, 'x', 2, 'infinity'), (7, 'x', 3, '-infinity');
     insert into marks select org, box, n, k from notes, generate_series(1, 2) k;`,
    {
      ...NOTES,
      id: ['box', 'n'],
      instant_zone: 'UTC',
      dependents: [{ table: 'marks', resource_type: 'mark', columns: { org: 'org', box: 'box', n: 'n' } }],
    },
  );
  t.teardown(close);
  const floor: Position = ['2026-01-01 00:00:00.000003', 'b1', '7'];
  const remove = (tenantId: string, limit: number) =>
    run(removeBatch(owned, range(tenantId, '2026-01-01T00:00:00.000004Z', { floor }), limit));
  t.like((await remove('7', 4))[0], {
    chosen: 4,
    removed: 4,
    dependents: [8],
    last_chosen: ['2026-01-01 00:00:00.000001', 'b1', '3'],
  });
  t.like((await remove('7', 4))[0], { chosen: 3, removed: 3, dependents: [6] });
  for (const tenant of ['7', 'acme', '07', '99999999999999999999']) {
    t.like((await remove(tenant, 4))[0], { chosen: 0, removed: 0, dependents: [0] }, tenant);
  }
  const left = await database.query('select org, count(*)::int as n from notes group by 1 order by 1');
  t.deepEqual(left, [
    { org: 7, n: 6 },
    { org: 8, n: 10 },
  ]);
});

test('a batch reads the index and nothing else, also of a table that has never been analyzed', async (t) => {
  const { database, owned, run, close } = await open(
    `create table notes (org uuid not null, id int not null, at timestamptz, body text, primary key (org, id));
     create index on notes (org, at, id);
     create table marks (org uuid, note int, foreign key (org, note) references notes);
     create index on marks (org, note);
     alter table notes set (autovacuum_enabled = off); alter table marks set (autovacuum_enabled = off)`,
    {
      ...NOTES,
      id: 'id',
      dependents: [{ table: 'marks', resource_type: 'mark', columns: { org: 'org', note: 'id' } }],
    },
  );
  t.teardown(close);
  const org = '00000000-0000-0000-0000-000000000001';
  await database.query(`
    insert into notes select '${org}', n, now() - n * interval '1 minute' from generate_series(1, 20000) n;
    insert into marks select '${org}', n from generate_series(1, 20000) n`);
  const after: Position = ['2020-01-01 00:00:00+00', '5'];
  const statement = removeBatch(
    owned,
    range(org, '2100-01-01T00:00:00Z', { floor: ['2100-01-01', '1'], after }),
    1_000,
  );
  // As makeOwner sets them in the transaction of a batch.
  await run({
    text: "select set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false)",
    bindings: {},
  });
  for (const analyze of ['', 'analyze notes, marks']) {
    await database.query(analyze || 'select 1');
    const plan = await run<Record<string, string>>(statement, 'explain ');
    const lines = plan.map((row) => Object.values(row)[0]).join('\n');
    t.regex(lines, /Index (Only )?Scan using notes_org_at_id_idx/);
    t.regex(lines, /Index (Only )?Scan using marks_org_note_idx/);
    t.notRegex(lines, /Seq Scan|Bitmap/, lines);
    // The tenant is an index condition everywhere, and no filter.
    t.notRegex(lines, /Filter: .*org/, lines);
  }
});

const LISTED: Readonly<Record<string, readonly [type: string, tenants: readonly string[], left: readonly string[]]>> = {
  texts: ['text', ['b', 'B', 'a-b', 'ab', 'a_b', '', 'a'], ['a', 'a-b', 'ab', 'b']],
  'texts in the order of bytes': ['text collate "C"', ['b', 'a-b', 'ab', 'a'], ['a', 'a-b', 'ab', 'b']],
  numbers: ['integer', ['10', '9', '-1', '100'], ['10', '100', '9']],
  uuids: [
    'uuid',
    ['b0000000-0000-0000-0000-000000000000', '0a000000-0000-0000-0000-000000000000'],
    ['0a000000-0000-0000-0000-000000000000', 'b0000000-0000-0000-0000-000000000000'],
  ],
};

for (const [what, [type, tenants, expected]] of Object.entries(LISTED)) {
  test(`tenants are listed by pages in the order of bytes, those that a token can name: ${what}`, async (t) => {
    const { database, table, close } = await open(
      `create table notes (org ${type} not null, id int not null, at timestamptz, primary key (org, id));
       create index on notes (org, at, id)`,
      { ...NOTES, id: 'id' },
    );
    t.teardown(close);
    for (const tenant of tenants) {
      await database.query('insert into notes select $1, n, now() from generate_series(1, 3) n', [tenant]);
    }
    const opened = openDatabase({
      url: database.superuserUrl,
      poolSize: 1,
      applicationName: 'test',
      statementTimeoutMs: 5_000,
      lockTimeoutMs: 5_000,
    });
    t.teardown(() => opened.close());
    const owner = makeBoxOwner([table], ROLE, {
      database: opened,
      turns: makeTurns(),
      onPurged: () => undefined,
      maxPauseMs: 0,
      snapshotAgeMs: 0,
    });
    const [subject] = owner.subjects;
    if (!subject) throw new Error('no subject');
    const found: string[] = [];
    for (;;) {
      const page = await owner.listTenants(subject, found.at(-1) ?? '', 2);
      if (page.length === 0) break;
      found.push(...page);
    }
    t.deepEqual(found, expected);
  });
}
