import { makeAuditedKeys } from '#libs/audit/migrations.ts';

/** By which key each subject of the audit came. */
export const auditedKeys = makeAuditedKeys('015-audited-keys', [
  'audit_entries',
  'installation_audit',
  'deletions',
  'bulk_deletions',
]);
