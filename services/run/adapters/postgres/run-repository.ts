import { Model } from 'objection';
import { newId } from '#libs/kernel/id.ts';
import { pageOf } from '#libs/kernel/page.ts';
import { column, columnsOf, type RowOf } from '#libs/postgres/columns.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { runNotFound } from '../../domain/errors.ts';
import { etagOf, type JsonObject, type Run, type RunDriver, type RunState, type Tombstone } from '../../domain/run.ts';
import { type Removal, type RemovedCounts, removalsOf, sumByType } from '../../domain/saga.ts';
import type { RunStep, StepState } from '../../domain/step.ts';
import type { RunRepository } from '../../use-cases/ports.ts';
import { rememberRequest } from './request-ids.ts';

/** A row of `workflow_runs`. */
export class RunRow extends Model {
  static override readonly tableName = 'workflow_runs';
  static override readonly idColumn = ['tenant_id', 'id'];
  static override readonly jsonAttributes = ['input', 'output'];
  declare tenant_id: string;
  declare id: string;
  declare workflow: string;
  declare display_name: string;
  declare driver: RunDriver;
  declare state: RunState;
  declare input: JsonObject | null;
  declare output: JsonObject | null;
  declare error: string | null;
  declare parked_reason: string | null;
  declare attempts: number;
  declare current_step: string | null;
  declare created_at: Temporal.Instant;
  declare started_at: Temporal.Instant | null;
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

type BasicColumns = Omit<RunColumns, 'input' | 'output'>;
const BASIC = {
  tenant_id: true,
  id: true,
  workflow: true,
  display_name: true,
  driver: true,
  state: true,
  error: true,
  parked_reason: true,
  attempts: true,
  current_step: true,
  created_at: true,
  started_at: true,
  updated_at: true,
  finished_at: true,
  deleted_at: true,
  deleted_by: true,
  deleted_reason: true,
  deletion_id: true,
  version: true,
} as const satisfies Record<keyof BasicColumns, true>;

const BASIC_COLUMNS = columnsOf(BASIC);
/** The columns of a run as SQL. */
export const RUN_COLUMNS = columnsOf({ ...BASIC, input: true, output: true });

const STEP = {
  run_id: column<string>(),
  name: column<string>(),
  position: column<number>(),
  state: column<StepState>(),
  participants: column<readonly string[]>(),
  attempts: column<number>(),
  error: column<string | null>(),
  started_at: column<Temporal.Instant | null>(),
  finished_at: column<Temporal.Instant | null>(),
  compensated_at: column<Temporal.Instant | null>(),
  removed: column<RemovedCounts>(),
  removals: column<readonly Removal[]>(),
  deleted_at: column<Temporal.Instant | null>(),
  deleted_by: column<string | null>(),
  deleted_reason: column<string | null>(),
  deletion_id: column<string | null>(),
};

type StepColumns = RowOf<typeof STEP>;

const STEP_COLUMNS = columnsOf(STEP);

/** The runs in Postgres. */
export const makeRunRepository = (database: Database): RunRepository => ({
  create: ({ tenantId, workflow, displayName, input, requestId, fingerprint }) =>
    database.forTenant(tenantId, async (trx) => {
      const id = newId();
      if (requestId !== undefined) {
        const known = await rememberRequest(trx, { tenantId, method: 'CreateRun', requestId, fingerprint }, id);
        if (known) {
          const [repeated] = await RunRow.query(trx)
            .where({ tenant_id: tenantId, id: known.resultId ?? null })
            .whereNull('deleted_at');
          if (!repeated) throw runNotFound();
          return toRun(repeated);
        }
      }
      const created = firstOf<RunColumns>(
        await trx.raw(
          `insert into workflow_runs (tenant_id, id, workflow, display_name, state, input)
           values (:tenantId, :id, :workflow, :displayName, 'RUNNING', cast(:input as jsonb)) returning *`,
          { tenantId, id, workflow, displayName, input: input === undefined ? null : JSON.stringify(input) },
        ),
      );
      if (!created) throw new Error('the insert answered with no row');
      return toRun(created);
    }),

  async get(tenantId, runId, showDeleted, view = 'FULL') {
    if (view === 'BASIC') {
      const [basic] = await database.readForTenant<BasicColumns>(tenantId, {
        name: 'get-basic-run',
        text: `select ${BASIC_COLUMNS()} from workflow_runs
               where tenant_id = $1 and id = $2 and ($3 or deleted_at is null)`,
        values: [tenantId, runId, showDeleted],
      });
      return basic && toBasicRun(basic);
    }
    const [row] = await database.readForTenant<RunColumns>(tenantId, {
      name: 'get-run',
      text: `select ${RUN_COLUMNS()} from workflow_runs where tenant_id = $1 and id = $2 and ($3 or deleted_at is null)`,
      values: [tenantId, runId, showDeleted],
    });
    return row && toRun(row);
  },

  async etags(tenantId, runIds) {
    const rows = await database.readForTenant<Pick<RunColumns, 'id' | 'version'> & TombstoneColumns>(tenantId, {
      name: 'get-run-etags',
      text: `select id, version, deleted_at, deleted_by, deleted_reason, deletion_id
             from workflow_runs where tenant_id = $1 and id = any($2::uuid[])`,
      values: [tenantId, runIds],
    });
    return new Map(rows.map((row) => [row.id, etagOf({ version: BigInt(row.version), tombstone: toTombstone(row) })]));
  },

  async inspect(tenantId, runId) {
    const [row] = await database.readForTenant<RunColumns & { now: Temporal.Instant }>(tenantId, {
      name: 'inspect-run',
      text: `select ${RUN_COLUMNS()}, clock_timestamp() as now from workflow_runs where tenant_id = $1 and id = $2`,
      values: [tenantId, runId],
    });
    return row && { run: toRun(row), now: row.now };
  },

  async list(tenantId, { state, workflow, minCreatedAt, maxCreatedAt, showDeleted, deletedOnly, limit, after }) {
    const [order, hidden] = deletedOnly
      ? ['deleted_at', '$2 and deleted_at is not null']
      : ['created_at', '($2 or deleted_at is null)'];
    const rows = await database.readForTenant<BasicColumns>(tenantId, {
      // Input and output may be large: two hundred of them are not read to be left out.
      text: `select ${BASIC_COLUMNS()} from workflow_runs
             where tenant_id = $1 and ${hidden} and ($3::text is null or state = $3)
               and ($4::text is null or workflow = $4)
               and ($5::timestamptz is null or created_at >= $5) and ($6::timestamptz is null or created_at < $6)
               and ($7::timestamptz is null or (${order}, id) < ($7, $8::uuid))
             order by ${order} desc, id desc limit $9`,
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
    return pageOf(rows, limit, toBasicRun, (row) => [
      (deletedOnly ? row.deleted_at : row.created_at)?.toString() ?? '',
      row.id,
    ]);
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
          current_step: after.currentStep ?? null,
          finished_at: after.finishedAt?.toString() ?? null,
          updated_at: found.now.toString(),
          version: String(after.version),
        });
      return after;
    }),

  recordStep: (tenantId, runId, name, change) =>
    database.forTenant(tenantId, async (trx) => {
      const found = await lockRun(trx, tenantId, runId);
      if (!found || found.row.deleted_at !== null) return undefined;
      const run = toRun(found.row);
      const bindings = { tenantId, runId, name };
      const row = firstOf<StepColumns & { next_position: number }>(
        await trx.raw(
          `select s.*, coalesce((select max(position) from workflow_run_steps
                                 where tenant_id = :tenantId and run_id = :runId), 0) + 1 as next_position
           from (select 1) one left join workflow_run_steps s
             on s.tenant_id = :tenantId and s.run_id = :runId and s.name = :name`,
          bindings,
        ),
      );
      if (!row) throw new Error('a query without a predicate answered with no row');
      const known = row.name === null ? undefined : toStep(row);
      const step = change(run, known, row.next_position, found.now);
      if (step === known) return known;
      await trx.raw(
        `with recorded as (
           insert into workflow_run_steps
             (tenant_id, run_id, name, position, state, participants, attempts, error, started_at, finished_at)
           values (:tenantId, :runId, :name, :position, :state, :participants, :attempts, :error, :startedAt, :finishedAt)
           on conflict (tenant_id, run_id, name) do update
             set state = excluded.state, participants = excluded.participants, attempts = excluded.attempts,
                 error = excluded.error, started_at = excluded.started_at, finished_at = excluded.finished_at
           returning 1)
         update workflow_runs
         set current_step = case when :state = 'RUNNING' then :name when current_step = :name then null else current_step end,
             started_at = coalesce(started_at, :startedAt), updated_at = :now, version = version + 1
         where tenant_id = :tenantId and id = :runId`,
        {
          ...bindings,
          position: step.position,
          state: step.state,
          participants: [...step.participants],
          attempts: step.attempts,
          error: step.error ?? null,
          startedAt: step.startedAt?.toString() ?? null,
          finishedAt: step.finishedAt?.toString() ?? null,
          now: found.now.toString(),
        },
      );
      return step;
    }),

  async listSteps(tenantId, runId, { limit, after, showDeleted }) {
    const rows = await database.readForTenant<StepColumns>(tenantId, {
      name: 'list-run-steps',
      // The run's own row comes with every page, so that no steps and no run are told apart in one statement.
      text: `select ${STEP_COLUMNS('s')} from workflow_runs r left join lateral (
               select ${STEP_COLUMNS()} from workflow_run_steps
               where tenant_id = r.tenant_id and run_id = r.id and ($3 or deleted_at is null)
                 and ($4::int is null or position > $4) order by position limit $5) s on true
             where r.tenant_id = $1 and r.id = $2 and ($3 or r.deleted_at is null) order by s.position`,
      values: [tenantId, runId, showDeleted, after?.[0] ?? null, limit + 1],
    });
    if (rows.length === 0) return undefined;
    return pageOf(
      rows.filter(({ name }) => name !== null),
      limit,
      toStep,
      (row) => [String(row.position)],
    );
  },
});

/** The run under its row's lock, hidden or not, with the database's instant. */
export async function lockRun(
  trx: TenantTransaction,
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
  driver: row.driver,
  state: row.state,
  input: row.input ?? undefined,
  output: row.output ?? undefined,
  error: row.error ?? undefined,
  parkedReason: row.parked_reason ?? undefined,
  attempts: row.attempts,
  currentStep: row.current_step ?? undefined,
  createdAt: row.created_at,
  startedAt: row.started_at ?? undefined,
  updatedAt: row.updated_at,
  finishedAt: row.finished_at ?? undefined,
  tombstone: toTombstone(row),
  references: [],
  version: BigInt(row.version),
});

const toBasicRun = (row: BasicColumns): Run => toRun({ ...row, input: null, output: null });

const toStep = (row: StepColumns): RunStep => ({
  runId: row.run_id,
  name: row.name,
  position: row.position,
  state: row.state,
  participants: row.participants,
  attempts: row.attempts,
  error: row.error ?? undefined,
  startedAt: row.started_at ?? undefined,
  finishedAt: row.finished_at ?? undefined,
  compensatedAt: row.compensated_at ?? undefined,
  removed: sumByType(removalsOf(row)),
  tombstone: toTombstone(row),
});

type TombstoneColumns = Pick<StepColumns, 'deleted_at' | 'deleted_by' | 'deleted_reason' | 'deletion_id'>;

const toTombstone = (row: TombstoneColumns): Tombstone | undefined =>
  row.deleted_at === null
    ? undefined
    : {
        deletionId: row.deletion_id ?? '',
        at: row.deleted_at,
        by: row.deleted_by ?? '',
        reason: row.deleted_reason ?? undefined,
      };
