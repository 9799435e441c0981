import { queryOnce } from './postgres.ts';

// A module as LETHE_OWNER_SEEDER names it, for IncidentService's drift checks: see test/contract/owner-foreign.test.ts.
// It makes and reads rows in the owner's database, past the owner's own code.

const url = process.env['LETHE_SEEDER_DATABASE_URL'] ?? '';

/** The subject that the suite is run for. */
export const subject = 'drift_checks';

/** Makes rows of these instants, each with two rows that hang on it. */
export async function seed(tenantId: string, rows: readonly { age: Temporal.Instant | null }[]): Promise<void> {
  await queryOnce(
    url,
    `with e as (
       insert into environments (tenant_id, id, display_name) values ($1, gen_random_uuid(), 'production')
       on conflict (tenant_id, display_name) do update set updated_at = now() returning id),
     c as (insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
           select $1, gen_random_uuid(), e.id, 'DRIFT', age from e, unnest($2::timestamptz[]) age
           returning tenant_id, id)
     insert into drift_check_workflows select tenant_id, id, w, 'MODIFIED' from c, unnest(array['a', 'b']) w`,
    [tenantId, rows.map(({ age }) => age?.toString() ?? null)],
  );
}

/** What is left, with its microseconds. */
export async function left(tenantId: string): Promise<{ ages: (Temporal.Instant | null)[]; dependents: number }> {
  const rows = await queryOnce<{ age: string | null }>(
    url,
    `select to_char(checked_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as age
     from drift_checks where tenant_id = $1`,
    [tenantId],
  );
  const [hanging] = await queryOnce<{ count: number }>(
    url,
    'select count(*)::int as count from drift_check_workflows where tenant_id = $1',
    [tenantId],
  );
  return {
    ages: rows.map(({ age }) => (age === null ? null : Temporal.Instant.from(age))),
    dependents: hanging?.count ?? 0,
  };
}
