import type { Migration } from '#libs/postgres/migrate.ts';
import { jobs } from './001-jobs.ts';
import { stepActions } from './002-step-actions.ts';
import { stuckDeletions } from './003-stuck-deletions.ts';
import { objectsByUpload } from './004-objects-by-upload.ts';
import { claimRequests } from './005-claim-requests.ts';
import { installation } from './006-installation.ts';
import { orphanReports } from './007-orphan-reports.ts';
import { listedAudit } from './008-audit.ts';
import { bulkDeletions } from './009-bulk-deletions.ts';
import { auditedKeys } from './010-audited-keys.ts';
import { deletionTurns } from './011-deletion-turns.ts';
import { bulkFigures } from './012-bulk-figures.ts';
import { parkedWork } from './013-parked-work.ts';
import { oldestWork } from './014-oldest-work.ts';
import { bulkTurns } from './015-bulk-turns.ts';
import { runLocks } from './016-run-locks.ts';
import { abandonedCancellations } from './017-abandoned-cancellations.ts';
import { requestExpiry } from './018-request-expiry.ts';

/** JobService's schema, in order. */
export const jobMigrations: readonly Migration[] = [
  jobs,
  stepActions,
  stuckDeletions,
  objectsByUpload,
  claimRequests,
  installation,
  orphanReports,
  listedAudit,
  bulkDeletions,
  auditedKeys,
  deletionTurns,
  bulkFigures,
  parkedWork,
  oldestWork,
  bulkTurns,
  runLocks,
  abandonedCancellations,
  requestExpiry,
];
