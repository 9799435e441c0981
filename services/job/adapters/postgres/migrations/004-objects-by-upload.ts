import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction, secureTable } from '#libs/postgres/tenant-security.ts';

// As in objectKey: the key of an upload's object is that of an object of this name before 004.
const NAME_OF_OBJECT = "coalesce(object_id::text || '-', '') || name";

/**
 * Objects are keyed by upload, and an artifact's row points at one of them. Artifacts from before keep the key that is
 * their name (`object_id` is null). `artifact_uploads` has a row for each upload under way and each object to be removed.
 *
 * `down` loses nothing: pointers stay in `upload_id` without an expiry, where `up` finds them again, and what is to be
 * removed becomes an upload that ran out. The code of before does not find objects that are keyed by upload.
 */
export const objectsByUpload: Migration = {
  name: '004-objects-by-upload',
  locks: { artifacts: 'all', jobs: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`
      create table artifact_uploads (
        tenant_id text not null,
        job_id uuid not null,
        id uuid not null,
        kind text not null check (kind in ('INPUT', 'TASK', 'OUTPUT')),
        name text not null,
        object_id uuid,
        state text not null check (state in ('OPEN', 'ABANDONED', 'REPLACED')),
        -- When the lease of an OPEN one ends; when the next look at another is due.
        due_at timestamptz not null,
        claimed_until timestamptz,
        attempts int not null default 0,
        -- When it was removed and read back for the first time.
        removed_at timestamptz,
        created_at timestamptz not null default now(),
        primary key (tenant_id, job_id, id),
        foreign key (tenant_id, job_id) references jobs on delete cascade
      );
      create unique index artifact_uploads_open on artifact_uploads (tenant_id, job_id, kind, name) where state = 'OPEN';
      create index artifact_uploads_due on artifact_uploads (due_at);

      alter table artifacts add column object_id uuid;
      update artifacts set object_id = upload_id
      where stored_at is not null and upload_id is not null and upload_expires_at is null;
      insert into artifact_uploads (tenant_id, job_id, id, kind, name, state, due_at)
      select tenant_id, job_id, upload_id, kind, name, 'OPEN', upload_expires_at from artifacts
      where stored_at is null and upload_id is not null and upload_expires_at is not null;
      delete from artifacts where stored_at is null and upload_id is not null;
      alter table artifacts drop column upload_id, drop column upload_expires_at;
    `);
    await secureTable(knex, 'artifact_uploads', appRole);
    await createDiscoveryFunction(knex, {
      signature: 'due_artifact_uploads(max_rows int)',
      returns: 'table (tenant_id text, job_id uuid, id uuid)',
      query: `select u.tenant_id, u.job_id, u.id from artifact_uploads u
              where u.due_at <= now() and (u.claimed_until is null or u.claimed_until <= now())
                and exists (select from jobs j
                            where j.tenant_id = u.tenant_id and j.id = u.job_id and j.deletion_id is null)
              order by u.due_at limit max_rows`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function due_artifact_uploads(int)');
    await knex.raw(`
      do $$ begin
        if exists (select from artifact_uploads where state = 'REPLACED' and object_id is null) then
          raise exception 'objects that were replaced are still being removed; try again once JobService has done so';
        end if;
      end $$;
      alter table artifacts add column upload_id uuid, add column upload_expires_at timestamptz;
      update artifacts set upload_id = object_id where object_id is not null;
      insert into artifacts (tenant_id, job_id, kind, name, content_type, upload_id, upload_expires_at)
      select tenant_id, job_id, kind, ${NAME_OF_OBJECT}, 'application/octet-stream', id, due_at from artifact_uploads
      on conflict do nothing;
      alter table artifacts drop column object_id;
      drop table artifact_uploads;
    `);
  },
};
