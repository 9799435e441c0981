import type { Knex } from 'knex';
import { Model } from 'objection';
import { requestIdReused } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf } from '#libs/postgres/rows.ts';
import type { JsonObject, Run, RunState } from '../../domain/run.ts';
import type { RunRepository } from '../../use-cases/ports.ts';

/** A row of `workflow_runs`. */
export class RunRow extends Model {
  static override readonly tableName = 'workflow_runs';
  static override readonly idColumn = ['tenant_id', 'id'];
  static override readonly jsonAttributes = ['input', 'output'];
  declare tenant_id: string;
  declare id: string;
  declare workflow: string;
  declare display_name: string;
  declare state: RunState;
  declare input: JsonObject | null;
  declare output: JsonObject | null;
  declare error: string | null;
  declare created_at: Temporal.Instant;
  declare updated_at: Temporal.Instant;
  declare finished_at: Temporal.Instant | null;
  declare deleted_at: Temporal.Instant | null;
  declare deleted_by: string | null;
  declare deleted_reason: string | null;
  declare deletion_id: string | null;
  declare version: number;
}

/** The columns of a run, without the model's methods. */
export type RunColumns = Omit<RunRow, keyof Model>;

/** The runs in Postgres. */
export const makeRunRepository = (database: Database): RunRepository => ({
  create: (run) =>
    database.forTenant(run.tenantId, async (trx) => {
      const { tenantId, requestId, fingerprint } = run;
      const id = newId();
      if (requestId !== undefined) {
        // The second of two at once waits here for the first, and then sees what it did.
        const inserted = await trx.raw(
          `insert into run_requests (tenant_id, request_id, fingerprint, run_id)
           values (:tenantId, :requestId, :fingerprint, :id) on conflict do nothing`,
          { tenantId, requestId, fingerprint, id },
        );
        if (inserted.rowCount === 0) {
          const known = firstOf<{ fingerprint: string; run_id: string }>(
            await trx.raw('select * from run_requests where tenant_id = :tenantId and request_id = :requestId', {
              tenantId,
              requestId,
            }),
          );
          if (known?.fingerprint !== fingerprint) throw requestIdReused(requestId);
          const repeated = await RunRow.query(trx).findOne({ tenant_id: tenantId, id: known.run_id });
          if (repeated) return toRun(repeated);
        }
      }
      await RunRow.query(trx).insert({
        tenant_id: tenantId,
        id,
        workflow: run.workflow,
        display_name: run.displayName,
        state: 'RUNNING',
        input: run.input ?? null,
      });
      const created = await RunRow.query(trx).findOne({ tenant_id: tenantId, id });
      if (!created) throw new Error('the run just inserted is not there');
      return toRun(created);
    }),

  async get(tenantId, runId, showDeleted) {
    const [row] = await database.readForTenant<RunColumns>(tenantId, {
      name: 'get-run',
      text: 'select * from workflow_runs where tenant_id = $1 and id = $2 and ($3 or deleted_at is null)',
      values: [tenantId, runId, showDeleted],
    });
    return row && toRun(row);
  },

  async list(tenantId, { state, workflow, minCreatedAt, maxCreatedAt, showDeleted, limit, after }) {
    const rows = await database.readForTenant<RunColumns>(tenantId, {
      text: `select * from workflow_runs
             where tenant_id = $1 and ($2 or deleted_at is null) and ($3::text is null or state = $3)
               and ($4::text is null or workflow = $4)
               and ($5::timestamptz is null or created_at >= $5) and ($6::timestamptz is null or created_at < $6)
               and ($7::timestamptz is null or (created_at, id) < ($7, $8::uuid))
             order by created_at desc, id desc limit $9`,
      values: [
        tenantId,
        showDeleted,
        state ?? null,
        workflow ?? null,
        minCreatedAt?.toString() ?? null,
        maxCreatedAt?.toString() ?? null,
        after?.[0] ?? null,
        after?.[1] ?? null,
        limit + 1,
      ],
    });
    return pageOf(rows, limit, toRun, (row) => [row.created_at.toString(), row.id]);
  },

  update: (tenantId, runId, change) =>
    database.forTenant(tenantId, async (trx) => {
      const found = await lockRun(trx, tenantId, runId);
      if (!found || found.row.deleted_at !== null) return undefined;
      const before = toRun(found.row);
      const changed = change(before, found.now);
      if (changed === before) return before;
      const after: Run = { ...changed, version: before.version + 1n, updatedAt: found.now };
      await trx('workflow_runs')
        .where({ tenant_id: tenantId, id: runId })
        .update({
          state: after.state,
          error: after.error ?? null,
          output: after.output === undefined ? null : JSON.stringify(after.output),
          finished_at: after.finishedAt?.toString() ?? null,
          updated_at: found.now.toString(),
          version: String(after.version),
        });
      return after;
    }),
});

/** The run under its row's lock, hidden or not, with the database's instant. */
export async function lockRun(
  trx: Knex.Transaction,
  tenantId: string,
  runId: string,
): Promise<{ row: RunColumns; now: Temporal.Instant } | undefined> {
  const row = firstOf<RunColumns & { now: Temporal.Instant }>(
    await trx.raw(
      `select *, clock_timestamp() as now from workflow_runs
       where tenant_id = :tenantId and id = :runId for update`,
      { tenantId, runId },
    ),
  );
  return row && { row, now: row.now };
}

/** The domain's run. */
export const toRun = (row: RunColumns): Run => ({
  id: row.id,
  tenantId: row.tenant_id,
  workflow: row.workflow,
  displayName: row.display_name,
  state: row.state,
  input: row.input ?? undefined,
  output: row.output ?? undefined,
  error: row.error ?? undefined,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
  finishedAt: row.finished_at ?? undefined,
  tombstone:
    row.deleted_at === null
      ? undefined
      : { at: row.deleted_at, by: row.deleted_by ?? '', reason: row.deleted_reason ?? undefined },
  version: BigInt(row.version),
});
