import type { Knex } from 'knex';
import type { Migration } from './migrate.ts';
import type { Database } from './open-database.ts';
import { createDiscoveryFunction } from './tenant-security.ts';

/** Where a service remembers the requests that it has answered. */
export interface RememberedRequests {
  /** The table, with tenant_id, request_id and created_at. */
  readonly table: string;
  /** Whether a request id counts per method, which is a column then; the primary key has all of them. */
  readonly hasMethod: boolean;
}

const FORGOTTEN_AT_ONCE = 1_000;

/** Lets requests be found by age, for makeForgetRequests: an index, and a function that tells whose the oldest are. */
export async function createRequestExpiry(
  knex: Knex,
  appRole: string,
  { table, hasMethod }: RememberedRequests,
): Promise<void> {
  await knex.raw('create index ?? on ?? (created_at)', [`${table}_age`, table]);
  await createDiscoveryFunction(knex, {
    signature: 'expired_requests(days int, max_rows int)',
    returns: 'table (tenant_id text, method text, request_id uuid)',
    query: `select r.tenant_id, ${hasMethod ? 'r.method' : "''"}, r.request_id from ${table} r
            where r.created_at < now() - days * interval '1 day' order by r.created_at limit max_rows`,
    appRole,
  });
  // How few rows a call wants is not known when the function is planned.
  await knex.raw('alter function expired_requests(int, int) set enable_seqscan = off');
}

/** Drops what createRequestExpiry made. */
export async function dropRequestExpiry(knex: Knex, { table }: RememberedRequests): Promise<void> {
  await knex.raw('drop function expired_requests(int, int)');
  await knex.raw('drop index ??', [`${table}_age`]);
}

/** The migration by which a service begins to forget requests. */
export const makeRequestExpiry = (name: string, requests: RememberedRequests): Migration => ({
  name,
  locks: { [requests.table]: 'writes' },
  up: (knex, appRole) => createRequestExpiry(knex, appRole, requests),
  down: (knex) => dropRequestExpiry(knex, requests),
});

/**
 * Makes the function that forgets what requests of any tenant were answered with longer ago, up to a thousand a call and the
 * oldest first; answers how many. A request that is repeated after that is a new one.
 */
export const makeForgetRequests =
  (database: Database, { table, hasMethod }: RememberedRequests) =>
  async (days: number): Promise<number> => {
    const expired = await database.acrossTenants<{ tenant_id: string; method: string; request_id: string }>({
      text: 'select tenant_id, method, request_id from expired_requests($1, $2)',
      values: [days, FORGOTTEN_AT_ONCE],
    });
    let forgotten = 0;
    for (const requests of Map.groupBy(expired, (row) => `${row.tenant_id} ${row.method}`).values()) {
      const { tenant_id: tenantId = '', method = '' } = requests[0] ?? {};
      const { rowCount } = await database.forTenant(tenantId, (trx) =>
        trx.raw(
          `delete from :table: where tenant_id = :tenantId and ${hasMethod ? 'method = :method and' : ''}
             request_id = any(cast(:requestIds as uuid[])) and created_at < clock_timestamp() - :days * interval '1 day'`,
          { table, tenantId, method, requestIds: requests.map(({ request_id: id }) => id), days },
        ),
      );
      forgotten += rowCount;
    }
    return forgotten;
  };
