import { setTimeout as delay } from 'node:timers/promises';
import type { Knex } from 'knex';
import { migrateOneDown, readInstallation } from './migrate.ts';

/** Takes a migration back, tells its parent when the table is dropped, and goes on in a minute. */
const [ownerUrl = '', appRole = ''] = process.argv.slice(2);
const migration = {
  name: '001-notes',
  async up() {},
  async down(knex: Knex) {
    await knex.raw('drop table notes');
    process.send?.('dropped');
    await delay(60_000);
  },
};
const { id } = await readInstallation({ ownerUrl });
await migrateOneDown({ ownerUrl, appRole, migrations: [migration], installationId: id, deletesData: true });
