import test from 'ava';
import { newId } from '#libs/kernel/id.ts';
import { makeCatalogueRepository } from '#services/retention/adapters/postgres/catalogue-repository.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { holdLock, startTestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';

test('a night that is counted while owners are asked is not forgotten', async (t) => {
  const postgres = await startTestPostgres();
  t.teardown(() => postgres.stop());
  const created = await postgres.createDatabase(retentionMigrations);
  // Writing the catalogue stands still after its first subject.
  await created.query(`
    update subjects set observe_nights_left = 2;
    create function stand_still() returns trigger language plpgsql as $$
    begin
      perform pg_advisory_xact_lock_shared(1);
      return new;
    end $$;
    create trigger stand_still before insert on installation_audit for each row execute function stand_still()`);
  const database = created.open();
  const catalogue = makeCatalogueRepository(database);
  const release = await holdLock(created.superuserUrl);
  try {
    const by = { actor: 'service:retention', subject: 'service:retention', reason: undefined };
    const updating = catalogue.update(by, (known) =>
      known.map((subject) => ({ subject: { ...subject, ageOf: 'elsewhere' }, event: 'bound' })),
    );
    const waiting = async () => (await created.query('select from pg_locks where not granted')).length;
    await until('the catalogue is being written', async () => (await waiting()) === 1);
    let isCounted = false;
    const counting = catalogue.recordNight('executions', newId()).then(() => {
      isCounted = true;
    });
    await until('the night is counted, or waits', async () => isCounted || (await waiting()) === 2);
    await release();
    await Promise.all([updating, counting]);
    const [row] = await created.query(
      "select age_of, observe_nights_left as nights from subjects where name = 'executions'",
    );
    t.deepEqual(row, { age_of: 'elsewhere', nights: 1 });
  } finally {
    await release();
    await database.close();
  }
});
