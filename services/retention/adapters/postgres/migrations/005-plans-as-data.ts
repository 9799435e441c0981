import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

// The windows that a new database starts with, in days, as the table of the seed "Drift Retention + Deletion" has them;
// null is its "N/A". They were in force before any tenant had a plan.
const SEEDED = `
  ('FREE', 'drift_checks', 7), ('FREE', 'incident_payloads', null), ('FREE', 'approvals', null),
  ('PRO', 'drift_checks', 30), ('PRO', 'incident_payloads', 180), ('PRO', 'approvals', 180),
  ('AGENCY', 'drift_checks', 90), ('AGENCY', 'incident_payloads', 365), ('AGENCY', 'approvals', 365),
  ('ENTERPRISE', 'drift_checks', 180), ('ENTERPRISE', 'incident_payloads', 2555), ('ENTERPRISE', 'approvals', 2555)`;

// An entry counts from when it is both recorded and effective; of those the highest version is in force.
const IN_FORCE = `select distinct on (p.tenant_id) p.tenant_id, p.version, p.plan from tenant_plans p
                  where p.effective_at <= clock_timestamp() and p.created_at <= clock_timestamp()`;

/** Plans and their windows are rows. A tenant can have no plan, and its newest effective entry is in force. */
export const plansAsData: Migration = {
  name: '005-plans-as-data',
  locks: { tenant_plans: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      -- Plans belong to no tenant.
      create table plans (
        name text primary key check (name ~ '^[A-Z][A-Z0-9_]{0,62}$'),
        -- Grows by one with each change of the plan's windows; whoever changes them holds the row.
        version bigint not null default 0
      );

      -- Only ever added to: this is the history of the windows, and says who changed them and why.
      create table plan_windows (
        plan text not null references plans,
        subject text not null check (subject ~ '^[a-z][a-z0-9_]{0,62}$'),
        version bigint not null check (version > 0),
        kind text not null check (kind in ('DAYS', 'KEEP_ALL', 'NOT_APPLICABLE')),
        days int check (days between 1 and 36500),
        min_to_keep bigint not null default 0 check (min_to_keep between 0 and 1000000000),
        -- The version of the plan that it came with.
        plan_version bigint not null,
        recorded_at timestamptz not null default clock_timestamp(),
        actor text not null,
        reason text,
        primary key (plan, subject, version),
        check ((kind = 'DAYS') = (days is not null))
      );
      create index plan_windows_newest on plan_windows (plan, recorded_at desc, subject desc, version desc);

      create table plan_requests (
        request_id uuid primary key,
        fingerprint text not null,
        plan text not null,
        plan_version bigint not null,
        created_at timestamptz not null default clock_timestamp()
      );

      insert into plans (name, version) values ('FREE', 1), ('PRO', 1), ('AGENCY', 1), ('ENTERPRISE', 1);
      insert into plan_windows (plan, subject, version, kind, days, plan_version, recorded_at, actor, reason)
        select s.plan, s.subject, 1, case when s.days is null then 'NOT_APPLICABLE' else 'DAYS' end, s.days, 1,
               'epoch', 'system:seed', 'the defaults of a new installation'
        from (values ${SEEDED}) s(plan, subject, days);

      alter table tenant_plans drop constraint tenant_plans_plan_check;
      alter table tenant_plans alter column plan drop not null;
      drop index tenant_plans_effective;
    `);
    await knex.raw('grant select, insert, update on plans to ??', [appRole]);
    await knex.raw('grant select, insert on plan_windows to ??', [appRole]);
    await knex.raw('grant select, insert on plan_requests to ??', [appRole]);
    await knex.raw('drop function plans_in_force(text, text, int)');
    await createDiscoveryFunction(knex, {
      signature: 'plans_in_force(after_tenant text, wanted_plan text, max_rows int)',
      returns: 'table (tenant_id text, version bigint)',
      query: `select f.tenant_id, f.version from
                (${IN_FORCE} and p.tenant_id > coalesce(after_tenant, '')
                 order by p.tenant_id, p.version desc) f
              where f.plan is not null and (wanted_plan is null or f.plan = wanted_plan)
              order by f.tenant_id limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'plan_tenant_counts()',
      returns: 'table (plan text, tenants bigint)',
      query: `select f.plan, count(*) from (${IN_FORCE} order by p.tenant_id, p.version desc) f
              where f.plan is not null group by f.plan`,
      appRole,
    });
  },
  async down(knex, appRole) {
    await knex.raw('drop function plan_tenant_counts()');
    await knex.raw('drop function plans_in_force(text, text, int)');
    await knex.raw(`
      -- What the old form cannot tell must not become a narrower window. A tenant that has or had no plan, or one that
      -- is not among the four, is one without a plan: everything of it is kept.
      delete from tenant_plans p where exists (
        select from tenant_plans o where o.tenant_id = p.tenant_id
          and (o.plan is null or o.plan not in ('FREE', 'PRO', 'AGENCY', 'ENTERPRISE')));
      -- There the newest by effective_at was in force. What was replaced before it took effect never did.
      update tenant_plans set effective_at = greatest(effective_at, created_at);
      delete from tenant_plans p where exists (
        select from tenant_plans o
        where o.tenant_id = p.tenant_id and o.version > p.version and o.effective_at < p.effective_at);
      alter table tenant_plans alter column plan set not null;
      alter table tenant_plans add constraint tenant_plans_plan_check
        check (plan in ('FREE', 'PRO', 'AGENCY', 'ENTERPRISE'));
      create index tenant_plans_effective on tenant_plans (tenant_id, effective_at desc, version desc);
      drop table plan_requests;
      drop table plan_windows;
      drop table plans;
    `);
    await createDiscoveryFunction(knex, {
      signature: 'plans_in_force(after_tenant text, wanted_plan text, max_rows int)',
      returns: 'table (tenant_id text, version bigint)',
      query: `select f.tenant_id, f.version from
                (select distinct on (p.tenant_id) p.tenant_id, p.version, p.plan from tenant_plans p
                 where p.effective_at <= clock_timestamp() and (after_tenant is null or p.tenant_id > after_tenant)
                 order by p.tenant_id, p.effective_at desc, p.version desc) f
              where wanted_plan is null or f.plan = wanted_plan order by f.tenant_id limit max_rows`,
      appRole,
    });
  },
};
