import type { Migration } from '#libs/postgres/migrate.ts';
import { retention } from './001-retention.ts';
import { planHistory } from './002-plan-history.ts';
import { purgeQueue } from './003-purge-queue.ts';
import { purgeHealth } from './004-purge-health.ts';
import { plansAsData } from './005-plans-as-data.ts';
import { executionPolicies } from './006-execution-policies.ts';
import { subjects } from './007-subjects.ts';
import { purgeSubjects } from './008-purge-subjects.ts';
import { purgeStops } from './009-purge-stops.ts';
import { planExpiry } from './010-plan-expiry.ts';
import { listedAudit } from './011-audit.ts';
import { listsByIndex } from './012-lists-by-index.ts';
import { auditedKeys } from './013-audited-keys.ts';
import { leasedItems } from './014-leased-items.ts';
import { freeItems } from './015-free-items.ts';
import { parkedWork } from './016-parked-work.ts';
import { oldestWork } from './017-oldest-work.ts';
import { ownerPauses } from './019-owner-pauses.ts';

/** RetentionService's schema, in order. */
export const retentionMigrations: readonly Migration[] = [
  retention,
  planHistory,
  purgeQueue,
  purgeHealth,
  plansAsData,
  executionPolicies,
  subjects,
  purgeSubjects,
  purgeStops,
  planExpiry,
  listedAudit,
  listsByIndex,
  auditedKeys,
  leasedItems,
  freeItems,
  parkedWork,
  oldestWork,
  ownerPauses,
];
