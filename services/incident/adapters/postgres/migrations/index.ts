import type { Migration } from '#libs/postgres/migrate.ts';
import { drift } from './001-drift.ts';
import { purgeReceipts } from './002-purge-receipts.ts';
import { incidents } from './003-incidents.ts';
import { incidentPayloads } from './004-incident-payloads.ts';
import { purgeSums } from './005-purge-sums.ts';
import { runEffects } from './006-run-effects.ts';
import { owner } from './007-owner.ts';
import { dropAgePurges } from './008-drop-age-purges.ts';
import { listedAudit } from './009-audit.ts';
import { payloadPurgeCause } from './010-payload-purge-cause.ts';
import { auditedKeys } from './011-audited-keys.ts';
import { runLocks } from './012-run-locks.ts';
import { byIndex } from './013-by-index.ts';

/** IncidentService's schema, in order. */
export const incidentMigrations: readonly Migration[] = [
  drift,
  purgeReceipts,
  incidents,
  incidentPayloads,
  purgeSums,
  runEffects,
  owner,
  dropAgePurges,
  listedAudit,
  payloadPurgeCause,
  auditedKeys,
  runLocks,
  byIndex,
];
