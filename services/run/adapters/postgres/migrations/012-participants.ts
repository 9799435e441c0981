import type { Migration } from '#libs/postgres/migrate.ts';

/**
 * Every participant that this installation has ever had, so that a configuration that forgets one does not make RunService
 * forget its data. Those that earlier versions recorded are taken over.
 */
export const participants: Migration = {
  name: '012-participants',
  async up(knex, appRole) {
    await knex.raw(`
      create table participants (
        name text primary key,
        first_configured_at timestamptz not null default clock_timestamp(),
        retired_at timestamptz,
        retired_by text,
        retire_reason text,
        constraint participants_retirement check ((retired_at is null) = (retired_by is null))
      );
      insert into participants (name)
        select participant from deletion_steps where participant <> 'run'
        union select unnest(participants) from workflow_run_steps
        except select 'run';
    `);
    await knex.raw('grant select, insert, update on participants to ??', [appRole]);
  },
  async down(knex) {
    await knex.raw('drop table participants');
  },
};
