import { DomainError } from '#libs/kernel/domain-error.ts';
import { makeOwner, type OwnerOptions } from '#libs/owner/make-owner.ts';
import type { Owner } from '#libs/owner/owner.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { codeOf } from '#libs/postgres/sql-errors.ts';
import type { Role } from './connect.ts';
import type { BoxTable } from './inspect-tables.ts';
import { toOwnedSubject } from './to-owned-subject.ts';

/** Makes a retention owner over tables of somebody else's, which the role is to purge. */
export function makeBoxOwner(
  tables: readonly BoxTable[],
  role: Pick<Role, 'searchPath'>,
  options: Omit<OwnerOptions, 'subjects'>,
): Owner {
  const database = withRetriedReferences(options.database);
  const tableOf = new Map(tables.map((table) => [table.subject.name, table]));
  const owner = makeOwner({ ...options, database, subjects: tables.map((table) => toOwnedSubject(table, role)) });
  return {
    ...owner,
    // By the tables themselves, since nothing is to be created in them.
    async listTenants({ name }, after, limit) {
      const table = tableOf.get(name);
      if (!table) throw new Error(`${name} is no subject of this owner`);
      const rows = await database.acrossTenants<{ tenant_id: string }>({
        text: listTenants(table, after !== ''),
        values: after !== '' || !table.tenant.isByteOrdered ? [limit, after] : [limit],
      });
      return rows.map(({ tenant_id }) => tenant_id);
    },
  };
}

/**
 * Tenants by one look into the index each, however many rows they have. Where the column has another order than that of
 * bytes, all of them are looked at for each page. Tenants whose ids no token can carry are left out.
 */
function listTenants({ table, tenant, instant }: BoxTable, isFollowing: boolean): string {
  const text = `cast(t as text) collate "C"`;
  const next = (after: string): string =>
    `select r.${tenant.name} from ${table} r
     where r.${instant.name} is distinct from '-infinity' ${after} order by r.${tenant.name} limit 1`;
  const start = tenant.isByteOrdered && isFollowing ? `and r.${tenant.name} > cast($2 as ${tenant.type})` : '';
  const isAfter = tenant.isByteOrdered ? '' : `and ${text} > $2`;
  return `with recursive tenants (t) as (
      (${next(start)})
      union all
      select (${next(`and r.${tenant.name} > x.t`)}) from tenants x where x.t is not null)
    select ${text} as tenant_id from tenants
    where t is not null and cast(t as text) ~ '^[a-z0-9][a-z0-9-]{0,62}$' ${isAfter}
    order by ${text} limit $1`;
}

/** A row that somebody has hung on a row of the batch meanwhile is seen when the batch is tried again. */
const withRetriedReferences = (database: Database): Database => ({
  ...database,
  async forTenant(tenantId, work) {
    try {
      return await database.forTenant(tenantId, work);
    } catch (error) {
      if (codeOf(error) !== FOREIGN_KEY_VIOLATION) throw error;
      const message = 'Something else changed this at the same time; try again.';
      throw new DomainError('aborted', 'CONCURRENT_UPDATE', message, {}, { cause: error });
    }
  },
});

const FOREIGN_KEY_VIOLATION = '23503';
