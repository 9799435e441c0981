import type { Migration } from '#libs/postgres/migrate.ts';
import { secureTable } from '#libs/postgres/tenant-security.ts';

/**
 * A row for each run that was ever locked, in place of an advisory lock, and tombstones that tell what they are in columns.
 * The release before this one goes on writing `operation` and its own sums; the trigger keeps both forms the same.
 */
export const runLocks: Migration = {
  name: '012-run-locks',
  locks: { step_tombstones: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      create table run_locks (tenant_id text not null, run_id uuid not null, primary key (tenant_id, run_id));

      alter table step_tombstones
        add column kind text check (kind in ('SOFT_DELETE', 'RESTORE', 'RESTORED', 'PURGE', 'COMPENSATE')),
        add column operation_id uuid,
        add column counts jsonb;

      create function spell_tombstone() returns trigger language plpgsql as $$
      declare
        word text := split_part(new.operation, ':', 1);
        is_old boolean := new.kind is null;
      begin
        if is_old then
          new.kind := case word when 'hidden' then 'SOFT_DELETE' when 'compensate' then 'COMPENSATE' else upper(word) end;
          new.operation_id := coalesce(nullif(split_part(new.operation, ':', 2), '')::uuid, new.run_id);
        elsif tg_op = 'UPDATE' then
          is_old := new.counts is not distinct from old.counts;
        end if;
        if not is_old then
          new.operation := case new.kind when 'SOFT_DELETE' then 'hidden:' || new.operation_id
            when 'COMPENSATE' then 'compensate' else lower(new.kind) || ':' || new.operation_id end;
          select coalesce(sum((c ->> 'deleted')::bigint) filter (where c ->> 'resourceType' = 'incident'), 0),
                 coalesce(sum((c ->> 'deleted')::bigint) filter (where c ->> 'resourceType' = 'incident_payload'), 0),
                 coalesce(sum((c ->> 'bytes')::bigint), 0)
          into new.incidents, new.payloads, new.payload_bytes
          from jsonb_array_elements(new.counts) c where new.kind <> 'SOFT_DELETE';
        elsif new.kind <> 'SOFT_DELETE' then
          new.counts := jsonb_build_array(
            jsonb_build_object('resourceType', 'incident', 'found', new.incidents, 'deleted', new.incidents,
                               'left', 0, 'bytes', 0),
            jsonb_build_object('resourceType', 'incident_payload', 'found', new.payloads, 'deleted', new.payloads,
                               'left', 0, 'bytes', new.payload_bytes));
        end if;
        return new;
      end $$;
      create trigger spell_tombstone before insert or update on step_tombstones
        for each row execute function spell_tombstone();
      update step_tombstones set kind = null;
    `);
    await secureTable(knex, 'run_locks', appRole);
  },
  async down(knex) {
    await knex.raw(`
      drop trigger spell_tombstone on step_tombstones;
      drop function spell_tombstone();
      delete from step_tombstones where kind = 'RESTORE';
      alter table step_tombstones drop column kind, drop column operation_id, drop column counts;
      drop table run_locks;
    `);
  },
};
