import type { Migration } from '#libs/postgres/migrate.ts';

/** The stop switch: one row for each time it was switched. The newest says where it stands. */
export const purgeStops: Migration = {
  name: '009-purge-stops',
  async up(knex, appRole) {
    await knex.raw(`
      create table purge_stops (
        version bigint primary key check (version > 0),
        is_stopped boolean not null,
        actor text not null,
        subject text not null,
        reason text not null,
        changed_at timestamptz not null default clock_timestamp()
      );
    `);
    await knex.raw('grant select, insert, delete on purge_stops to ??', [appRole]);
  },
  async down(knex) {
    await knex.raw('drop table if exists purge_stops');
  },
};
