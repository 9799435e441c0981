import type { Migration } from '#libs/postgres/migrate.ts';
import { runs } from './001-runs.ts';
import { ownPart } from './002-own-part.ts';
import { saga } from './003-saga.ts';
import { stuckDeletions } from './004-stuck-deletions.ts';
import { parkedRuns } from './005-parked-runs.ts';
import { executions } from './006-executions.ts';
import { cleanupExecutions } from './007-cleanup-executions.ts';
import { executionUpkeep } from './008-execution-upkeep.ts';
import { owner } from './009-owner.ts';
import { listedAudit } from './010-audit.ts';
import { compensationReceipts } from './011-compensation-receipts.ts';
import { participants } from './012-participants.ts';
import { participantData } from './013-participant-data.ts';
import { bulkDeletions } from './014-bulk-deletions.ts';
import { auditedKeys } from './015-audited-keys.ts';
import { unfinishedRuns } from './016-unfinished-runs.ts';
import { cleanupByIndex } from './017-cleanup-by-index.ts';
import { turns } from './018-turns.ts';
import { compensationKeys } from './019-compensation-keys.ts';
import { bulkFigures } from './020-bulk-figures.ts';
import { hiddenRuns } from './021-hidden-runs.ts';
import { freeDeclarations } from './022-free-declarations.ts';
import { parkedWork } from './023-parked-work.ts';
import { oldestWork } from './024-oldest-work.ts';
import { bulkTurns } from './025-bulk-turns.ts';
import { finishedOperations } from './026-finished-operations.ts';
import { compensationAge } from './027-compensation-age.ts';
import { requestExpiry } from './028-request-expiry.ts';

/** RunService's schema, in order. */
export const runMigrations: readonly Migration[] = [
  runs,
  ownPart,
  saga,
  stuckDeletions,
  parkedRuns,
  executions,
  cleanupExecutions,
  executionUpkeep,
  owner,
  listedAudit,
  compensationReceipts,
  participants,
  participantData,
  bulkDeletions,
  auditedKeys,
  unfinishedRuns,
  cleanupByIndex,
  turns,
  compensationKeys,
  bulkFigures,
  hiddenRuns,
  freeDeclarations,
  parkedWork,
  oldestWork,
  bulkTurns,
  finishedOperations,
  compensationAge,
  requestExpiry,
];
