import {
  createAuditIndexes,
  createInstallationAudit,
  createInstallationAuditIndexes,
  dropAuditIndexes,
} from '#libs/audit/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';

/** The indexes by which the audit is listed, and the audit of calls whose credential names no tenant. */
export const listedAudit: Migration = {
  name: '008-audit',
  async up(knex, appRole) {
    await createAuditIndexes(knex);
    await createInstallationAudit(knex, appRole);
    await createInstallationAuditIndexes(knex);
  },
  async down(knex) {
    await knex.raw('drop table installation_audit');
    await dropAuditIndexes(knex);
  },
};
