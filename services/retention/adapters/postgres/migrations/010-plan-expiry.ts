import type { Migration } from '#libs/postgres/migrate.ts';
import { createOperation } from '#libs/postgres/tenant-security.ts';

const knownAt = (entry: string): string => `greatest(${entry}.effective_at, ${entry}.created_at)`;

/** What nothing follows from any more expires: entries of tenants' plans, and what requests were answered with. */
export const planExpiry: Migration = {
  name: '010-plan-expiry',
  locks: { plan_requests: 'writes', retention_requests: 'writes', tenant_plans: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`
      create index retention_requests_age on retention_requests (created_at);
      create index plan_requests_age on plan_requests (created_at);
      create index tenant_plans_age on tenant_plans (created_at);
    `);
    await createOperation(
      knex,
      appRole,
      'forget_plan_history(before timestamptz, max_rows int)',
      `begin
         delete from retention_requests r where (r.tenant_id, r.method, r.request_id) in (
           select o.tenant_id, o.method, o.request_id from retention_requests o
           where o.created_at < before order by o.created_at limit max_rows);
         delete from plan_requests r where r.request_id in (
           select o.request_id from plan_requests o where o.created_at < before order by o.created_at limit max_rows);
         -- An entry can go when a later one was in force by then whose plan says something of every subject any plan
         -- knows: from there on no window comes from the older one, in grace or inherited. Plans that ever said
         -- NOT_APPLICABLE do not count.
         delete from tenant_plans p where (p.tenant_id, p.version) in (
           with stating as materialized (
             select w.plan, max(w.first_at) as since from (
               select v.plan, v.subject, min(v.recorded_at) as first_at from plan_windows v
               group by v.plan, v.subject having bool_and(v.kind <> 'NOT_APPLICABLE')) w
             group by w.plan having count(*) = (select count(distinct a.subject) from plan_windows a))
           select e.tenant_id, e.version from tenant_plans e
           where e.created_at < before and exists (
             select from tenant_plans l join stating s on s.plan = l.plan and s.since <= ${knownAt('l')}
             where l.tenant_id = e.tenant_id and l.version > e.version and ${knownAt('l')} <= before
               and not exists (
                 select from tenant_plans m
                 where m.tenant_id = l.tenant_id and m.version > l.version and ${knownAt('m')} <= ${knownAt('l')}))
           limit max_rows);
       end`,
    );
  },
  async down(knex) {
    await knex.raw('drop function if exists forget_plan_history(timestamptz, int)');
    await knex.raw(`
      drop index if exists tenant_plans_age;
      drop index if exists plan_requests_age;
      drop index if exists retention_requests_age;
    `);
  },
};
