import { makeListedAudit } from '#libs/audit/migrations.ts';

/** What ListAuditEntries reads and is fast by. */
export const listedAudit = makeListedAudit('008-audit');
