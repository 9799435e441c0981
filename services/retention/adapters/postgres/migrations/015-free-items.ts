import type { Migration } from '#libs/postgres/migrate.ts';

/**
 * The items of a purge refer to it without a foreign key, since it belongs to the installation and they to their
 * tenants. They are made with it, in one transaction, and `forget_purges` leaves a purge that has any.
 */
export const freeItems: Migration = {
  name: '015-free-items',
  locks: { retention_purge_items: 'all', retention_purges: 'all' },
  async up(knex) {
    await knex.raw('alter table retention_purge_items drop constraint retention_purge_items_purge_id_fkey');
  },
  async down(knex) {
    await knex.raw(`
      alter table retention_purge_items
        add constraint retention_purge_items_purge_id_fkey foreign key (purge_id) references retention_purges`);
  },
};
