/** The columns that every durable deletion has: who ordered it and why, and how far its workers have come. */
export interface OperationRow {
  readonly tenant_id: string;
  readonly id: string;
  readonly actor: string;
  readonly subject: string;
  readonly trust_entry: string | null;
  readonly reason: string | null;
  readonly request_id: string | null;
  readonly bulk_deletion_id: string | null;
  readonly attempts: number;
  readonly last_error: string | null;
  readonly lease_token: number;
  readonly created_at: Temporal.Instant;
  readonly started_at: Temporal.Instant | null;
  readonly updated_at: Temporal.Instant;
  readonly finished_at: Temporal.Instant | null;
}

/** Their names, for `columnsOf`. */
export const OPERATION_COLUMNS: Readonly<Record<keyof OperationRow, true>> = {
  tenant_id: true,
  id: true,
  actor: true,
  subject: true,
  trust_entry: true,
  reason: true,
  request_id: true,
  bulk_deletion_id: true,
  attempts: true,
  last_error: true,
  lease_token: true,
  created_at: true,
  started_at: true,
  updated_at: true,
  finished_at: true,
};

/** What a domain keeps of it. */
export const toOperation = (row: OperationRow) => ({
  id: row.id,
  tenantId: row.tenant_id,
  actor: row.actor,
  reason: row.reason ?? undefined,
  requestId: row.request_id ?? undefined,
  bulkDeletionId: row.bulk_deletion_id ?? undefined,
  attempts: row.attempts,
  lastError: row.last_error ?? undefined,
  createdAt: row.created_at,
  startedAt: row.started_at ?? undefined,
  updatedAt: row.updated_at,
  finishedAt: row.finished_at ?? undefined,
});
