import type { Database } from '#libs/postgres/open-database.ts';
import { DRIFT_STATUSES, type DriftStatus } from '../../domain/drift.ts';
import { INCIDENT_STATES, type IncidentState } from '../../domain/incident.ts';
import type { ReadDashboard } from '../../use-cases/ports.ts';

interface DashboardRow {
  readonly environments: Readonly<Partial<Record<DriftStatus, number>>> | null;
  readonly incidents: Readonly<Partial<Record<IncidentState, number>>> | null;
  readonly mean_ms: number | null;
  readonly last_checked_at: Temporal.Instant | null;
}

/** The figures from Postgres, in one statement and so of one moment. */
export const makeReadDashboard =
  (database: Database): ReadDashboard =>
  async (tenantId) => {
    const [row] = await database.readForTenant<DashboardRow>(tenantId, {
      text: `select
               (select json_object_agg(drift_status, n) from (
                  select drift_status, count(*) as n from environments where tenant_id = $1 group by 1) e) as environments,
               (select json_object_agg(state, n) from (
                  select state, count(*) as n from incidents
                  where tenant_id = $1 and deleted_at is null group by 1) s) as incidents,
               (select round(extract(epoch from avg(closed_at - created_at)) * 1000, 3)::float8 from incidents
                  where tenant_id = $1 and deleted_at is null and close_cause = 'RESOLVED') as mean_ms,
               (select max(last_checked_at) from environments where tenant_id = $1) as last_checked_at`,
      values: [tenantId],
    });
    return {
      environments: countsOf(DRIFT_STATUSES, row?.environments),
      incidents: countsOf(INCIDENT_STATES, row?.incidents),
      meanMsToClose: row?.mean_ms ?? undefined,
      lastCheckedAt: row?.last_checked_at ?? undefined,
    };
  };

const countsOf = <K extends string>(
  keys: readonly K[],
  counts: Readonly<Partial<Record<K, number>>> | null | undefined,
): Record<K, number> => Object.fromEntries(keys.map((key) => [key, counts?.[key] ?? 0])) as Record<K, number>;
