import type { FailedItem, ResourceCount } from '#libs/kernel/resource-count.ts';
import { columnsOf } from '#libs/postgres/columns.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { Deletion, DeletionMode, DeletionState, DeletionStep } from '../../domain/deletion.ts';
import { audit } from './audit.ts';

/** A deletion with its steps as JSON, read with RUN_DELETION_COLUMNS. */
export interface DeletionRow {
  readonly tenant_id: string;
  readonly id: string;
  readonly run_id: string;
  readonly mode: DeletionMode;
  readonly state: DeletionState;
  readonly actor: string;
  readonly subject: string;
  readonly trust_entry: string | null;
  readonly reason: string | null;
  readonly request_id: string | null;
  readonly force: boolean;
  readonly undoes: string | null;
  readonly bulk_deletion_id: string | null;
  readonly attempts: number;
  readonly last_error: string | null;
  readonly lease_token: number;
  readonly created_at: Temporal.Instant;
  readonly started_at: Temporal.Instant | null;
  readonly updated_at: Temporal.Instant;
  readonly finished_at: Temporal.Instant | null;
  readonly steps: readonly StepJson[];
}

interface StepJson {
  readonly participant: string;
  readonly state: DeletionState;
  readonly counts: readonly ResourceCount[];
  readonly failed_items: readonly FailedItem[];
  readonly attempts: number;
  readonly last_error: string | null;
  readonly next_attempt_at: string | null;
  readonly verified_at: string | null;
}

const OWN_COLUMNS = columnsOf<Omit<DeletionRow, 'steps'>>({
  tenant_id: true,
  id: true,
  run_id: true,
  mode: true,
  state: true,
  actor: true,
  subject: true,
  trust_entry: true,
  reason: true,
  request_id: true,
  force: true,
  undoes: true,
  bulk_deletion_id: true,
  attempts: true,
  last_error: true,
  lease_token: true,
  created_at: true,
  started_at: true,
  updated_at: true,
  finished_at: true,
});
/** The columns of a deletion and its steps as SQL; `d` is the alias of deletions. */
export const RUN_DELETION_COLUMNS = `${OWN_COLUMNS('d')}, coalesce((
  select json_agg(json_build_object('participant', s.participant, 'state', s.state, 'counts', s.counts,
    'failed_items', s.failed_items, 'attempts', s.attempts, 'last_error', s.last_error,
    'next_attempt_at', s.next_attempt_at, 'verified_at', s.verified_at)
    order by s.participant = 'run', s.position)
  from deletion_steps s where s.tenant_id = d.tenant_id and s.deletion_id = d.id), '[]') as steps`;

/** The deletion, in a transaction of its tenant; undefined for an unknown one. */
export const findDeletion = async (
  trx: TenantTransaction,
  tenantId: string,
  deletionId: string,
): Promise<DeletionRow | undefined> =>
  firstOf<DeletionRow>(
    await trx.raw(
      `select ${RUN_DELETION_COLUMNS} from deletions d where d.tenant_id = :tenantId and d.id = :deletionId`,
      {
        tenantId,
        deletionId,
      },
    ),
  );

/** Writes what a deletion has come to into the audit. */
export const auditOutcome = (trx: TenantTransaction, deletion: Deletion, outcome: DeletionState): Promise<void> =>
  audit(trx, {
    tenantId: deletion.tenantId,
    runId: deletion.runId,
    actor: deletion.actor,
    subject: deletion.subject,
    trustEntry: deletion.trustEntry,
    action: deletion.mode,
    reason: deletion.reason,
    requestId: deletion.requestId,
    outcome,
    counts: Object.fromEntries(deletion.steps.map(({ participant, counts }) => [participant, counts])),
  });

/** The domain's deletion. */
export const toDeletion = (row: DeletionRow): Deletion => ({
  id: row.id,
  tenantId: row.tenant_id,
  runId: row.run_id,
  mode: row.mode,
  state: row.state,
  actor: row.actor,
  subject: row.subject,
  trustEntry: row.trust_entry ?? undefined,
  reason: row.reason ?? undefined,
  requestId: row.request_id ?? undefined,
  force: row.force,
  undoes: row.undoes ?? undefined,
  bulkDeletionId: row.bulk_deletion_id ?? undefined,
  steps: row.steps.map(toStep),
  attempts: row.attempts,
  lastError: row.last_error ?? undefined,
  createdAt: row.created_at,
  startedAt: row.started_at ?? undefined,
  updatedAt: row.updated_at,
  finishedAt: row.finished_at ?? undefined,
});

const toStep = (step: StepJson): DeletionStep => ({
  participant: step.participant,
  state: step.state,
  counts: step.counts,
  failedItems: step.failed_items,
  attempts: step.attempts,
  lastError: step.last_error ?? undefined,
  nextAttemptAt: toInstant(step.next_attempt_at),
  verifiedAt: toInstant(step.verified_at),
});

const toInstant = (text: string | null): Temporal.Instant | undefined =>
  text === null ? undefined : Temporal.Instant.from(text);
