import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction, createOperation, secureTable } from '#libs/postgres/tenant-security.ts';

const jobOfItem = (at: string): string =>
  `('purge-tenant', json_build_object('tenantId', i.tenant_id, 'purgeId', i.purge_id), null, ${at}, null,
    'purge:' || i.purge_id || ':' || i.tenant_id, null, null)::graphile_worker.job_spec`;

const RUNNING_ELSEWHERE = `select from retention_purge_items r where r.tenant_id = i.tenant_id
  and r.state in ('PENDING', 'RUNNING') and not r.validate_only`;

/** Sets the items of a purge that was held as a whole going, and queues them. */
export const RELEASE_PURGE_ITEMS = {
  signature: 'release_purge_items(purge uuid)',
  body: `begin
     loop
       begin
         update retention_purge_items i
           set state = 'SKIPPED', finished_at = clock_timestamp(), updated_at = clock_timestamp(),
               running_purge_id = (select r.purge_id from retention_purge_items r
                                   where r.tenant_id = i.tenant_id and r.state in ('PENDING', 'RUNNING')
                                     and not r.validate_only)
           where i.purge_id = purge and i.state = 'HELD' and exists (${RUNNING_ELSEWHERE});
         update retention_purge_items i
           set state = 'PENDING', next_attempt_at = clock_timestamp(), updated_at = clock_timestamp()
           where i.purge_id = purge and i.state = 'HELD';
         exit;
       exception when unique_violation then
         -- Another purge of one of the tenants began in between.
         null;
       end;
     end loop;
     perform graphile_worker.add_jobs(coalesce((
       select array_agg(${jobOfItem("'epoch'")})
       from retention_purge_items i where i.purge_id = purge and i.state = 'PENDING'), '{}'));
   end`,
};

/** Each subject of a tenant in a purge is a row; a whole purge can be held; what was last purged is remembered. */
export const purgeSubjects: Migration = {
  name: '008-purge-subjects',
  locks: { retention_purge_items: 'all', retention_purges: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      alter table retention_purges
        add column subjects text[] not null default '{}',
        add column all_tenants boolean not null default false,
        add column fleet_narrowed int,
        add column fleet_held_at timestamptz,
        add column fleet_approved_at timestamptz,
        add column fleet_approved_by text,
        add column fleet_approve_reason text;

      create table retention_purge_subjects (
        tenant_id text not null,
        purge_id uuid not null,
        subject text not null,
        owner text,
        state text not null check (state in
          ('PENDING', 'COUNTING', 'RUNNING', 'COMPLETE', 'PARTIAL', 'HELD', 'OBSERVED', 'KEPT')),
        validate_only boolean not null,
        -- The window that was used.
        kind text not null check (kind in ('DAYS', 'KEEP_ALL')),
        days int,
        source text not null,
        plan text,
        plan_version bigint,
        window_version bigint,
        change_at timestamptz,
        next_kind text,
        next_days int,
        min_to_keep bigint,
        stale_after_days int,
        -- The days of the tenant's last COMPLETE purge of the subject when this one was decided.
        last_days int,
        -- The walk over the owner's rows that is under way, and those that have ended.
        walk jsonb,
        cursor text,
        tallies jsonb not null default '{}',
        cutoff timestamptz,
        expired bigint,
        seen bigint,
        held_at timestamptz,
        hold_expired bigint,
        hold_total bigint,
        hold_max_share double precision,
        hold_max_count bigint,
        approved_at timestamptz,
        approved_by text,
        approve_reason text,
        approved_rows bigint,
        approved_cutoff timestamptz,
        approved_days int,
        operation_id uuid,
        -- The rule that the operation was begun with.
        operation jsonb,
        is_ended boolean not null default false,
        -- Of all operations, and of those before the last one.
        counts jsonb not null default '[]',
        ended_counts jsonb not null default '[]',
        waits jsonb not null default '[]',
        ended_waits jsonb not null default '[]',
        error text,
        updated_at timestamptz not null default clock_timestamp(),
        primary key (tenant_id, purge_id, subject),
        foreign key (tenant_id, purge_id) references retention_purge_items on delete cascade
      );
      create index retention_purge_subjects_purge on retention_purge_subjects (purge_id, tenant_id);
      create index retention_purge_subjects_held on retention_purge_subjects (tenant_id, subject)
        where state = 'HELD' and not validate_only;

      -- What a tenant's last COMPLETE purge of a subject was, whatever becomes of that purge's own rows.
      create table last_purges (
        tenant_id text not null,
        subject text not null,
        days int,
        purge_id uuid,
        completed_at timestamptz,
        -- Since when expired rows may wait; null: none were left.
        overdue_since timestamptz,
        primary key (tenant_id, subject)
      );
      create index last_purges_overdue on last_purges (subject, overdue_since) where overdue_since is not null;

      alter table retention_purge_items
        add column waiting_since timestamptz,
        add column working_on text;
    `);
    await secureTable(knex, 'retention_purge_subjects', appRole);
    await secureTable(knex, 'last_purges', appRole);
    await knex.raw('grant update, delete on retention_purges to ??', [appRole]);
    await knex.raw(SUBJECTS_OF_ITEMS);
    await knex.raw(`
      insert into last_purges (tenant_id, subject, days, purge_id, completed_at)
        select distinct on (s.tenant_id, s.subject) s.tenant_id, s.subject, s.days, s.purge_id, i.finished_at
        from retention_purge_subjects s join retention_purge_items i using (tenant_id, purge_id)
        where s.state = 'COMPLETE' and not s.validate_only
        order by s.tenant_id, s.subject, i.finished_at desc;
      update retention_purge_items set working_on = lower(subject) where subject is not null;
    `);
    for (const signature of ['purge_sums(uuid)', 'held_purges()', 'last_purge_seconds()']) {
      await knex.raw(`drop function ${signature}`);
    }
    await knex.raw(`
      drop index retention_purge_items_held;
      alter table retention_purge_items drop column windows, drop column operations, drop column cutoffs,
        drop column counts, drop column hold, drop column subject;
    `);
    // A purge that is held as a whole keeps the windows it was ordered with in its subjects.
    await createOperation(
      knex,
      appRole,
      'hold_purge_items(purge uuid, tenants text[], by_actor text, windows jsonb)',
      `begin
         insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor)
           select t.id, purge, 'HELD', false, by_actor from unnest(tenants) t(id);
         insert into retention_purge_subjects
             (tenant_id, purge_id, subject, state, validate_only, kind, days, source, min_to_keep)
           select w.tenant_id, purge, w.subject, 'PENDING', false, w.kind, w.days, w.source, w.min_to_keep
           from jsonb_to_recordset(windows)
             as w(tenant_id text, subject text, kind text, days int, source text, min_to_keep bigint);
       end`,
    );
    await createOperation(knex, appRole, RELEASE_PURGE_ITEMS.signature, RELEASE_PURGE_ITEMS.body);
    await createDiscoveryFunction(knex, {
      signature: 'purge_sums(purge uuid)',
      returns: `table (own_states jsonb, states jsonb, counts jsonb, started_at timestamptz, finished_at timestamptz)`,
      // A tenant that was left to another purge stands as that one's item does: \`states\`.
      query: `
        with items as (
          select i.state as own_state, i.started_at,
                 case i.state when 'SKIPPED' then coalesce(o.state, 'FAILED') else i.state end as state,
                 case i.state when 'SKIPPED' then o.finished_at else i.finished_at end as finished_at
          from retention_purge_items i
          left join retention_purge_items o on o.tenant_id = i.tenant_id and o.purge_id = i.running_purge_id
          where i.purge_id = purge)
        select
          (select coalesce(jsonb_object_agg(s.own_state, s.count), '{}') from
             (select g.own_state, count(*) as count from items g group by g.own_state) s),
          (select coalesce(jsonb_object_agg(s.state, s.count), '{}') from
             (select g.state, count(*) as count from items g group by g.state) s),
          (select coalesce(jsonb_agg(jsonb_build_object('resourceType', c.type, 'found', c.found, 'deleted', c.deleted,
                                                        'left', c.remaining)), '[]') from
             (select e->>'resourceType' as type, sum((e->>'found')::bigint) as found,
                     sum((e->>'deleted')::bigint) as deleted, sum((e->>'left')::bigint) as remaining
              from retention_purge_subjects p, jsonb_array_elements(p.counts) e where p.purge_id = purge
              group by 1 order by 1) c),
          min(i.started_at),
          case when count(*) = 0 then (select p.created_at from retention_purges p where p.id = purge)
               when bool_and(i.finished_at is not null) then max(i.finished_at) end
        from items i`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'last_purge_seconds()',
      returns: 'double precision',
      // A purge counts when it was of every subject, went over every tenant that had a plan when it began, and has ended
      // with each of them, however that was; one that is held as a whole has not begun. Before the first one it is the
      // schema's age that counts, or else nothing would be missed.
      query: `select extract(epoch from coalesce(
          (select coalesce(
                    (select max(coalesce(i.finished_at, i.updated_at)) from retention_purge_items i where i.purge_id = p.id),
                    p.created_at)
           from retention_purges p
           where not p.validate_only and p.trigger <> 'PURGE_NOW' and p.subjects = '{}'
             and (p.fleet_held_at is null or p.fleet_approved_at is not null)
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
      // Held night after night is held once; what was purged whole since is held no more. A tenant whose whole purge is
      // held has no subject that is.
      query: `select count(distinct h.tenant_id) from (
                select s.tenant_id, s.subject, s.held_at from retention_purge_subjects s
                where s.state = 'HELD' and not s.validate_only
                union all
                select i.tenant_id, null, i.updated_at from retention_purge_items i
                join retention_purges p on p.id = i.purge_id
                where i.state = 'HELD' and p.fleet_held_at is not null and p.fleet_approved_at is null) h
              where not exists (select from last_purges l
                                where l.tenant_id = h.tenant_id and (h.subject is null or l.subject = h.subject)
                                  and l.completed_at > h.held_at)`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'last_windows(tenants text[])',
      returns: 'table (tenant_id text, subject text, days int)',
      query: `select l.tenant_id, l.subject, l.days from last_purges l
              where l.tenant_id = any (tenants) and l.completed_at is not null`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'overdue_subjects()',
      returns: 'table (subject text, seconds double precision)',
      query: `select s.name, coalesce(extract(epoch from clock_timestamp() - (
                  select min(l.overdue_since) from last_purges l
                  where l.subject = s.name and l.overdue_since is not null)), 0)::double precision
              from subjects s where s.retired_at is null order by s.name`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'old_purge_items(before timestamptz, max_rows int)',
      returns: 'table (tenant_id text, purge_id uuid)',
      query: `select i.tenant_id, i.purge_id from retention_purges p join retention_purge_items i on i.purge_id = p.id
              where p.created_at < before and i.state not in ('PENDING', 'RUNNING')
              order by p.created_at, i.tenant_id limit max_rows`,
      appRole,
    });
    await createOperation(
      knex,
      appRole,
      'forget_purges(before timestamptz, max_rows int)',
      `begin
         delete from retention_purges p where p.id in (
           select o.id from retention_purges o
           where o.created_at < before
             and not exists (select from retention_purge_items i where i.purge_id = o.id)
             and not exists (select from retention_purge_items i where i.running_purge_id = o.id)
           order by o.created_at limit max_rows);
       end`,
    );
    await knex.raw(
      'create index retention_purge_items_left_to on retention_purge_items (running_purge_id) where running_purge_id is not null',
    );
  },
  async down(knex, appRole) {
    await knex.raw('drop index if exists retention_purge_items_left_to');
    for (const signature of [
      'forget_purges(timestamptz, int)',
      'old_purge_items(timestamptz, int)',
      'overdue_subjects()',
      'last_windows(text[])',
      'held_purges()',
      'last_purge_seconds()',
      'purge_sums(uuid)',
      'release_purge_items(uuid)',
      'hold_purge_items(uuid, text[], text, jsonb)',
    ]) {
      await knex.raw(`drop function if exists ${signature}`);
    }
    await knex.raw(`
      alter table retention_purge_items
        add column cutoffs jsonb not null default '[]',
        add column counts jsonb not null default '[]',
        add column windows jsonb not null default '[]',
        add column operations jsonb not null default '[]',
        add column subject text,
        add column hold jsonb;
    `);
    await knex.raw(ITEMS_OF_SUBJECTS);
    await knex.raw(`
      drop table if exists last_purges;
      drop table if exists retention_purge_subjects;
      alter table retention_purge_items drop column waiting_since, drop column working_on;
      alter table retention_purges drop column subjects, drop column all_tenants, drop column fleet_narrowed,
        drop column fleet_held_at, drop column fleet_approved_at, drop column fleet_approved_by,
        drop column fleet_approve_reason;
      create index retention_purge_items_held on retention_purge_items (tenant_id, purge_id)
        where state = 'HELD' and not validate_only;
    `);
    await knex.raw('revoke update, delete on retention_purges from ??', [appRole]);
    await createDiscoveryFunction(knex, {
      signature: 'purge_sums(purge uuid)',
      returns: 'table (state text, states jsonb, counts jsonb, started_at timestamptz, finished_at timestamptz)',
      query: OLD_SUMS,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'last_purge_seconds()',
      returns: 'double precision',
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
      query: `select count(distinct h.tenant_id) from retention_purge_items h
              where h.state = 'HELD' and not h.validate_only
                and not exists (select from retention_purge_items i
                                where i.tenant_id = h.tenant_id and i.state = 'COMPLETE' and not i.validate_only
                                  and i.finished_at > h.updated_at)`,
      appRole,
    });
  },
};

/**
 * One row for each window that an item was resolved to. Under the old contract all removals of an item but those after a
 * raised plan were one operation with the purge's id; an unfinished one goes on with an operation of the new contract.
 */
const SUBJECTS_OF_ITEMS = `
  with windows as (
    select i.tenant_id, i.purge_id, w->>'subject' as old_subject, w as old_window
    from retention_purge_items i, jsonb_array_elements(i.windows) w
    union all
    -- Operations of purges from before windows were kept.
    select * from (
      select distinct on (1, 2, 3) i.tenant_id, i.purge_id, o->>'subject', jsonb_build_object(
        'window', jsonb_build_object('kind', 'DAYS', 'days', o->'retentionDays'), 'source', 'PLAN')
      from retention_purge_items i, jsonb_array_elements(i.operations) with ordinality u(o, n)
      where not exists (select from jsonb_array_elements(i.windows) w where w->>'subject' = o->>'subject')
      order by 1, 2, 3, n desc) old),
  operations as (
    select i.tenant_id, i.purge_id, o->>'subject' as old_subject,
           coalesce(bool_and((o->>'isDone')::boolean), false) as is_done,
           (array_agg(o order by n desc))[1] as last
    from retention_purge_items i, jsonb_array_elements(i.operations) with ordinality u(o, n) group by 1, 2, 3),
  counts as (
    select c.tenant_id, c.purge_id, c.old_subject, jsonb_agg(jsonb_build_object(
      'resourceType', c.type, 'found', c.found, 'deleted', c.deleted, 'left', c.remaining) order by c.type) as counts
    from (select i.tenant_id, i.purge_id, o->>'subject' as old_subject, e->>'resourceType' as type,
                 sum((e->>'found')::bigint) as found, sum((e->>'deleted')::bigint) as deleted,
                 (array_agg((e->>'left')::bigint order by n desc))[1] as remaining
          from retention_purge_items i, jsonb_array_elements(i.operations) with ordinality u(o, n),
               jsonb_array_elements(o->'counts') e group by 1, 2, 3, 4) c
    group by 1, 2, 3)
  insert into retention_purge_subjects
    (tenant_id, purge_id, subject, state, validate_only, kind, days, source, plan, plan_version, change_at, next_kind,
     next_days, min_to_keep, cutoff, expired, seen, held_at, hold_expired, hold_total, hold_max_share, hold_max_count,
     approved_at, approved_by, approve_reason, operation_id, is_ended, counts, ended_counts, error, updated_at)
  select w.tenant_id, w.purge_id, lower(w.old_subject),
         case when w.old_window->'window'->>'kind' <> 'DAYS' then 'KEPT'
              when i.state = 'HELD' and i.hold->>'subject' = w.old_subject then 'HELD'
              when i.validate_only and coalesce(o.is_done, false) then 'OBSERVED'
              when coalesce(o.is_done, false) then 'COMPLETE'
              when i.state = 'COMPLETE' then 'COMPLETE'
              when i.state in ('PARTIAL', 'FAILED') then 'PARTIAL'
              else 'PENDING' end,
         i.validate_only,
         case w.old_window->'window'->>'kind' when 'DAYS' then 'DAYS' else 'KEEP_ALL' end,
         (w.old_window->'window'->>'days')::int,
         coalesce(w.old_window->>'source', 'NONE'),
         w.old_window->'from'->>'plan',
         (w.old_window->'from'->>'version')::bigint,
         (w.old_window->'change'->>'at')::timestamptz,
         case when w.old_window->'change' is null then null
              when w.old_window->'change'->'to'->>'kind' = 'DAYS' then 'DAYS' else 'KEEP_ALL' end,
         (w.old_window->'change'->'to'->>'days')::int,
         (w.old_window->>'minToKeep')::bigint,
         (o.last->>'cutoff')::timestamptz,
         case when h.is_held then (i.hold->>'expired')::bigint end,
         case when h.is_held then (i.hold->>'total')::bigint end,
         case when h.is_held then (i.hold->>'heldAt')::timestamptz end,
         case when h.is_held then (i.hold->>'expired')::bigint end,
         case when h.is_held then (i.hold->>'total')::bigint end,
         case when h.is_held then (i.hold->>'maxShare')::double precision end,
         case when h.is_held then (i.hold->>'maxCount')::bigint end,
         case when h.is_held then (i.hold->'approval'->>'at')::timestamptz end,
         case when h.is_held then i.hold->'approval'->>'actor' end,
         case when h.is_held then i.hold->'approval'->>'reason' end,
         (o.last->>'operationId')::uuid,
         o.last is not null,
         coalesce(c.counts, '[]'), coalesce(c.counts, '[]'),
         case when i.state in ('PARTIAL', 'FAILED') and not coalesce(o.is_done, false) then i.error end,
         i.updated_at
  from windows w
  join retention_purge_items i using (tenant_id, purge_id)
  cross join lateral (select coalesce(i.hold->>'subject' = w.old_subject, false) as is_held) h
  left join operations o using (tenant_id, purge_id, old_subject)
  left join counts c using (tenant_id, purge_id, old_subject)`;

const ITEMS_OF_SUBJECTS = `
  update retention_purge_items i set
    subject = upper(i.working_on),
    windows = s.windows, operations = s.operations, cutoffs = s.cutoffs, hold = s.hold, counts = s.counts
  from (
    select p.tenant_id, p.purge_id,
           jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
             'subject', upper(p.subject),
             'window', jsonb_build_object('kind', p.kind, 'days', p.days),
             'source', p.source,
             'from', case when p.plan is not null
                          then jsonb_build_object('plan', p.plan, 'version', p.plan_version) end,
             'change', case when p.change_at is not null then jsonb_build_object(
                 'at', p.change_at, 'to', jsonb_build_object('kind', p.next_kind, 'days', p.next_days)) end,
             'minToKeep', p.min_to_keep)) order by p.subject) as windows,
           coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
             'subject', upper(p.subject), 'operationId', coalesce(p.operation_id, p.purge_id),
             'retentionDays', coalesce(p.days, 0), 'cutoff', p.cutoff, 'counts', p.counts,
             'isDone', p.state in ('COMPLETE', 'OBSERVED', 'KEPT'))) order by p.subject)
             filter (where p.counts <> '[]' or p.operation_id is not null), '[]') as operations,
           coalesce(jsonb_agg(jsonb_build_object('subject', upper(p.subject), 'cutoff', p.cutoff) order by p.subject)
             filter (where p.cutoff is not null), '[]') as cutoffs,
           (array_agg(jsonb_strip_nulls(jsonb_build_object(
              'subject', upper(p.subject), 'expired', p.hold_expired, 'total', p.hold_total,
              'maxShare', p.hold_max_share, 'maxCount', p.hold_max_count, 'heldAt', p.held_at,
              'approval', case when p.approved_at is not null then jsonb_build_object(
                'at', p.approved_at, 'actor', p.approved_by, 'reason', p.approve_reason) end))
              order by p.held_at) filter (where p.held_at is not null))[1] as hold,
           coalesce((select jsonb_agg(jsonb_build_object('resourceType', c.type, 'found', c.found, 'deleted', c.deleted,
                                                         'left', c.remaining) order by c.type)
                     from (select e->>'resourceType' as type, sum((e->>'found')::bigint) as found,
                                  sum((e->>'deleted')::bigint) as deleted, sum((e->>'left')::bigint) as remaining
                           from retention_purge_subjects q, jsonb_array_elements(q.counts) e
                           where q.tenant_id = p.tenant_id and q.purge_id = p.purge_id group by 1) c), '[]') as counts
    from retention_purge_subjects p group by p.tenant_id, p.purge_id) s
  where s.tenant_id = i.tenant_id and s.purge_id = i.purge_id`;

const OLD_SUMS = `
  with items as (
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
  from items i`;
