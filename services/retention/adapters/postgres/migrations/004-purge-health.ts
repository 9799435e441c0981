import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

/** Figures for alerts over all tenants, which name nobody. */
export const purgeHealth: Migration = {
  name: '004-purge-health',
  locks: { retention_purge_items: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`create index retention_purge_items_held on retention_purge_items (tenant_id, purge_id)
                      where state = 'HELD' and not validate_only`);
    await createDiscoveryFunction(knex, {
      signature: 'last_purge_seconds()',
      returns: 'double precision',
      // A purge counts when it went over every tenant that had a plan when it began, and has ended with each of them,
      // however that was. Before the first one it is the schema's age that counts, or else nothing would be missed.
      query: `select extract(epoch from coalesce(
          (select coalesce(
                    (select max(coalesce(i.finished_at, i.updated_at)) from retention_purge_items i where i.purge_id = p.id),
                    p.created_at)
           from retention_purges p
           where not p.validate_only and p.trigger <> 'PURGE_NOW'
             and not exists (select from retention_purge_items i
                             where i.purge_id = p.id and i.state in ('PENDING', 'RUNNING'))
             and not exists (select from tenant_plans t
                             where t.created_at < p.created_at
                               and not exists (select from retention_purge_items i
                                               where i.purge_id = p.id and i.tenant_id = t.tenant_id))
           order by p.created_at desc limit 1),
          (select min(m.migration_time) from lethe_migrations m)))::double precision`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'held_purges()',
      returns: 'bigint',
      // Held night after night is held once; what was purged whole since is held no more.
      query: `select count(distinct h.tenant_id) from retention_purge_items h
              where h.state = 'HELD' and not h.validate_only
                and not exists (select from retention_purge_items i
                                where i.tenant_id = h.tenant_id and i.state = 'COMPLETE' and not i.validate_only
                                  and i.finished_at > h.updated_at)`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function held_purges()');
    await knex.raw('drop function last_purge_seconds()');
    await knex.raw('drop index retention_purge_items_held');
  },
};
