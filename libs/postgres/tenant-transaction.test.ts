import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { Model } from 'objection';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import type { Migration } from './migrate.ts';
import type { Database, TenantTransaction } from './open-database.ts';
import { createTenantFunction, dropTenantFunction, secureTable } from './tenant-security.ts';

const notes: Migration = {
  name: '001-notes',
  async up(knex, appRole) {
    await createTenantFunction(knex);
    await knex.raw(`
      create table notes (tenant_id text not null, id int not null, primary key (tenant_id, id),
                          follows int, foreign key (tenant_id, follows) references notes deferrable initially deferred)`);
    await secureTable(knex, 'notes', appRole);
  },
  async down(knex) {
    await knex.raw('drop table notes');
    await dropTenantFunction(knex);
  },
};

class NoteRow extends Model {
  static override readonly tableName = 'notes';
  static override readonly idColumn = ['tenant_id', 'id'];
  declare tenant_id: string;
  declare id: number;
}

const test = anyTest as TestFn<{ postgres: TestPostgres }>;
type T = ExecutionContext<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

/** With a single connection, so that every transaction follows the one before on it. */
async function open(t: T): Promise<Database> {
  const database = (await t.context.postgres.createDatabase([notes])).open({ poolSize: 1 });
  t.teardown(() => database.close());
  return database;
}

const insert = (trx: TenantTransaction, tenantId: string, id: number, follows: number | null = null) =>
  trx('notes').insert({ tenant_id: tenantId, id, follows });

const idsOf = (database: Database, tenantId: string): Promise<number[]> =>
  database.forTenant(tenantId, (trx) => trx('notes').orderBy('id').pluck('id'));

test('statements, builders and models see what those before them did, and all of it is committed', async (t) => {
  const database = await open(t);
  const seen = await database.forTenant('acme', async (trx) => {
    await insert(trx, 'acme', 1);
    await NoteRow.query(trx).insert({ tenant_id: 'acme', id: 2 });
    const [count, notes] = await Promise.all([trx.raw('select count(*) from notes'), NoteRow.query(trx).orderBy('id')]);
    return [count.rows[0].count, notes.map(({ id }) => id)];
  });
  t.deepEqual(seen, [2, [1, 2]]);
  t.deepEqual(await idsOf(database, 'acme'), [1, 2]);
  t.deepEqual(await idsOf(database, 'globex'), []);
});

test('an error of the work undoes all of it, and the next transaction is a clean one', async (t) => {
  const database = await open(t);
  const failing = database.forTenant('acme', async (trx) => {
    await insert(trx, 'acme', 1);
    throw new Error('enough');
  });
  await t.throwsAsync(failing, { message: 'enough' });
  await t.throwsAsync(database.forTenant('acme', (trx) => trx.raw('select no_such_column')));
  const atOnce = database.forTenant('acme', () => {
    throw new Error('before any statement');
  });
  await t.throwsAsync(atOnce, { message: 'before any statement' });
  t.deepEqual(await idsOf(database, 'acme'), []);
});

test('an error that is swallowed is told nonetheless: the database has undone everything', async (t) => {
  const database = await open(t);
  const swallowing = database.forTenant('acme', async (trx) => {
    await insert(trx, 'acme', 1);
    await trx.raw('select no_such_column').catch(() => undefined);
    return 'done';
  });
  await t.throwsAsync(swallowing, { message: 'the transaction ended with ROLLBACK' });
  t.deepEqual(await idsOf(database, 'acme'), []);
});

test('a constraint that is checked at the commit undoes all of it', async (t) => {
  const database = await open(t);
  await t.throwsAsync(database.forTenant('acme', (trx) => insert(trx, 'acme', 1, 99)));
  t.deepEqual(await idsOf(database, 'acme'), []);
});

test('what the work left behind does not get into the transaction after it', async (t) => {
  const database = await open(t);
  const late: Promise<unknown>[] = [];
  const abandoning = database.forTenant('acme', async (trx) => {
    late.push(delay(100).then(() => insert(trx, 'acme', 1)));
    late.push(insert(trx, 'acme', 2).then(() => delay(100).then(() => NoteRow.query(trx).insert({ id: 3 }))));
    const built = insert(trx, 'acme', 4);
    late.push(delay(100).then(() => built));
    throw new Error('enough');
  });
  await t.throwsAsync(abandoning, { message: 'enough' });
  // The same tenant, so that row-level security would let the strays in.
  await database.forTenant('acme', async (trx) => {
    await insert(trx, 'acme', 10);
    for (const stray of late) await t.throwsAsync(() => stray, { message: /the transaction is over/ });
    await insert(trx, 'acme', 11);
  });
  t.deepEqual(await idsOf(database, 'acme'), [10, 11]);
});

test('a connection that is lost in the middle is UNAVAILABLE, and the next transaction gets a new one', async (t) => {
  const database = await open(t);
  const losing = database.forTenant('acme', async (trx) => {
    await insert(trx, 'acme', 1);
    await trx.raw('select pg_terminate_backend(pg_backend_pid())');
  });
  await t.throwsAsync(losing, { message: 'The database is unavailable; try again later.' });
  t.deepEqual(await idsOf(database, 'acme'), []);
});
