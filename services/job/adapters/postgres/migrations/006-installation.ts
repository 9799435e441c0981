import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

/**
 * Which installation this database is, and since when the object store has the marker that names it. A deletion can be
 * told to accept that the objects which the index knows are not there.
 */
export const installation: Migration = {
  name: '006-installation',
  locks: { job_deletions: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      create table installation (
        singleton boolean primary key default true check (singleton),
        id uuid not null default gen_random_uuid(),
        marked_at timestamptz
      );
      insert into installation default values;
      alter table job_deletions add column accept_missing boolean not null default false;
    `);
    await knex.raw('grant select, update (marked_at) on installation to ??', [appRole]);
    await createDiscoveryFunction(knex, {
      signature: 'some_stored_artifacts(max_rows int)',
      returns: 'table (tenant_id text, job_id uuid, kind text, name text, object_id uuid)',
      query: `select a.tenant_id, a.job_id, a.kind, a.name, a.object_id from artifacts a
              join jobs j on j.tenant_id = a.tenant_id and j.id = a.job_id
              where a.stored_at is not null and j.deletion_id is null limit max_rows`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function some_stored_artifacts(int)');
    await knex.raw('alter table job_deletions drop column accept_missing');
    await knex.raw('drop table installation');
  },
};
