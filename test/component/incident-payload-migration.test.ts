import anyTest, { type TestFn } from 'ava';
import knexOf from 'knex';
import { migrateUp } from '#libs/postgres/migrate.ts';
import { incidentPayloads } from '#services/incident/adapters/postgres/migrations/004-incident-payloads.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { queryOnce, startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

const OLD_SHAPE = incidentMigrations.slice(0, incidentMigrations.indexOf(incidentPayloads));
const upTo = [...OLD_SHAPE, incidentPayloads];

/** Two tenants with the same ids, payloads of every kind of JSON, one purged, one that never was. */
async function fillOldShape(database: TestDatabase): Promise<void> {
  for (const tenantId of ['acme', 'globex']) {
    await database.query(
      `insert into environments (tenant_id, id, display_name)
       values ($1, '01890000-0000-7000-8000-000000000000', 'production')`,
      [tenantId],
    );
    await database.query(
      `insert into incidents (tenant_id, id, environment_id, title, state, payload, payload_purged_at, created_at, closed_at)
       select $1, ('01890000-0000-7000-8000-0000000000' || n)::uuid, '01890000-0000-7000-8000-000000000000', 'drift ' || n,
              state, payload || jsonb_build_object('tenant', $1::text), purged, now() - interval '400 days', closed
       from (values
         (11, 'DETECTED', '{"a": 1.50, "ä": ["\\"", null, {"b": true}]}'::jsonb, null::timestamptz, null::timestamptz),
         (12, 'CLOSED', '{}', null, now() - interval '300 days'),
         (13, 'CLOSED', null, now() - interval '1 day', now() - interval '200 days'),
         (14, 'CLOSED', null, null, null),
         (15, 'RECONCILED', jsonb_build_object('text', repeat('x', 200000)), null, null)) v (n, state, payload, purged, closed)`,
      [tenantId],
    );
  }
}

// As text, so that nothing of a value can get lost in reading it.
const OLD = `select tenant_id, id, title, state, payload::text as payload, payload_purged_at::text, created_at::text,
  closed_at::text, updated_at::text, version from incidents order by 1, 2`;
const NEW = `select i.tenant_id, i.id, title, state, p.payload_json::text as payload, payload_purged_at::text,
  i.created_at::text, closed_at::text, updated_at::text, version
  from incidents i left join incident_payloads p on p.tenant_id = i.tenant_id and p.incident_id = i.id order by 1, 2`;

test('payloads on incident rows move into their table byte for byte, and back', async (t) => {
  const database = await t.context.postgres.createDatabase(OLD_SHAPE);
  await fillOldShape(database);
  const old = await database.query(OLD);
  t.is(old.length, 10);

  const options = { ownerUrl: database.ownerUrl, appRole: database.appRole };
  await migrateUp({ ...options, migrations: upTo });
  t.deepEqual(await database.query(NEW), old);
  t.deepEqual(await database.query('select count(*)::int from incident_payloads'), [{ count: 6 }]);
  t.deepEqual(
    await database.query(`select column_name from information_schema.columns
    where table_name = 'incidents' and column_name = 'payload'`),
    [],
  );
  const never = await database.query('select id from incidents where not opened_with_payload and tenant_id = $1', [
    'acme',
  ]);
  t.deepEqual(never, [{ id: '01890000-0000-7000-8000-000000000014' }]);
  await t.throwsAsync(queryOnce(database.appUrl, 'select * from incident_payloads'), {
    message: /no tenant was named/,
  });
  await t.throwsAsync(
    database.query(`insert into incident_payloads (tenant_id, incident_id, payload_json)
      select tenant_id, incident_id, '{}' from incident_payloads limit 1`),
    { message: /duplicate key/ },
    'an incident has one payload',
  );

  const owner = knexOf({ client: 'pg', connection: database.ownerUrl, pool: { min: 0, max: 1 } });
  await owner.transaction((trx) => incidentPayloads.down(trx, database.appRole));
  t.deepEqual(await database.query(OLD), old);
  t.deepEqual(await database.query("select to_regclass('incident_payloads')::text as there"), [{ there: null }]);
  await owner.transaction((trx) => incidentPayloads.up(trx, database.appRole));
  await owner.destroy();
  t.deepEqual(await database.query(NEW), old);
});

test('a failure half-way leaves the old shape as it was', async (t) => {
  const database = await t.context.postgres.createDatabase(OLD_SHAPE);
  await fillOldShape(database);
  const old = await database.query(OLD);
  const owner = knexOf({ client: 'pg', connection: database.ownerUrl, pool: { min: 0, max: 1 } });
  await t.throwsAsync(
    owner.transaction(async (trx) => {
      await incidentPayloads.up(trx, database.appRole);
      throw new Error('power cut');
    }),
    { message: 'power cut' },
  );
  await owner.destroy();
  t.deepEqual(await database.query(OLD), old);
});
