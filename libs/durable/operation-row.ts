import { column, type RowOf } from '#libs/postgres/columns.ts';

/** The columns that every durable deletion has: who ordered it and why, and how far its workers have come. */
export const OPERATION = {
  tenant_id: column<string>(),
  id: column<string>(),
  actor: column<string>(),
  subject: column<string>(),
  trust_entry: column<string | null>(),
  reason: column<string | null>(),
  request_id: column<string | null>(),
  attempts: column<number>(),
  last_error: column<string | null>(),
  lease_token: column<number>(),
  created_at: column<Temporal.Instant>(),
  started_at: column<Temporal.Instant | null>(),
  updated_at: column<Temporal.Instant>(),
  finished_at: column<Temporal.Instant | null>(),
};

/** A row with these columns. */
export type OperationRow = RowOf<typeof OPERATION>;

/** What a domain keeps of it. */
export const toOperation = (row: OperationRow) => ({
  id: row.id,
  tenantId: row.tenant_id,
  actor: row.actor,
  reason: row.reason ?? undefined,
  requestId: row.request_id ?? undefined,
  lastError: row.last_error ?? undefined,
  createdAt: row.created_at,
  startedAt: row.started_at ?? undefined,
  updatedAt: row.updated_at,
  finishedAt: row.finished_at ?? undefined,
});
