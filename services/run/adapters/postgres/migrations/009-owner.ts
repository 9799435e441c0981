import { createOwnerTables, createTenantList, dropOwnerTables, dropTenantList } from '#libs/owner/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import { RUN_SUBJECTS } from '../subjects.ts';

/** RunService owns data that ages: its operations, and the lists of its tenants. */
export const owner: Migration = {
  name: '009-owner',
  async up(knex, appRole) {
    await createOwnerTables(knex, appRole);
    for (const subject of RUN_SUBJECTS) await createTenantList(knex, subject, appRole);
  },
  async down(knex) {
    for (const subject of RUN_SUBJECTS) await dropTenantList(knex, subject);
    await dropOwnerTables(knex);
  },
};
