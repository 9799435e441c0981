import type { Knex } from 'knex';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

/** The reason with which an error that is kept as `REASON: sentence` begins, as SQL; empty where it begins with none. */
export const reasonOf = (column: string): string => `coalesce(substring(${column} from '^([A-Z][A-Z0-9_]*):'), '')`;

/**
 * Creates `parked_work`, which shows the rows of the named tenant alone as the tables below it do, and
 * `parked_work_of_all`, which shows a page of all tenants'. `ofTenants` selects the columns tenant_id, kind (as in
 * lethe.status.v1.ParkedWorkKind), id, target_type, target_id, state, reason, parked_at and attempts, and nothing that a
 * tenant wrote; indexes must lead by tenant and id. `ofInstallation` selects the same of what belongs to no tenant.
 */
export async function createParkedWork(
  knex: Knex,
  appRole: string,
  { ofTenants, ofInstallation }: { readonly ofTenants: string; readonly ofInstallation?: string },
): Promise<void> {
  await knex.raw(`create view parked_work with (security_invoker) as ${ofTenants}`);
  await knex.raw('grant select on parked_work to ??', [appRole]);
  await createDiscoveryFunction(knex, {
    signature: 'parked_work_of_all(after_tenant text, after_id uuid, after_target text, max_rows int)',
    returns: `table (tenant_id text, kind text, id uuid, target_type text, target_id text, state text, reason text,
                     parked_at timestamptz, attempts int)`,
    query: `select p.tenant_id, p.kind, p.id, p.target_type, p.target_id, p.state, p.reason, p.parked_at, p.attempts
            from (select * from parked_work ${ofInstallation ? `union all ${ofInstallation}` : ''}) p
            where (p.tenant_id, p.id, p.target_id) > (after_tenant, after_id, after_target)
            order by p.tenant_id, p.id, p.target_id limit max_rows`,
    appRole,
  });
}

/** Drops what createParkedWork made. */
export async function dropParkedWork(knex: Knex): Promise<void> {
  await knex.raw('drop function parked_work_of_all(text, uuid, text, int)');
  await knex.raw('drop view parked_work');
}

/**
 * Creates `oldest_work`, which shows what is oldest of each kind among the rows of the named tenant, and
 * `oldest_work_of_all` among those of all tenants. Each part selects tenant_id, kind (as in lethe.status.v1.WorkKind), id
 * and created_at of one row at most, by an index, and nothing that a tenant wrote.
 */
export async function createOldestWork(knex: Knex, appRole: string, parts: readonly string[]): Promise<void> {
  const query = parts.map((part) => `(${part})`).join(' union all ');
  await knex.raw(`create view oldest_work with (security_invoker) as ${query}`);
  await knex.raw('grant select on oldest_work to ??', [appRole]);
  await createDiscoveryFunction(knex, {
    signature: 'oldest_work_of_all()',
    returns: 'table (tenant_id text, kind text, id uuid, created_at timestamptz)',
    query: 'select w.tenant_id, w.kind, w.id, w.created_at from oldest_work w',
    appRole,
  });
}

/** Drops what createOldestWork made. */
export async function dropOldestWork(knex: Knex): Promise<void> {
  await knex.raw('drop function oldest_work_of_all()');
  await knex.raw('drop view oldest_work');
}

/** The part of bulk deletions, which services have in common. */
export const OLDEST_BULK_DELETION = `
  select b.tenant_id, 'BULK_DELETION' as kind, b.id, b.created_at from bulk_deletions b
  where b.state in ('SELECTING', 'RUNNING', 'CANCELLING') order by b.created_at limit 1`;
