import { OPERATION, toOperation } from '#libs/durable/operation-row.ts';
import type { FailedItem, ResourceCount } from '#libs/kernel/resource-count.ts';
import { column, columnsOf, type RowOf } from '#libs/postgres/columns.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { Deletion, DeletionMode, DeletionState, DeletionStep } from '../../domain/deletion.ts';
import { audit } from './audit.ts';

const DELETION = {
  ...OPERATION,
  bulk_deletion_id: column<string | null>(),
  run_id: column<string>(),
  mode: column<DeletionMode>(),
  state: column<DeletionState>(),
  force: column<boolean>(),
  undoes: column<string | null>(),
};

/** A deletion with its steps as JSON, read with RUN_DELETION_COLUMNS. */
export type DeletionRow = RowOf<typeof DELETION> & {
  readonly steps: readonly StepJson[];
};

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

/** The columns of a deletion and its steps as SQL; `d` is the alias of deletions. */
export const RUN_DELETION_COLUMNS = `${columnsOf(DELETION)('d')}, coalesce((
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
      { tenantId, deletionId },
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
  ...toOperation(row),
  attempts: row.attempts,
  bulkDeletionId: row.bulk_deletion_id ?? undefined,
  runId: row.run_id,
  mode: row.mode,
  state: row.state,
  subject: row.subject,
  trustEntry: row.trust_entry ?? undefined,
  force: row.force,
  undoes: row.undoes ?? undefined,
  steps: row.steps.map(toStep),
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
