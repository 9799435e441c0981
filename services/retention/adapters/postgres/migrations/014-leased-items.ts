import type { Knex } from 'knex';
import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction, createOperation } from '#libs/postgres/tenant-security.ts';
import { ADD_PURGE_ITEMS, REQUEUE_PURGE_ITEMS } from './003-purge-queue.ts';
import { RELEASE_PURGE_ITEMS } from './008-purge-subjects.ts';
import { createQueueSchema } from './queue-schema.ts';

const OWN_ITEM = 'select from retention_purge_items i where i.tenant_id = t.id and i.purge_id = purge';
const UNFINISHED = "in ('PENDING', 'RUNNING')";
const RUNNING_ELSEWHERE = `select from retention_purge_items r where r.tenant_id = i.tenant_id
  and r.state ${UNFINISHED} and not r.validate_only`;

// An operation that an ended item left open: the call that was cut off may have removed rows it never reported.
const IS_OPEN = `i.state not ${UNFINISHED} and not i.validate_only and exists (
  select from retention_purge_subjects s
  where s.tenant_id = i.tenant_id and s.purge_id = i.purge_id and s.operation_id is not null and not s.is_ended)`;

/**
 * Items are leased rows that any replica claims, as runs and deletions are, and schedules are leased rows as well; the
 * queue's schema goes. `due_at` says when there is something to do: the first attempt, the next one, the end of a
 * lease, or when an ended item is settled; null: never.
 */
export const leasedItems: Migration = {
  name: '014-leased-items',
  locks: { retention_purge_items: 'all' },
  async up(knex, appRole) {
    await dropOperations(knex);
    await knex.raw(`
      alter table retention_purge_items add column due_at timestamptz;
      -- Most overdue first, as the queue had it.
      update retention_purge_items i set due_at = case
        when i.state = 'PENDING' and i.attempts = 0 then coalesce(i.overdue_since, 'epoch')
        else coalesce(greatest(i.next_attempt_at, i.lease_expires_at), clock_timestamp()) end where i.state ${UNFINISHED};
      update retention_purge_items i set due_at = clock_timestamp(), failures = 0 where ${IS_OPEN};
      alter table retention_purge_items
        drop column next_attempt_at, drop column lease_expires_at,
        add constraint retention_purge_items_never_forgotten check (due_at is not null or state not ${UNFINISHED});
      create index retention_purge_items_due on retention_purge_items (due_at, purge_id) where state ${UNFINISHED};
      create index retention_purge_items_settle on retention_purge_items (due_at, purge_id)
        where state not ${UNFINISHED} and due_at is not null;
      drop schema if exists graphile_worker cascade;

      create table schedules (
        name text primary key,
        pattern text not null,
        -- Of the work of the next instant, or of the one that is under way.
        run_id uuid not null,
        due_at timestamptz not null,
        lease_owner text,
        lease_token bigint not null default 0,
        attempts int not null default 0,
        last_error text
      );
    `);
    await knex.raw('grant select, insert, update, delete on schedules to ??', [appRole]);
    await createOperation(
      knex,
      appRole,
      ADD_PURGE_ITEMS.signature,
      `begin
         loop
           insert into retention_purge_items
               (tenant_id, purge_id, state, validate_only, actor, overdue_since, due_at)
             select t.id, purge, 'PENDING', dry_run, by_actor, l.last,
                    -- A tenant that orders many dry runs gets one of them before the others' turn.
                    case when dry_run and exists (select from retention_purge_items i
                                                  where i.tenant_id = t.id and i.state ${UNFINISHED})
                         then clock_timestamp() else coalesce(l.last, 'epoch') end
             from unnest(tenants) t(id)
             cross join lateral (select max(i.finished_at) as last from retention_purge_items i
                                 where i.tenant_id = t.id and i.state = 'COMPLETE' and not i.validate_only) l
             where not exists (${OWN_ITEM})
             -- In one order, so that two purges that begin at once wait for each other and do not lock up.
             order by t.id
             on conflict (tenant_id) where state in ('PENDING', 'RUNNING') and not validate_only do nothing;
           insert into retention_purge_items
               (tenant_id, purge_id, state, validate_only, actor, running_purge_id, finished_at)
             select t.id, purge, 'SKIPPED', dry_run, by_actor, r.purge_id, clock_timestamp()
             from unnest(tenants) t(id)
             join retention_purge_items r on r.tenant_id = t.id and r.state ${UNFINISHED} and not r.validate_only
             where not exists (${OWN_ITEM}) and not dry_run;
           -- A purge that ended between the two statements left its tenants for another round.
           exit when not exists (select from unnest(tenants) t(id) where not exists (${OWN_ITEM}));
         end loop;
       end`,
    );
    await createOperation(
      knex,
      appRole,
      RELEASE_PURGE_ITEMS.signature,
      `begin
         loop
           begin
             update retention_purge_items i
               set state = 'SKIPPED', finished_at = clock_timestamp(), updated_at = clock_timestamp(), due_at = null,
                   running_purge_id = (select r.purge_id from retention_purge_items r
                                       where r.tenant_id = i.tenant_id and r.state ${UNFINISHED}
                                         and not r.validate_only)
               where i.purge_id = purge and i.state = 'HELD' and exists (${RUNNING_ELSEWHERE});
             update retention_purge_items i
               set state = 'PENDING', due_at = 'epoch', updated_at = clock_timestamp()
               where i.purge_id = purge and i.state = 'HELD';
             exit;
           exception when unique_violation then
             -- Another purge of one of the tenants began in between.
             null;
           end;
         end loop;
       end`,
    );
    await createDiscoveryFunction(knex, {
      signature: 'due_purge_items(max_rows int)',
      returns: 'table (tenant_id text, purge_id uuid)',
      // While purges are stopped, ended items are settled and no other is begun. A tenant has one item at a time, so
      // that however many dry runs it orders, the other workers are for the others.
      query: `
        select d.tenant_id, d.purge_id from (
          (select i.tenant_id, i.purge_id, i.due_at from retention_purge_items i
           where i.state ${UNFINISHED} and i.due_at <= now()
             and not coalesce((select s.is_stopped from purge_stops s order by s.version desc limit 1), false)
             and not exists (
               select from retention_purge_items o
               where o.tenant_id = i.tenant_id and o.state ${UNFINISHED} and o.purge_id <> i.purge_id
                 and ((o.due_at, o.purge_id) < (i.due_at, i.purge_id)
                      or (o.lease_owner is not null and o.due_at > now())))
           order by i.due_at, i.purge_id limit max_rows)
          union all
          (select i.tenant_id, i.purge_id, i.due_at from retention_purge_items i
           where i.state not ${UNFINISHED} and i.due_at <= now()
           order by i.due_at, i.purge_id limit max_rows)) d
        order by d.due_at, d.purge_id limit max_rows`,
      appRole,
    });
  },
  async down(knex, appRole) {
    await dropOperations(knex);
    await knex.raw('drop function due_purge_items(int)');
    await knex.raw(`
      drop table schedules;
      drop index retention_purge_items_due;
      drop index retention_purge_items_settle;
      alter table retention_purge_items
        add column next_attempt_at timestamptz default clock_timestamp(),
        add column lease_expires_at timestamptz;
      update retention_purge_items set
        next_attempt_at = case when lease_owner is null then due_at else clock_timestamp() end,
        lease_expires_at = case when lease_owner is not null then due_at end
        where state ${UNFINISHED};
    `);
    await createQueueSchema(knex, appRole);
    for (const { signature, body } of [ADD_PURGE_ITEMS, REQUEUE_PURGE_ITEMS, RELEASE_PURGE_ITEMS]) {
      await createOperation(knex, appRole, signature, body);
    }
    await knex.raw(`
      select requeue_purge_items();
      select graphile_worker.add_job('settle-purge', job_key => 'settle:' || i.purge_id || ':' || i.tenant_id,
        payload => json_build_object('tenantId', i.tenant_id, 'purgeId', i.purge_id))
        from retention_purge_items i where i.due_at is not null and i.state not ${UNFINISHED};
      alter table retention_purge_items drop column due_at;
    `);
  },
};

const dropOperations = async (knex: Knex): Promise<void> => {
  await knex.raw('drop function add_purge_items(uuid, text[], boolean, text)');
  await knex.raw('drop function if exists requeue_purge_items()');
  await knex.raw('drop function release_purge_items(uuid)');
};
