import { operationInProgress } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { pageOf } from '#libs/kernel/page.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { ObjectRef } from '../../domain/artifact.ts';
import { jobNotFound } from '../../domain/errors.ts';
import type { ArtifactIndex, NewUpload } from '../../use-cases/ports.ts';
import { lockJob, VISIBLE } from './job-repository.ts';
import { ARTIFACT_COLUMNS, type ArtifactRow, toArtifact, toJob } from './rows.ts';

/** The index of objects and open uploads in Postgres. */
export const makeArtifactIndex = (database: Database): ArtifactIndex => ({
  begin: (upload, check) =>
    database.forTenant(upload.tenantId, async (trx) => {
      const { tenantId, jobId, kind, name, uploadId, leaseMs, ifAbsent } = upload;
      const job = await lockJob(trx, tenantId, jobId, VISIBLE);
      if (!job) throw jobNotFound();
      check(toJob(job.row), job.now);
      const bindings = { tenantId, jobId, kind, name, uploadId, leaseMs, ifAbsent };
      // The job's row is the lock: of two that begin at once, the second sees the upload of the first.
      const { rowCount } = await trx.raw(
        `with expired as (
           update artifact_uploads set state = 'ABANDONED', due_at = clock_timestamp()
           where ${OPEN} and due_at <= clock_timestamp() returning 1)
         insert into artifact_uploads (tenant_id, job_id, id, kind, name, object_id, state, due_at)
         select :tenantId, :jobId, :uploadId, :kind, :name, :uploadId, 'OPEN',
                clock_timestamp() + :leaseMs * interval '1 ms'
         from (select count(*) from expired) as done
         where not exists (select from artifact_uploads where ${OPEN} and due_at > clock_timestamp())
           and not (:ifAbsent and exists (
             select from artifacts
             where tenant_id = :tenantId and job_id = :jobId and kind = :kind and name = :name
               and stored_at is not null))`,
        bindings,
      );
      if (rowCount === 1) return;
      const other = firstOf<{ id: string }>(await trx.raw(`select id from artifact_uploads where ${OPEN}`, bindings));
      throw operationInProgress(other?.id ?? '');
    }),

  async renew(upload) {
    const [rows] = await database.writeForTenant(upload.tenantId, [
      {
        name: 'renew-upload',
        text: `update artifact_uploads u set due_at = clock_timestamp() + $5 * interval '1 ms'
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
        // One statement, so that a reader sees the old pointer or the new one, and what is replaced is in mind from
        // the same moment on.
        text: `with mine as (delete from artifact_uploads u where ${OWN_LIVE_UPLOAD}
                                returning u.tenant_id, u.job_id, u.kind, u.name, u.object_id, u.created_at),
                    before as (
                      select a.tenant_id, a.job_id, a.kind, a.name, a.object_id from artifacts a join mine m
                        on a.tenant_id = m.tenant_id and a.job_id = m.job_id and a.kind = m.kind and a.name = m.name
                      where a.stored_at is not null for update of a),
                    replaced as (
                      insert into artifact_uploads (tenant_id, job_id, id, kind, name, object_id, state, due_at)
                      select tenant_id, job_id, $5, kind, name, object_id, 'REPLACED', clock_timestamp() from before
                      returning 1)
               insert into artifacts
                 (tenant_id, job_id, kind, name, content_type, bytes, sha256, object_id, stored_at, created_at)
               select m.tenant_id, m.job_id, m.kind, m.name, $6, $7, $8, m.object_id, clock_timestamp(), m.created_at
               from mine m, (select count(*) from replaced) as done
               on conflict (tenant_id, job_id, kind, name) do update
                 set content_type = excluded.content_type, bytes = excluded.bytes, sha256 = excluded.sha256,
                     object_id = excluded.object_id, stored_at = excluded.stored_at
               returning ${ARTIFACT_COLUMNS()}`,
        values: [...uploadValues(upload), newId(), upload.contentType, bytes, sha256],
      },
    ]);
    const row = rows?.[0] as ArtifactRow | undefined;
    return row && toArtifact(row);
  },

  async abandon(upload) {
    const { tenantId, jobId, uploadId, kind, name } = upload;
    const [, rows] = await database.writeForTenant(tenantId, [
      {
        name: 'abandon-upload',
        // It waits for a `finish` that is under way, whose outcome the next statement sees.
        text: `update artifact_uploads set state = 'ABANDONED', due_at = clock_timestamp()
               where tenant_id = $1 and job_id = $2 and id = $3 and state = 'OPEN' returning 1`,
        values: [tenantId, jobId, uploadId],
      },
      {
        name: 'read-finished-upload',
        text: `select ${ARTIFACT_COLUMNS()} from artifacts
               where tenant_id = $1 and job_id = $2 and kind = $3 and name = $4 and object_id = $5`,
        values: [tenantId, jobId, kind, name, uploadId],
      },
    ]);
    const row = rows?.[0] as ArtifactRow | undefined;
    return row && toArtifact(row);
  },

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

  async countObjects(tenantId, jobId) {
    const [row] = await database.readForTenant<{ live: number; stored: number }>(tenantId, {
      name: 'count-objects',
      text: `select (select count(*) from artifact_uploads
                     where tenant_id = $1 and job_id = $2
                       and ((state = 'OPEN' and due_at > clock_timestamp()) or claimed_until > clock_timestamp())) as live,
                    (select count(*) from artifacts
                     where tenant_id = $1 and job_id = $2 and stored_at is not null) as stored`,
      values: [tenantId, jobId],
    });
    return { liveUploads: row?.live ?? 0, stored: row?.stored ?? 0 };
  },

  async findKnown(tenantId, objects) {
    const rows = await database.readForTenant<ArtifactRow>(tenantId, {
      text: `with asked as (
               select distinct * from unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[])
                 as asked (job_id, kind, name, object_id))
             select a.job_id, a.kind, a.name, a.object_id from asked join artifacts a
               on a.tenant_id = $1 and a.job_id = asked.job_id and a.kind = asked.kind and a.name = asked.name
               and a.object_id is not distinct from asked.object_id
             union
             select u.job_id, u.kind, u.name, u.object_id from asked join artifact_uploads u
               on u.tenant_id = $1 and u.job_id = asked.job_id and u.kind = asked.kind and u.name = asked.name
               and u.object_id is not distinct from asked.object_id`,
      values: [tenantId, ...columnsOf(objects)],
    });
    return rows.map(toObjectRef);
  },

  async findStored(tenantId, objects) {
    const rows = await database.readForTenant<ArtifactRow>(tenantId, {
      text: `select a.job_id, a.kind, a.name, a.object_id
             from unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[]) as asked (job_id, kind, name, object_id)
             join artifacts a
               on a.tenant_id = $1 and a.job_id = asked.job_id and a.kind = asked.kind and a.name = asked.name
               and a.object_id is not distinct from asked.object_id and a.stored_at is not null
             join jobs j on j.tenant_id = a.tenant_id and j.id = a.job_id and j.deletion_id is null`,
      values: [tenantId, ...columnsOf(objects)],
    });
    return rows.map(toObjectRef);
  },

  async listStored(tenantId, minAgeMs, { limit, after }) {
    const rows = await database.readForTenant<ArtifactRow>(tenantId, {
      text: `select a.* from artifacts a join jobs j on j.tenant_id = a.tenant_id and j.id = a.job_id
             where a.tenant_id = $1 and j.deletion_id is null
               and a.stored_at < now() - $2 * interval '1 ms'
               and ($3::uuid is null or (a.job_id, a.kind, a.name) > ($3, $4, $5))
             order by a.job_id, a.kind, a.name limit $6`,
      values: [tenantId, minAgeMs, after?.[0] ?? null, after?.[1] ?? null, after?.[2] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toArtifact, (row) => [row.job_id, row.kind, row.name]);
  },
});

const columnsOf = (objects: readonly ObjectRef[]): unknown[] => [
  objects.map(({ jobId }) => jobId),
  objects.map(({ kind }) => kind),
  objects.map(({ name }) => name),
  objects.map(({ objectId }) => objectId ?? null),
];

const toObjectRef = (row: ArtifactRow): ObjectRef => ({
  jobId: row.job_id,
  kind: row.kind,
  name: row.name,
  objectId: row.object_id ?? undefined,
});

const OPEN = "tenant_id = :tenantId and job_id = :jobId and kind = :kind and name = :name and state = 'OPEN'";

// An upload whose lease or whose worker's ran out, or whose job is being removed, may not write any more.
const OWN_LIVE_UPLOAD = `u.tenant_id = $1 and u.job_id = $2 and u.id = $3
  and u.state = 'OPEN' and u.due_at > clock_timestamp()
  and exists (select from jobs j where j.tenant_id = u.tenant_id and j.id = u.job_id and j.deletion_id is null
                and ($4::bigint is null or (j.lease_token = $4::bigint and j.lease_expires_at > clock_timestamp())))`;

const uploadValues = ({ tenantId, jobId, uploadId, leaseToken }: NewUpload): unknown[] => [
  tenantId,
  jobId,
  uploadId,
  leaseToken?.toString() ?? null,
];
