import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { DeletionStep } from '../../domain/deletion.ts';
import { leaseLost } from '../../domain/errors.ts';
import type { DeletionClaim, DeletionWork } from '../../use-cases/deletion-ports.ts';
import { auditOutcome, findDeletion, toDeletion } from './deletion-rows.ts';

/** What workers do of the durable deletions of runs, in Postgres. */
export const makeDeletionWork = (database: Database): DeletionWork => ({
  async findDue(limit) {
    const rows = await database.acrossTenants<{ tenant_id: string; id: string }>({
      text: 'select tenant_id, id from due_deletions($1)',
      values: [limit],
    });
    return rows.map((row) => ({ tenantId: row.tenant_id, deletionId: row.id }));
  },

  claim: (tenantId, deletionId, owner, leaseMs) =>
    database.forTenant(tenantId, async (trx) => {
      // By ctid: a join of the table with itself is planned badly behind row-level security.
      // An owner that is still written there is one that vanished: whoever gives up a claim takes its name away.
      const claimed = firstOf<{ lease_token: number }>(
        await trx.raw(
          `update deletions d
           set state = case d.state when 'PENDING' then 'CASCADING' else d.state end,
               attempts = d.attempts + case when d.lease_owner is null then 0 else 1 end,
               lease_owner = :owner, lease_token = d.lease_token + 1,
               lease_expires_at = now.at + :leaseMs * interval '1 ms',
               started_at = coalesce(d.started_at, now.at), updated_at = now.at
           from (select clock_timestamp() as at) now
           where d.tenant_id = :tenantId and d.ctid = (
                 select ctid from deletions
                 where tenant_id = :tenantId and id = :deletionId and state in ('PENDING', 'CASCADING', 'VERIFYING')
                   and next_attempt_at <= clock_timestamp()
                   and (lease_expires_at is null or lease_expires_at <= clock_timestamp())
                 for update skip locked)
           returning d.lease_token`,
          { tenantId, deletionId, owner, leaseMs },
        ),
      );
      if (!claimed) return undefined;
      const row = await findDeletion(trx, tenantId, deletionId);
      return row && { deletion: toDeletion(row), token: BigInt(claimed.lease_token) };
    }),

  addSteps: (claim, participants) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      const { tenantId, id: deletionId } = claim.deletion;
      await updateClaimed(trx, claim, 'updated_at = clock_timestamp()', {});
      await trx.raw(
        `insert into deletion_steps (tenant_id, deletion_id, position, participant, state)
         select :tenantId, :deletionId, p.position + (
                  select max(position) from deletion_steps where tenant_id = :tenantId and deletion_id = :deletionId),
                p.name, 'PENDING'
         from unnest(cast(:participants as text[])) with ordinality as p(name, position)
         on conflict do nothing`,
        { tenantId, deletionId, participants: [...participants] },
      );
      const row = await findDeletion(trx, tenantId, deletionId);
      if (!row) throw leaseLost();
      return toDeletion(row);
    }),

  saveStep: (claim, state, step, leaseMs) =>
    database.forTenant(claim.deletion.tenantId, (trx) =>
      saveClaimed(trx, claim, step, undefined, {
        set: `state = :state, lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms'`,
        bindings: { state, leaseMs },
      }),
    ),

  release: (claim, pauseMs) =>
    database.forTenant(claim.deletion.tenantId, (trx) =>
      updateClaimed(
        trx,
        claim,
        `lease_owner = null, lease_expires_at = null, updated_at = clock_timestamp(),
         next_attempt_at = clock_timestamp() + :pauseMs * interval '1 ms'`,
        { pauseMs },
      ),
    ),

  fail: (claim, step, retryMs) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      await saveClaimed(trx, claim, step, retryMs, {
        set: `state = case when cast(:retryMs as bigint) is not null then d.state else 'STUCK' end,
              lease_owner = null, lease_expires_at = null,
              next_attempt_at = clock_timestamp() + cast(:retryMs as bigint) * interval '1 ms'`,
        bindings: { retryMs: retryMs ?? null },
      });
      if (retryMs === undefined) await auditOutcome(trx, claim.deletion, 'STUCK');
    }),

  complete: (claim) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      await updateClaimed(
        trx,
        claim,
        `state = 'COMPLETE', attempts = 0, last_error = null, next_attempt_at = null, lease_owner = null,
         lease_expires_at = null, updated_at = clock_timestamp(), finished_at = clock_timestamp()`,
        {},
      );
      const { tenantId, id: deletionId } = claim.deletion;
      const row = await findDeletion(trx, tenantId, deletionId);
      if (!row) throw leaseLost();
      const deletion = toDeletion(row);
      await auditOutcome(trx, deletion, 'COMPLETE');
      return deletion;
    }),
});

async function updateClaimed(
  trx: TenantTransaction,
  { deletion, token }: DeletionClaim,
  set: string,
  bindings: Record<string, string | number | null>,
): Promise<void> {
  const { rowCount } = await trx.raw(
    `update deletions set ${set}
     where tenant_id = :tenantId and id = :deletionId and lease_token = :token and lease_owner is not null`,
    { ...bindings, tenantId: deletion.tenantId, deletionId: deletion.id, token: String(token) },
  );
  if (rowCount !== 1) throw leaseLost();
}

/** Saves a step and its deletion in one statement, if the claim still holds. */
async function saveClaimed(
  trx: TenantTransaction,
  { deletion, token }: DeletionClaim,
  step: DeletionStep,
  retryMs: number | undefined,
  { set, bindings }: { readonly set: string; readonly bindings: Record<string, string | number | null> },
): Promise<void> {
  const { rowCount } = await trx.raw(
    `with held as (
       update deletions d
       set ${set}, attempts = :attempts, last_error = :lastError, updated_at = clock_timestamp()
       where d.tenant_id = :tenantId and d.id = :deletionId and d.lease_token = :token and d.lease_owner is not null
       returning 1)
     update deletion_steps s
     set state = :stepState, counts = cast(:counts as jsonb), failed_items = cast(:failedItems as jsonb),
         attempts = :attempts, last_error = :lastError,
         ${step.state === 'COMPLETE' && deletion.mode === 'PURGE' ? 'verified_at = clock_timestamp(),' : ''}
         next_attempt_at = clock_timestamp() + cast(:retryMs as bigint) * interval '1 ms'
     where s.tenant_id = :tenantId and s.deletion_id = :deletionId and s.participant = :participant
       and exists (select from held)`,
    {
      ...bindings,
      tenantId: deletion.tenantId,
      deletionId: deletion.id,
      token: String(token),
      participant: step.participant,
      stepState: step.state,
      counts: JSON.stringify(step.counts),
      failedItems: JSON.stringify(step.failedItems),
      attempts: step.attempts,
      lastError: step.lastError ?? null,
      retryMs: retryMs ?? null,
    },
  );
  if (rowCount !== 1) throw leaseLost();
}
