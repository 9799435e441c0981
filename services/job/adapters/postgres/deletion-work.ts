import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import type { Principal } from '#libs/kernel/caller.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Database, Statement, TenantTransaction } from '#libs/postgres/open-database.ts';
import { rowsOf } from '#libs/postgres/rows.ts';
import { NOTHING_REMOVED } from '../../domain/deletion.ts';
import { leaseLost } from '../../domain/errors.ts';
import type { DeletionClaim, DeletionWork } from '../../use-cases/deletion-ports.ts';
import { DELETION_COLUMNS, type DeletionRow, toDeletion } from './rows.ts';

/** Whose removal is ordered, by whom, and why. */
export interface RemovalOrder {
  readonly caller: Principal;
  readonly tenantId: string;
  readonly jobIds: readonly string[];
  readonly operationId?: string;
  readonly reason: string | undefined;
  readonly requestId?: string | undefined;
  readonly fingerprint?: string;
  readonly bulkItem?: BulkItem | undefined;
}

/** Commits the intent: a deletion for each of these jobs, and the mark that hides the job from every reader. */
export async function insertDeletions(trx: TenantTransaction, order: RemovalOrder): Promise<readonly DeletionRow[]> {
  const { caller, tenantId, jobIds, operationId, reason, requestId, fingerprint, bulkItem } = order;
  return rowsOf(
    await trx.raw(
      `with ordered as (
         select job_id, id from unnest(cast(:jobIds as uuid[]), cast(:ids as uuid[])) as o (job_id, id)),
       hidden as (
         update jobs j set deletion_id = o.id, version = j.version + 1, updated_at = clock_timestamp()
         from ordered o where j.tenant_id = :tenantId and j.id = o.job_id
         returning j.id as job_id, j.run_id, j.step, o.id)
       insert into job_deletions
         (tenant_id, id, job_id, run_id, step, operation_id, state, actor, subject, reason, request_id, fingerprint, counts,
          bulk_deletion_id, trust_entry)
       select :tenantId, id, job_id, run_id, step, :operationId, 'PENDING', :actor, :subject, :reason, :requestId,
              :fingerprint, cast(:counts as jsonb), :bulkDeletionId, :trustEntry from hidden
       returning *`,
      {
        tenantId,
        jobIds,
        ids: jobIds.map(() => newId()),
        operationId: operationId ?? null,
        actor: caller.actor,
        subject: caller.subject,
        trustEntry: caller.trustEntry ?? null,
        reason: reason ?? null,
        requestId: requestId ?? null,
        fingerprint: fingerprint ?? null,
        bulkDeletionId: bulkItem?.bulkDeletionId ?? null,
        counts: JSON.stringify(NOTHING_REMOVED),
      },
    ),
  );
}

const ROWS_PER_BATCH = 1_000;

/** What workers do of the durable removals of jobs, in Postgres. */
export const makeDeletionWork = (database: Database): DeletionWork => ({
  async findDue(limit) {
    const rows = await database.acrossTenants<{ tenant_id: string; id: string }>({
      text: 'select tenant_id, id from due_job_deletions($1)',
      values: [limit],
    });
    return rows.map((row) => ({ tenantId: row.tenant_id, deletionId: row.id }));
  },

  async claim(tenantId, deletionId, owner, leaseMs) {
    const [rows] = await database.writeForTenant(tenantId, [
      {
        name: 'claim-deletion',
        text: `update job_deletions d
               set state = 'CASCADING', lease_owner = $3, lease_token = d.lease_token + 1, attempts = d.attempts + 1,
                   lease_expires_at = clock_timestamp() + $4 * interval '1 ms',
                   started_at = coalesce(d.started_at, due.at), updated_at = due.at,
                   -- Whoever held it and never gave it up may have removed more than he could tell.
                   counts = case when due.lease_owner is null then d.counts else d.counts || '{"atLeast": true}' end
               from (select tenant_id, id, lease_owner, clock_timestamp() as at from job_deletions
                     where tenant_id = $1 and id = $2 and state in ('PENDING', 'CASCADING', 'VERIFYING')
                       and next_attempt_at <= clock_timestamp()
                       and (lease_expires_at is null or lease_expires_at <= clock_timestamp())
                     for update skip locked) due
               where d.tenant_id = due.tenant_id and d.id = due.id
               returning ${DELETION_COLUMNS('d')}`,
        values: [tenantId, deletionId, owner, leaseMs],
      },
    ]);
    const row = rows?.[0] as DeletionRow | undefined;
    return row && { deletion: toDeletion(row), token: BigInt(row.lease_token) };
  },

  async renew(claim, leaseMs) {
    await writeClaimed(database, claim, {
      name: 'renew-deletion',
      text: `update job_deletions set lease_expires_at = clock_timestamp() + $4 * interval '1 ms'
             where ${CLAIMED} returning id`,
      values: [...claimValues(claim), leaseMs],
    });
  },

  async saveProgress(claim, state, counts, leaseMs) {
    await writeClaimed(database, claim, {
      name: 'save-deletion',
      text: `update job_deletions
             set state = $4, counts = $5::jsonb, updated_at = clock_timestamp(),
                 lease_expires_at = clock_timestamp() + $6 * interval '1 ms'
             where ${CLAIMED} returning id`,
      values: [...claimValues(claim), state, JSON.stringify(counts), leaseMs],
    });
  },

  async complete(claim, counts) {
    const { tenantId, jobId } = claim.deletion;
    const mine = [...claimValues(claim), jobId];
    const removeBatch: Statement = {
      name: 'remove-artifacts',
      text: `with claimed as (select 1 from job_deletions where ${CLAIMED} for update),
                  gone as (
                    delete from artifacts where tenant_id = $1 and job_id = $4 and exists (select from claimed)
                      and ctid = any(array(select ctid from artifacts where tenant_id = $1 and job_id = $4
                                           limit ${ROWS_PER_BATCH}))
                    returning 1),
                  uploads as (
                    delete from artifact_uploads where tenant_id = $1 and job_id = $4 and exists (select from claimed)
                      and ctid = any(array(select ctid from artifact_uploads where tenant_id = $1 and job_id = $4
                                           limit ${ROWS_PER_BATCH}))
                    returning 1)
             update job_deletions
             set counts = counts || jsonb_build_object('artifacts',
                   (counts ->> 'artifacts')::bigint + (select count(*) from gone)), updated_at = clock_timestamp()
             where ${CLAIMED} and exists (select from claimed) returning id`,
      values: mine,
    };
    // The tasks, at most 50, go by cascade with the job; and the job only when nothing else of it is left.
    const removeJob: Statement = {
      name: 'remove-job',
      text: `with claimed as (
                    select 1 from job_deletions
                    where ${CLAIMED} and not exists (select from artifacts where tenant_id = $1 and job_id = $4)
                      and not exists (select from artifact_uploads where tenant_id = $1 and job_id = $4)
                    for update),
                  tasks as (select count(*) as count from job_tasks where tenant_id = $1 and job_id = $4),
                  gone as (
                    delete from jobs where tenant_id = $1 and id = $4 and exists (select from claimed)
                    returning run_id, step),
                  -- The step's outcome still answers a repeated call, without the names of what is gone.
                  unnamed as (
                    update step_actions set outcome = jsonb_set(outcome, '{assets}', (
                      select coalesce(jsonb_agg(asset || '{"name": ""}'), '[]')
                      from jsonb_array_elements(outcome -> 'assets') asset))
                    where tenant_id = $1 and run_id = (select run_id from gone) and step = (select step from gone)
                      and job_id = $4 and outcome is not null returning 1),
                  done as (
                    update job_deletions
                    set state = 'COMPLETE', remaining = 0, failed_keys = '[]', last_error = null,
                        next_attempt_at = null, lease_owner = null, lease_expires_at = null,
                        counts = counts || jsonb_build_object(
                          'tasks', (counts ->> 'tasks')::bigint + (select count from tasks where exists (select from gone)),
                          'jobs', (counts ->> 'jobs')::bigint + (select count(*) from gone)),
                        updated_at = clock_timestamp(), finished_at = clock_timestamp()
                    where ${CLAIMED} and exists (select from claimed)
                    returning ${DELETION_COLUMNS()}),
                  audited as (${auditFrom('done', 'COMPLETE')})
             select ${DELETION_COLUMNS()} from done`,
      values: mine,
    };
    for (let first = true; ; first = false) {
      const saved: Statement = {
        name: 'save-removed',
        // A process that died between a removal and its count has told nobody. What the index says was there, and the
        // read-back says is not, was removed all the same.
        text: `update job_deletions set counts = $5::jsonb || known.counts
               from (select jsonb_build_object('objects', greatest(($5::jsonb ->> 'objects')::bigint, count(*)),
                                               'bytes', greatest(($5::jsonb ->> 'bytes')::bigint, sum(bytes))) as counts
                     from artifacts where tenant_id = $1 and job_id = $4 and stored_at is not null
                       and ($5::jsonb ->> 'artifacts')::bigint = 0 and ($5::jsonb ->> 'atLeast')::boolean) known
               where ${CLAIMED} returning id`,
        values: [...mine, JSON.stringify(counts)],
      };
      const statements = first ? [saved, removeBatch, removeJob] : [removeBatch, removeJob];
      const answers = await database.writeForTenant(tenantId, statements);
      const [done, batch] = [answers.at(-1)?.[0], answers.at(-2)?.[0]];
      if (done) return toDeletion(done as DeletionRow);
      if (!batch) throw leaseLost();
    }
  },

  async release(claim, counts) {
    await writeClaimed(database, claim, {
      name: 'release-deletion',
      text: `update job_deletions
             set state = 'CASCADING', counts = $4::jsonb, last_error = null, attempts = attempts - 1, lease_owner = null,
                 lease_expires_at = null, next_attempt_at = clock_timestamp(), updated_at = clock_timestamp()
             where ${CLAIMED} returning id`,
      values: [...claimValues(claim), JSON.stringify(counts)],
    });
  },

  async postpone(claim, { counts, left, error, failedKeys, retryMs, counted }) {
    await writeClaimed(database, claim, {
      name: 'postpone-deletion',
      text: `with postponed as (
               update job_deletions
               set state = case when $4::bigint is null then 'STUCK' else 'CASCADING' end,
                   counts = $5::jsonb, remaining = $6, failed_keys = $7::jsonb, last_error = $8,
                   attempts = attempts - $9, lease_owner = null, lease_expires_at = null,
                   next_attempt_at = clock_timestamp() + $4::bigint * interval '1 ms', updated_at = clock_timestamp()
               where ${CLAIMED} returning ${DELETION_COLUMNS()}),
             parked as (select ${DELETION_COLUMNS()} from postponed where state = 'STUCK'),
             audited as (${auditFrom('parked', 'STUCK')})
             select id from postponed`,
      values: [
        ...claimValues(claim),
        retryMs ?? null,
        JSON.stringify(counts),
        left,
        JSON.stringify(failedKeys),
        error,
        counted ? 0 : 1,
      ],
    });
  },

  async defer(tenantId, deletionId, error, retryMs) {
    await database.writeForTenant(tenantId, [
      {
        name: 'defer-deletion',
        text: `update job_deletions
               set last_error = $3, next_attempt_at = clock_timestamp() + $4 * interval '1 ms',
                   updated_at = clock_timestamp()
               where tenant_id = $1 and id = $2 and state in ('PENDING', 'CASCADING', 'VERIFYING')
                 and next_attempt_at <= clock_timestamp()
                 and (lease_expires_at is null or lease_expires_at <= clock_timestamp()) returning 1`,
        values: [tenantId, deletionId, error, retryMs],
      },
    ]);
  },
});

// Whoever claims the deletion anew, or gives it up, makes the token of before worthless.
const CLAIMED = 'tenant_id = $1 and id = $2 and lease_token = $3 and lease_owner is not null';

const claimValues = ({ deletion, token }: DeletionClaim): unknown[] => [deletion.tenantId, deletion.id, String(token)];

/** The row of the audit for each deletion of a common table expression. */
const auditFrom = (source: string, outcome: string): string =>
  `insert into audit_entries
     (tenant_id, actor, subject, action, target_type, target_id, reason, request_id, outcome, counts,
      trust_entry)
   select tenant_id, actor, subject, 'delete', 'job', job_id, reason, request_id, '${outcome}', counts, trust_entry
   from ${source} returning 1`;

/** One statement of a worker that holds the deletion; LEASE_LOST when it touched nothing. */
async function writeClaimed(database: Database, { deletion }: DeletionClaim, statement: Statement): Promise<void> {
  const [rows] = await database.writeForTenant(deletion.tenantId, [statement]);
  if (rows?.length !== 1) throw leaseLost();
}
