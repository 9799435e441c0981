import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction, createOperation } from '#libs/postgres/tenant-security.ts';
import { createQueueSchema } from './queue-schema.ts';

const OWN_ITEM = `select from retention_purge_items i where i.tenant_id = t.id and i.purge_id = purge`;
const jobOfItem = (at: string): string =>
  `('purge-tenant', json_build_object('tenantId', i.tenant_id, 'purgeId', i.purge_id), null, ${at}, null,
    'purge:' || i.purge_id || ':' || i.tenant_id, null, null)::graphile_worker.job_spec`;

/** Writes down a tenant's part of a purge for each tenant, and queues it. */
export const ADD_PURGE_ITEMS = {
  signature: 'add_purge_items(purge uuid, tenants text[], dry_run boolean, by_actor text)',
  body: `begin
     loop
       insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, overdue_since)
         select t.id, purge, 'PENDING', dry_run, by_actor,
                (select max(i.finished_at) from retention_purge_items i
                 where i.tenant_id = t.id and i.state = 'COMPLETE' and not i.validate_only)
         from unnest(tenants) t(id) where not exists (${OWN_ITEM})
         -- In one order, so that two purges that begin at once wait for each other and do not lock up.
         order by t.id
         on conflict (tenant_id) where state in ('PENDING', 'RUNNING') and not validate_only do nothing;
       insert into retention_purge_items
           (tenant_id, purge_id, state, validate_only, actor, running_purge_id, finished_at)
         select t.id, purge, 'SKIPPED', dry_run, by_actor, r.purge_id, clock_timestamp()
         from unnest(tenants) t(id)
         join retention_purge_items r
           on r.tenant_id = t.id and r.state in ('PENDING', 'RUNNING') and not r.validate_only
         where not exists (${OWN_ITEM}) and not dry_run;
       -- A purge that ended between the two statements left its tenants for another round.
       exit when not exists (select from unnest(tenants) t(id) where not exists (${OWN_ITEM}));
     end loop;
     perform graphile_worker.add_jobs(coalesce((
       select array_agg(${jobOfItem("coalesce(i.overdue_since, 'epoch')")})
       from retention_purge_items i where i.purge_id = purge and i.state = 'PENDING'), '{}'));
   end`,
};

/** Queues what is to be worked on and has no job. */
export const REQUEUE_PURGE_ITEMS = {
  signature: 'requeue_purge_items()',
  body: `begin
     -- What a worker left behind that died with it: its item has another job since.
     delete from graphile_worker._private_jobs j using graphile_worker._private_tasks t
       where t.id = j.task_id and t.identifier = 'purge-tenant' and j.key is null and j.attempts >= j.max_attempts
         and (j.locked_at is null or j.locked_at < clock_timestamp() - interval '1 hour');
     perform graphile_worker.add_jobs(coalesce((
       select array_agg(${jobOfItem('greatest(i.next_attempt_at, i.lease_expires_at)')})
       from retention_purge_items i
       where i.state in ('PENDING', 'RUNNING') and not exists (
         select from graphile_worker._private_jobs j
         where j.key = 'purge:' || i.purge_id || ':' || i.tenant_id and j.attempts < j.max_attempts
           -- Fetched and never claimed: the worker died in between.
           and (j.locked_at is null or j.locked_at > clock_timestamp() - interval '1 minute'))), '{}'));
   end`,
};

/**
 * The retention purge is carried by a queue, goes over tenants most overdue first, keeps what it was told to do and
 * why it was held, and knows request ids by whose they are.
 */
export const purgeQueue: Migration = {
  name: '003-purge-queue',
  locks: { retention_purge_items: 'all', retention_purges: 'all' },
  async up(knex, appRole) {
    await createQueueSchema(knex, appRole);
    await knex.raw(`
      alter table retention_purges drop constraint retention_purges_request_id_key;
      alter table retention_purges add column request_scope text not null default '';
      alter table retention_purges drop constraint retention_purges_trigger_check;
      alter table retention_purges add constraint retention_purges_trigger_check
        check (trigger in ('PURGE', 'PURGE_NOW', 'SCHEDULE'));
      update retention_purges p set request_scope = i.tenant_id
        from retention_purge_items i where i.purge_id = p.id and p.trigger = 'PURGE_NOW';
      alter table retention_purges add constraint retention_purges_request unique (request_scope, trigger, request_id);

      alter table retention_purge_items
        add column windows jsonb not null default '[]',
        add column operations jsonb not null default '[]',
        add column subject text,
        add column hold jsonb,
        add column failures int not null default 0,
        -- When the tenant was last purged whole. Null: never, which is the most overdue.
        add column overdue_since timestamptz;
      update retention_purge_items i set operations = jsonb_build_array(jsonb_build_object(
          'subject', 'DRIFT_CHECKS', 'operationId', i.purge_id, 'retentionDays', 0, 'counts', i.counts, 'isDone', true,
          'cutoff', i.cutoffs->0->>'cutoff'))
        where i.finished_at is not null and i.counts <> '[]';
      drop index retention_purge_items_due;
      create index retention_purge_items_unfinished on retention_purge_items (tenant_id, purge_id)
        where state in ('PENDING', 'RUNNING');
      create index retention_purge_items_last on retention_purge_items (tenant_id, finished_at desc)
        where state = 'COMPLETE' and not validate_only;
    `);
    await knex.raw('drop function due_purge_items(int)');
    await createOperation(knex, appRole, ADD_PURGE_ITEMS.signature, ADD_PURGE_ITEMS.body);
    await createOperation(knex, appRole, REQUEUE_PURGE_ITEMS.signature, REQUEUE_PURGE_ITEMS.body);
    await createDiscoveryFunction(knex, {
      signature: 'purge_has_tenant(purge uuid, tenant text)',
      returns: 'boolean',
      query: 'select exists (select from retention_purge_items i where i.tenant_id = tenant and i.purge_id = purge)',
      appRole,
    });
    await knex.raw('drop function purge_sums(uuid)');
    await createDiscoveryFunction(knex, {
      signature: 'purge_sums(purge uuid)',
      returns: 'table (state text, states jsonb, counts jsonb, started_at timestamptz, finished_at timestamptz)',
      query: `
        with items as (
          -- A tenant that was left to another purge stands as that one's item does.
          select i.state as own_state, i.counts, i.started_at,
                 case i.state when 'SKIPPED' then coalesce(o.state, 'FAILED') else i.state end as state,
                 case i.state when 'SKIPPED' then o.finished_at else i.finished_at end as finished_at
          from retention_purge_items i
          left join retention_purge_items o on o.tenant_id = i.tenant_id and o.purge_id = i.running_purge_id
          where i.purge_id = purge)
        select
          case when bool_or(i.state in ('PENDING', 'RUNNING'))
                 then case when bool_or(i.own_state not in ('PENDING', 'SKIPPED')) then 'RUNNING' else 'PENDING' end
               when bool_or(i.state <> 'COMPLETE') then 'PARTIAL' else 'COMPLETE' end,
          (select coalesce(jsonb_object_agg(s.own_state, s.count), '{}') from
             (select g.own_state, count(*) as count from items g group by g.own_state) s),
          (select coalesce(jsonb_agg(jsonb_build_object('resourceType', c.type, 'found', c.found, 'deleted', c.deleted,
                                                        'left', c.remaining)), '[]') from
             (select e->>'resourceType' as type, sum((e->>'found')::bigint) as found,
                     sum((e->>'deleted')::bigint) as deleted, sum((e->>'left')::bigint) as remaining
              from items g, jsonb_array_elements(g.counts) e group by 1 order by 1) c),
          min(i.started_at),
          case when count(*) = 0 then (select p.created_at from retention_purges p where p.id = purge)
               when bool_and(i.finished_at is not null) then max(i.finished_at) end
        from items i`,
      appRole,
    });
  },
  async down(knex, appRole) {
    await knex.raw('drop function purge_has_tenant(uuid, text)');
    await knex.raw('drop function add_purge_items(uuid, text[], boolean, text)');
    await knex.raw('drop function requeue_purge_items()');
    await knex.raw('drop function purge_sums(uuid)');
    await knex.raw('drop schema if exists graphile_worker cascade');
    await knex.raw(`
      drop index retention_purge_items_unfinished;
      drop index retention_purge_items_last;
      create index retention_purge_items_due on retention_purge_items (next_attempt_at)
        where state in ('PENDING', 'RUNNING');
      alter table retention_purge_items drop column windows, drop column operations, drop column subject,
        drop column hold, drop column failures, drop column overdue_since;
      alter table retention_purges drop constraint retention_purges_request;
      -- One request id may have been used by several; the oldest keeps it.
      update retention_purges p set request_id = null where exists (
        select from retention_purges o where o.request_id = p.request_id and (o.created_at, o.id) < (p.created_at, p.id));
      alter table retention_purges add constraint retention_purges_request_id_key unique (request_id);
      update retention_purges set trigger = 'PURGE' where trigger = 'SCHEDULE';
      alter table retention_purges drop constraint retention_purges_trigger_check;
      alter table retention_purges add constraint retention_purges_trigger_check check (trigger in ('PURGE', 'PURGE_NOW'));
      alter table retention_purges drop column request_scope;
    `);
    await createDiscoveryFunction(knex, {
      signature: 'due_purge_items(max_rows int)',
      returns: 'table (tenant_id text, purge_id uuid)',
      query: `select i.tenant_id, i.purge_id from retention_purge_items i
              where i.state in ('PENDING', 'RUNNING') and i.next_attempt_at <= now()
                and (i.lease_expires_at is null or i.lease_expires_at <= now())
              order by i.next_attempt_at limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'purge_sums(purge uuid)',
      returns: 'table (states jsonb, counts jsonb, started_at timestamptz, finished_at timestamptz)',
      query: `select
          (select coalesce(jsonb_object_agg(s.state, s.count), '{}') from
             (select i.state, count(*) as count from retention_purge_items i where i.purge_id = purge group by i.state) s),
          (select coalesce(jsonb_agg(jsonb_build_object('resourceType', c.type, 'found', c.found, 'deleted', c.deleted,
                                                        'left', c.remaining)), '[]') from
             (select e->>'resourceType' as type, sum((e->>'found')::bigint) as found,
                     sum((e->>'deleted')::bigint) as deleted, sum((e->>'left')::bigint) as remaining
              from retention_purge_items i, jsonb_array_elements(i.counts) e where i.purge_id = purge
              group by 1 order by 1) c),
          (select min(i.started_at) from retention_purge_items i where i.purge_id = purge),
          (select case when bool_and(i.finished_at is not null) then max(i.finished_at) end
             from retention_purge_items i where i.purge_id = purge)`,
      appRole,
    });
  },
};
