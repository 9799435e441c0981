import { Model } from 'objection';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { pageOf } from '#libs/kernel/page.ts';
import { columnsOf } from '#libs/postgres/columns.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { isUniqueViolation } from '#libs/postgres/sql-errors.ts';
import {
  countFlags,
  type DriftCheck,
  type DriftStatus,
  driftCheckNotFound,
  type Environment,
  environmentNotFound,
  type FlaggedWorkflow,
  type JsonObject,
  nameTaken,
} from '../../domain/drift.ts';
import type { DriftRepository } from '../../use-cases/ports.ts';
import { repeatedTarget } from './requests.ts';

interface Flags {
  readonly modified_count: number;
  readonly not_in_git_count: number;
  readonly unknown_count: number;
}

class EnvironmentRow extends Model implements Flags {
  static override readonly tableName = 'environments';
  static override readonly idColumn = ['tenant_id', 'id'];
  declare tenant_id: string;
  declare id: string;
  declare display_name: string;
  declare drift_status: DriftStatus;
  declare modified_count: number;
  declare not_in_git_count: number;
  declare unknown_count: number;
  declare last_checked_at: Temporal.Instant | null;
  declare created_at: Temporal.Instant;
  declare updated_at: Temporal.Instant;
}

type EnvironmentColumns = Omit<EnvironmentRow, keyof Model>;

interface CheckRow extends Flags {
  readonly tenant_id: string;
  readonly id: string;
  readonly environment_id: string;
  readonly status: DriftStatus;
  readonly checked_at: Temporal.Instant | null;
  readonly summary?: JsonObject | null;
  readonly created_at: Temporal.Instant;
  readonly workflows?: readonly FlaggedWorkflow[];
}

const BASIC_CHECK_COLUMNS = columnsOf({
  tenant_id: true,
  id: true,
  environment_id: true,
  status: true,
  checked_at: true,
  created_at: true,
  modified_count: true,
  not_in_git_count: true,
  unknown_count: true,
} satisfies Readonly<Record<keyof Omit<CheckRow, 'summary' | 'workflows'>, true>>)('c');
const CHECK_COLUMNS = `${BASIC_CHECK_COLUMNS}, c.summary, coalesce((
  select json_agg(json_build_object('workflow', w.workflow, 'flag', w.flag) order by w.workflow)
  from drift_check_workflows w where w.tenant_id = c.tenant_id and w.check_id = c.id), '[]') as workflows`;

interface Recorded {
  /** The check is said to be from the database's future, and nothing was recorded. */
  readonly late: boolean;
}

// The environment's row is locked first, so that of two checks at once the newer one by the time of looking, and not
// the one that is told last, ends as the badge.
const RECORD = `
  with environment as (
    select id from environments where tenant_id = :tenantId and id = :environmentId for update
  ), looked as (
    select coalesce(cast(:checkedAt as timestamptz) > now.at, false) as late,
           coalesce(cast(:checkedAt as timestamptz), now.at) as at
    from (select clock_timestamp() as at from environment) now
  ), recorded as (
    insert into drift_checks
      (tenant_id, id, environment_id, status, checked_at, summary, modified_count, not_in_git_count, unknown_count)
    select :tenantId, :id, :environmentId, :status, at, cast(:summary as jsonb), :modified, :notInGit, :unknown
    from looked where not late
    returning *
  ), flagged as (
    insert into drift_check_workflows (tenant_id, check_id, workflow, flag)
    select c.tenant_id, c.id, w.workflow, w.flag
    from recorded c, jsonb_to_recordset(cast(:workflows as jsonb)) as w (workflow text, flag text)
    returning 1
  ), badge as (
    update environments e
    set drift_status = c.status, modified_count = c.modified_count, not_in_git_count = c.not_in_git_count,
        unknown_count = c.unknown_count, last_checked_at = c.checked_at, updated_at = clock_timestamp()
    from recorded c
    where e.tenant_id = c.tenant_id and e.id = c.environment_id
      and (e.last_checked_at is null or e.last_checked_at <= c.checked_at)
    returning 1
  )
  select late from looked`;

/** Environments and drift checks in Postgres. */
export const makeDriftRepository = (database: Database): DriftRepository => ({
  createEnvironment: ({ tenantId, displayName, requestId, fingerprint }) =>
    database.forTenant(tenantId, async (trx) => {
      const id = newId();
      const known = await repeatedTarget(trx, { tenantId, requestId, fingerprint, id });
      if (known === undefined) {
        try {
          await EnvironmentRow.query(trx).insert({ tenant_id: tenantId, id, display_name: displayName });
        } catch (error) {
          throw isUniqueViolation(error, 'environments_name') ? nameTaken(displayName) : error;
        }
      }
      const row = await EnvironmentRow.query(trx).findOne({ tenant_id: tenantId, id: known ?? id });
      if (!row) throw environmentNotFound();
      return toEnvironment(row);
    }),

  async getEnvironment(tenantId, environmentId) {
    const [row] = await database.readForTenant<EnvironmentColumns>(tenantId, {
      text: 'select * from environments where tenant_id = $1 and id = $2',
      values: [tenantId, environmentId],
    });
    return row && toEnvironment(row);
  },

  async listEnvironments(tenantId, status, { limit, after }) {
    const rows = await database.readForTenant<EnvironmentColumns>(tenantId, {
      text: `select * from environments
             where tenant_id = $1 and ($2::text is null or drift_status = $2) and ($3::text is null or display_name > $3)
             order by display_name limit $4`,
      values: [tenantId, status ?? null, after?.[0] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toEnvironment, (row) => [row.display_name]);
  },

  recordCheck: (check) =>
    database.forTenant(check.tenantId, async (trx) => {
      const { tenantId, environmentId, requestId, fingerprint, checkedAt, workflows } = check;
      const id = newId();
      const known = await repeatedTarget(trx, { tenantId, requestId, fingerprint, id });
      if (known === undefined) {
        const recorded = firstOf<Recorded>(
          await trx.raw(RECORD, {
            tenantId,
            environmentId,
            id,
            status: check.status,
            checkedAt: checkedAt?.toString() ?? null,
            summary: check.summary === undefined ? null : JSON.stringify(check.summary),
            workflows: JSON.stringify(workflows),
            ...countFlags(workflows),
          }),
        );
        if (!recorded) throw environmentNotFound();
        if (recorded.late) throw fieldInvalid('check_time', 'must not be in the future');
      }
      const [checks, environment] = await Promise.all([
        trx.raw(`select ${CHECK_COLUMNS} from drift_checks c where c.tenant_id = :tenantId and c.id = :id`, {
          tenantId,
          id: known ?? id,
        }),
        EnvironmentRow.query(trx).findOne({ tenant_id: tenantId, id: environmentId }),
      ]);
      const row = firstOf<CheckRow>(checks);
      // The repetition of a request whose check was purged since.
      if (!row) throw driftCheckNotFound();
      if (!environment) throw environmentNotFound();
      return { check: toCheck(row), environment: toEnvironment(environment) };
    }),

  async getCheck(tenantId, checkId, view = 'FULL') {
    const [row] = await database.readForTenant<CheckRow>(tenantId, {
      text: `select ${view === 'FULL' ? CHECK_COLUMNS : BASIC_CHECK_COLUMNS}
             from drift_checks c where c.tenant_id = $1 and c.id = $2`,
      values: [tenantId, checkId],
    });
    return row && toCheck(row);
  },

  async listChecks(tenantId, { environmentId, status }, { limit, after }) {
    const order = 'order by checked_at desc nulls last, id desc limit $4';
    const part = (where: string): string =>
      `(select ${BASIC_CHECK_COLUMNS} from drift_checks c
        where tenant_id = $1 and ($2::uuid is null or environment_id = $2) and ($3::text is null or status = $3)
          and ${where} ${order})`;
    const [at, id] = after ?? [];
    let text = part('true');
    // Checks with an instant and those without one, which come last, are a range of an index each.
    if (at) text = `${part('(checked_at, id) < ($5, $6)')} union all ${part('checked_at is null')} ${order}`;
    else if (id) text = part('checked_at is null and id < $5');
    const keyset = at ? [at, id] : id ? [id] : [];
    const rows = await database.readForTenant<CheckRow>(tenantId, {
      text,
      values: [tenantId, environmentId ?? null, status ?? null, limit + 1, ...keyset],
    });
    const keyOf = (row: CheckRow): readonly string[] => [row.checked_at?.toString() ?? '', row.id];
    return pageOf(rows, limit, (row) => ({ ...toCheck(row), key: keyOf(row) }), keyOf);
  },
});

const toCounts = (row: Flags) => ({
  modified: row.modified_count,
  notInGit: row.not_in_git_count,
  unknown: row.unknown_count,
});

const toEnvironment = (row: EnvironmentColumns): Environment => ({
  id: row.id,
  tenantId: row.tenant_id,
  displayName: row.display_name,
  driftStatus: row.drift_status,
  counts: toCounts(row),
  lastCheckedAt: row.last_checked_at ?? undefined,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
});

const toCheck = (row: CheckRow): DriftCheck => ({
  id: row.id,
  tenantId: row.tenant_id,
  environmentId: row.environment_id,
  status: row.status,
  checkedAt: row.checked_at ?? row.created_at,
  summary: row.summary ?? undefined,
  workflows: row.workflows ?? [],
  counts: toCounts(row),
  createdAt: row.created_at,
});
