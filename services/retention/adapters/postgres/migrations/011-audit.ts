import {
  createAuditIndexes,
  createInstallationAuditIndexes,
  dropAuditIndexes,
  dropInstallationAuditIndexes,
} from '#libs/audit/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';

/** The indexes by which the audit is listed. */
export const listedAudit: Migration = {
  name: '011-audit',
  locks: { audit_entries: 'writes', installation_audit: 'writes' },
  async up(knex) {
    await createAuditIndexes(knex);
    await createInstallationAuditIndexes(knex);
  },
  async down(knex) {
    await dropInstallationAuditIndexes(knex);
    await dropAuditIndexes(knex);
  },
};
