import pg from 'pg';
import type { Stack } from '../stack.ts';

// By SQL as the superuser: no RPC lets a caller say when something happened.

/** An incident's life, in minutes before now. */
export interface IncidentLife {
  readonly opened: number;
  /** When it came into the state that it is in. */
  readonly ended: number;
}

/** Moves an incident with its transitions and approvals into the past, as if it had lived then. */
export const letIncidentPass = (
  stack: Stack,
  tenantId: string,
  incidentId: string,
  { opened, ended }: IncidentLife,
): Promise<void> =>
  run(
    stack.superuserUrl('incident'),
    `with life as (select now() - make_interval(mins => $3) as opened, now() - make_interval(mins => $4) as ended),
     i as (update incidents set created_at = opened, updated_at = ended, closed_at = case when state = 'CLOSED' then ended end
           from life where tenant_id = $1 and id = $2),
     ranked as (select t.state, (row_number() over (order by at) - 1)::float8 / greatest(count(*) over () - 1, 1) as share
                from incident_transitions t where tenant_id = $1 and incident_id = $2),
     t as (update incident_transitions t set at = opened + (ended - opened) * share from life, ranked
           where t.tenant_id = $1 and t.incident_id = $2 and t.state = ranked.state)
     update approvals set created_at = opened + (ended - opened) * 0.02,
       decided_at = case when decided_at is not null then opened + (ended - opened) * 0.03 end
     from life where tenant_id = $1 and incident_id = $2`,
    [tenantId, incidentId, opened, ended],
  );

/** Moves a tenant's plan into the past: for a week after it was set, what was kept before is kept on. */
export const letGracePass = (stack: Stack, tenantId: string): Promise<void> =>
  run(
    stack.superuserUrl('retention'),
    `update tenant_plans set created_at = created_at - interval '30 days', effective_at = effective_at - interval '30 days'
     where tenant_id = $1 and created_at > now() - interval '30 days'`,
    [tenantId],
  );

/** Moves a purge that has ended so many days into the past. */
export const letPurgePass = (stack: Stack, purgeId: string, days: number): Promise<void> =>
  run(
    stack.superuserUrl('retention'),
    `with p as (update retention_purges set created_at = created_at - make_interval(days => $2) where id = $1)
     update retention_purge_items set started_at = started_at - make_interval(days => $2),
       finished_at = finished_at - make_interval(days => $2)
     where purge_id = $1`,
    [purgeId, days],
  );

async function run(url: string, sql: string, values: readonly unknown[]): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql, [...values]);
  } finally {
    await client.end();
  }
}
