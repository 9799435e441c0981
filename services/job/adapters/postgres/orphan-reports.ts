import type { Database } from '#libs/postgres/open-database.ts';
import type { OrphanReports } from '../../use-cases/ports.ts';

/** The last report of orphans, in Postgres. */
export const makeOrphanReports = (database: Database): OrphanReports => ({
  async save({ orphans, jobsWithoutObjects, failedTenants }) {
    await database.acrossTenants({
      text: `insert into orphan_reports (orphans, jobs_without_objects, failed_tenants, reported_at)
             values ($1, $2, $3, clock_timestamp())
             on conflict (singleton) do update
               set orphans = excluded.orphans, jobs_without_objects = excluded.jobs_without_objects,
                   failed_tenants = excluded.failed_tenants, reported_at = excluded.reported_at`,
      values: [orphans, jobsWithoutObjects, failedTenants],
    });
  },

  async last() {
    const [row] = await database.acrossTenants<{
      orphans: number;
      jobs_without_objects: number;
      failed_tenants: number;
      age: number;
    }>({
      text: `select orphans, jobs_without_objects, failed_tenants,
                    extract(epoch from clock_timestamp() - reported_at)::double precision as age from orphan_reports`,
      values: [],
    });
    if (!row) return undefined;
    const { orphans, jobs_without_objects: jobsWithoutObjects, failed_tenants: failedTenants, age } = row;
    return { orphans, jobsWithoutObjects, failedTenants, ageSeconds: age };
  },
});
