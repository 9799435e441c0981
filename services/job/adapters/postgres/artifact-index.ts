import { operationInProgress } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf } from '#libs/postgres/rows.ts';
import { jobNotFound } from '../../domain/errors.ts';
import type { ArtifactIndex, NewUpload } from '../../use-cases/ports.ts';
import { lockJob, VISIBLE } from './job-repository.ts';
import { type ArtifactRow, toArtifact, toJob } from './rows.ts';

/** The index of objects and open uploads in Postgres. */
export const makeArtifactIndex = (database: Database): ArtifactIndex => ({
  begin: (upload, check) =>
    database.forTenant(upload.tenantId, async (trx) => {
      const { tenantId, jobId } = upload;
      const job = await lockJob(trx, tenantId, jobId, VISIBLE);
      if (!job) throw jobNotFound();
      check(toJob(job.row), job.now);
      const { rowCount } = await trx.raw(
        `insert into artifacts (tenant_id, job_id, kind, name, content_type, upload_id, upload_expires_at)
         values (:tenantId, :jobId, :kind, :name, :contentType, :uploadId, clock_timestamp() + :leaseMs * interval '1 ms')
         on conflict (tenant_id, job_id, kind, name) do update
           set upload_id = excluded.upload_id, upload_expires_at = excluded.upload_expires_at
           where artifacts.upload_expires_at is null or artifacts.upload_expires_at <= clock_timestamp()`,
        bindingsOf(upload),
      );
      if (rowCount === 1) return;
      const other = firstOf<{ upload_id: string }>(
        await trx.raw(
          `select upload_id from artifacts
           where tenant_id = :tenantId and job_id = :jobId and kind = :kind and name = :name`,
          bindingsOf(upload),
        ),
      );
      throw operationInProgress(other?.upload_id ?? '');
    }),

  async renew(upload) {
    const [rows] = await database.writeForTenant(upload.tenantId, [
      {
        name: 'renew-upload',
        text: `update artifacts a set upload_expires_at = clock_timestamp() + $7 * interval '1 ms'
               where ${OWN_LIVE_UPLOAD} returning 1`,
        values: [...uploadValues(upload), upload.leaseMs],
      },
    ]);
    return rows?.length === 1;
  },

  async finish(upload, bytes, sha256) {
    const [rows] = await database.writeForTenant(upload.tenantId, [
      {
        name: 'finish-upload',
        text: `update artifacts a
               set content_type = $7, bytes = $8, sha256 = $9, stored_at = clock_timestamp(),
                   upload_id = null, upload_expires_at = null
               where ${OWN_LIVE_UPLOAD} returning a.*`,
        values: [...uploadValues(upload), upload.contentType, bytes, sha256],
      },
    ]);
    const row = rows?.[0] as ArtifactRow | undefined;
    return row && toArtifact(row);
  },

  abandon: (upload) =>
    database.forTenant(upload.tenantId, async (trx) => {
      const own =
        'tenant_id = :tenantId and job_id = :jobId and kind = :kind and name = :name and upload_id = :uploadId';
      await trx.raw(`delete from artifacts where ${own} and stored_at is null`, bindingsOf(upload));
      await trx.raw(`update artifacts set upload_id = null, upload_expires_at = null where ${own}`, bindingsOf(upload));
    }),

  async get(tenantId, jobId, kind, name) {
    const [row] = await database.readForTenant<ArtifactRow>(tenantId, {
      text: `select * from artifacts
             where tenant_id = $1 and job_id = $2 and kind = $3 and name = $4 and stored_at is not null`,
      values: [tenantId, jobId, kind, name],
    });
    return row && toArtifact(row);
  },

  async list(tenantId, jobId, kind, { limit, after }) {
    const rows = await database.readForTenant<ArtifactRow>(tenantId, {
      text: `select * from artifacts
             where tenant_id = $1 and job_id = $2 and stored_at is not null and ($3::text is null or kind = $3)
               and ($4::text is null or (kind, name) > ($4, $5))
             order by kind, name limit $6`,
      values: [tenantId, jobId, kind ?? null, after?.[0] ?? null, after?.[1] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toArtifact, (row) => [row.kind, row.name]);
  },

  async countLiveUploads(tenantId, jobId) {
    const [row] = await database.readForTenant<{ count: number }>(tenantId, {
      text: `select count(*) as count from artifacts
             where tenant_id = $1 and job_id = $2 and upload_expires_at > clock_timestamp()`,
      values: [tenantId, jobId],
    });
    return row?.count ?? 0;
  },

  async listStored(tenantId, minAgeMs, { limit, after }) {
    const rows = await database.readForTenant<ArtifactRow>(tenantId, {
      text: `select a.* from artifacts a join jobs j on j.tenant_id = a.tenant_id and j.id = a.job_id
             where a.tenant_id = $1 and j.deletion_id is null
               and a.stored_at < now() - $2 * interval '1 ms' and a.upload_id is null
               and ($3::uuid is null or (a.job_id, a.kind, a.name) > ($3, $4, $5))
             order by a.job_id, a.kind, a.name limit $6`,
      values: [tenantId, minAgeMs, after?.[0] ?? null, after?.[1] ?? null, after?.[2] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toArtifact, (row) => [row.job_id, row.kind, row.name]);
  },
});

// An upload whose lease or whose worker's ran out, or whose job is being removed, may not write any more.
const OWN_LIVE_UPLOAD = `a.tenant_id = $1 and a.job_id = $2 and a.kind = $3 and a.name = $4
  and a.upload_id = $5 and a.upload_expires_at > clock_timestamp()
  and exists (select from jobs j where j.tenant_id = a.tenant_id and j.id = a.job_id and j.deletion_id is null
                and ($6::bigint is null or (j.lease_token = $6::bigint and j.lease_expires_at > clock_timestamp())))`;

const uploadValues = ({ tenantId, jobId, kind, name, uploadId, leaseToken }: NewUpload): unknown[] => [
  tenantId,
  jobId,
  kind,
  name,
  uploadId,
  leaseToken?.toString() ?? null,
];

const bindingsOf = ({ tenantId, jobId, kind, name, contentType, uploadId, leaseMs }: NewUpload) => ({
  tenantId,
  jobId,
  kind,
  name,
  contentType,
  uploadId,
  leaseMs,
});
