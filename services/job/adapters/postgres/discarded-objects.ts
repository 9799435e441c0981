import { column, columnsOf, type RowOf } from '#libs/postgres/columns.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { readFigure } from '#libs/postgres/read-figure.ts';
import type { ArtifactKind } from '../../domain/artifact.ts';
import type { DiscardClaim, DiscardedObjects } from '../../use-cases/ports.ts';

const DISCARD = {
  tenant_id: column<string>(),
  job_id: column<string>(),
  id: column<string>(),
  kind: column<ArtifactKind>(),
  name: column<string>(),
  object_id: column<string | null>(),
  state: column<'ABANDONED' | 'REPLACED'>(),
  attempts: column<number>(),
  removed_at: column<Temporal.Instant | null>(),
};

type DiscardRow = RowOf<typeof DISCARD>;

const DISCARD_COLUMNS = columnsOf(DISCARD);

/** The objects to be removed, in Postgres. */
export const makeDiscardedObjects = (database: Database): DiscardedObjects => ({
  async findDue(limit) {
    const rows = await database.acrossTenants<DiscardRow>({
      text: 'select tenant_id, job_id, id from due_artifact_uploads($1)',
      values: [limit],
    });
    return rows.map((row) => ({ tenantId: row.tenant_id, jobId: row.job_id, id: row.id }));
  },

  oldestUnfinishedSeconds: () => readFigure(database, 'oldest_unfinished_upload_seconds'),

  async claim({ tenantId, jobId, id }, leaseMs) {
    const [rows] = await database.writeForTenant(tenantId, [
      {
        name: 'claim-discarded',
        text: `update artifact_uploads u
               set state = case u.state when 'OPEN' then 'ABANDONED' else u.state end, attempts = u.attempts + 1,
                   claimed_until = clock_timestamp() + $4 * interval '1 ms'
               from (select tenant_id, job_id, id from artifact_uploads
                     where tenant_id = $1 and job_id = $2 and id = $3 and due_at <= clock_timestamp()
                       and (claimed_until is null or claimed_until <= clock_timestamp())
                     for update skip locked) due
               where u.tenant_id = due.tenant_id and u.job_id = due.job_id and u.id = due.id
                 and exists (select from jobs j
                             where j.tenant_id = u.tenant_id and j.id = u.job_id and j.deletion_id is null)
               returning ${DISCARD_COLUMNS('u')}`,
        values: [tenantId, jobId, id, leaseMs],
      },
    ]);
    const row = rows?.[0] as DiscardRow | undefined;
    return row && toClaim(row);
  },

  async forget(claim) {
    await database.writeForTenant(claim.tenantId, [
      {
        name: 'forget-discarded',
        text: `delete from artifact_uploads where ${CLAIMED} returning 1`,
        values: claimValues(claim),
      },
    ]);
  },

  async putBack(claim, dueInMs, removed) {
    await database.writeForTenant(claim.tenantId, [
      {
        name: 'put-back-discarded',
        text: `update artifact_uploads
               set due_at = clock_timestamp() + $5 * interval '1 ms', claimed_until = null,
                   removed_at = case when $6 then now.at else removed_at end
               from (select clock_timestamp() as at) now where ${CLAIMED} returning 1`,
        values: [...claimValues(claim), dueInMs, removed],
      },
    ]);
  },
});

const CLAIMED = 'tenant_id = $1 and job_id = $2 and id = $3 and attempts = $4 and claimed_until is not null';

const claimValues = ({ tenantId, object, id, attempt }: DiscardClaim): unknown[] => [
  tenantId,
  object.jobId,
  id,
  attempt,
];

const toClaim = (row: DiscardRow): DiscardClaim => ({
  tenantId: row.tenant_id,
  id: row.id,
  object: { jobId: row.job_id, kind: row.kind, name: row.name, objectId: row.object_id ?? undefined },
  state: row.state,
  isLastLook: row.removed_at !== null,
  attempt: row.attempts,
});
