import type { Migration } from '#libs/postgres/migrate.ts';
import { createParkedWork, dropParkedWork } from '#libs/service/work-views.ts';

/** What waits for a person: what a ceiling holds. */
export const parkedWork: Migration = {
  name: '016-parked-work',
  locks: { retention_purges: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`create index retention_purges_fleet_held on retention_purges (id)
                    where fleet_held_at is not null and fleet_approved_at is null`);
    await createParkedWork(knex, appRole, {
      // Held night after night is held once, in the last purge that held it; what was purged whole since is held no more.
      ofTenants: `
        select s.tenant_id, 'HELD_SUBJECT' as kind, s.purge_id as id, 'subject' as target_type, s.subject as target_id,
               s.state, 'PURGE_CEILING' as reason, s.held_at as parked_at, 0 as attempts
        from retention_purge_subjects s
        where s.state = 'HELD' and not s.validate_only
          and not exists (select from retention_purge_subjects n
                          where n.state = 'HELD' and not n.validate_only and n.tenant_id = s.tenant_id
                            and n.subject = s.subject and (n.held_at, n.purge_id) > (s.held_at, s.purge_id))
          and not exists (select from last_purges l where l.tenant_id = s.tenant_id and l.subject = s.subject
                            and l.completed_at > s.held_at)`,
      ofInstallation: `
        select '', 'HELD_PURGE', p.id, 'purge', '', 'HELD', 'FLEET_CEILING', p.fleet_held_at, 0
        from retention_purges p
        where p.fleet_held_at is not null and p.fleet_approved_at is null
          and exists (select from retention_purge_items i where i.purge_id = p.id and i.state = 'HELD')`,
    });
  },
  async down(knex) {
    await dropParkedWork(knex);
    await knex.raw('drop index retention_purges_fleet_held');
  },
};
