import test from 'ava';
import type { Database } from '#libs/postgres/open-database.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { makeSagaRepository } from '#services/run/adapters/postgres/saga-repository.ts';
import { clientToDelivery } from '#services/run/workflows/client-to-delivery/workflow.ts';
import { makeMemorySagas } from '#test/support/memory-sagas.ts';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { sagaRepositoryContract } from './saga-repository.ts';

let postgres: TestPostgres;
const databases: Database[] = [];

test.before(async () => {
  postgres = await startTestPostgres();
});
test.after.always(async () => {
  for (const database of databases) await database.close();
  await postgres.stop();
});

sagaRepositoryContract(test, 'in Postgres', async () => {
  const database = (await postgres.createDatabase(runMigrations)).open({ poolSize: 4 });
  databases.push(database);
  return makeSagaRepository(database, clientToDelivery.types);
});

sagaRepositoryContract(test, 'in memory', async () => makeMemorySagas());
