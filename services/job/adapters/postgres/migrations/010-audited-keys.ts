import { makeAuditedKeys } from '#libs/audit/migrations.ts';

/** By which key each subject of the audit came. */
export const auditedKeys = makeAuditedKeys('010-audited-keys', [
  'audit_entries',
  'installation_audit',
  'job_deletions',
  'bulk_deletions',
]);
