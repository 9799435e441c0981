import type { Migration } from '#libs/postgres/migrate.ts';
import { createOperation } from '#libs/postgres/tenant-security.ts';

// How many rows a call wants is not known when its function is planned, so that Postgres would read whole tables.
const BY_INDEX = [
  'plans_in_force(text, text, int)',
  'unplanned_tenants(text, int)',
  'forget_tenants_with_data(text, timestamptz, int)',
];
const OFF = ['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin'];

/** Pages and batches over all tenants go by index, and what nights and sweeps leave behind expires. */
export const listsByIndex: Migration = {
  name: '012-lists-by-index',
  locks: { subject_nights: 'writes', tenants_with_data: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`
      create index subject_nights_age on subject_nights (counted_at);
      create index tenants_with_data_age on tenants_with_data (last_seen_at);
    `);
    await knex.raw('grant delete on subject_nights to ??', [appRole]);
    // Sweeps forget who has no data any more, but only of subjects that an owner still lists.
    const forgetUnseen = 'forget_unseen_tenants(before timestamptz, max_rows int)';
    await createOperation(
      knex,
      appRole,
      forgetUnseen,
      `begin
         delete from tenants_with_data d where (d.tenant_id, d.subject) in (
           select s.tenant_id, s.subject from tenants_with_data s
           where s.last_seen_at < before order by s.last_seen_at limit max_rows);
       end`,
    );
    for (const signature of [...BY_INDEX, 'forget_unseen_tenants(timestamptz, int)']) {
      await knex.raw(`alter function ${signature} ${OFF.map((setting) => `set ${setting} = off`).join(' ')}`);
    }
  },
  async down(knex, appRole) {
    for (const signature of BY_INDEX) {
      await knex.raw(`alter function ${signature} ${OFF.map((setting) => `reset ${setting}`).join(' ')}`);
    }
    await knex.raw('drop function if exists forget_unseen_tenants(timestamptz, int)');
    await knex.raw('revoke delete on subject_nights from ??', [appRole]);
    await knex.raw('drop index if exists tenants_with_data_age; drop index if exists subject_nights_age');
  },
};
