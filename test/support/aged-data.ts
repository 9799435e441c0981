import type { Stack } from '#deploy/local/stack.ts';
import { PurgeState, type RetentionPurge, type RetentionPurgeItem } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { PurgeProgress, PurgeRequest } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { queryOnce } from './postgres.ts';

// By SQL as the superuser: no RPC makes anything old. Ages are intervals before the database's now; null is no instant.

/** Adds a plan to a tenant's history as if it had been recorded then: one that is set by RPC always has grace. */
export async function putPlan(stack: Stack, tenantId: string, plan: string | null, age = '400 days'): Promise<void> {
  await queryOnce(
    stack.superuserUrl('retention'),
    `insert into tenant_plans (tenant_id, version, plan, effective_at, created_at, actor)
     select $1, coalesce(max(version), 0) + 1, $2, now() - $3::interval, now() - $3::interval, 'ada'
     from tenant_plans where tenant_id = $1`,
    [tenantId, plan, age],
  );
}

/** A purge of the tenant that a replica has claimed and never ends, until `end` says how it ended. */
export async function addRunningPurge(
  stack: Stack,
  tenantId: string,
): Promise<{ purgeId: string; end(state: string): Promise<unknown> }> {
  const purgeId = newId();
  await queryOnce(
    stack.superuserUrl('retention'),
    `with p as (insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint)
                values ($1, 'PURGE', false, 'a', 'a', '') returning id)
     insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, due_at)
     select $2, id, 'RUNNING', false, 'a', now() + interval '1 hour' from p`,
    [purgeId, tenantId],
  );
  return {
    purgeId,
    end: (state) =>
      queryOnce(
        stack.superuserUrl('retention'),
        'update retention_purge_items set state = $2, finished_at = now(), error = $2 where purge_id = $1',
        [purgeId, state],
      ),
  };
}

/** An environment of the tenant by name; its badge is as a check would have left it. */
export async function addEnvironment(stack: Stack, tenantId: string, name = 'production'): Promise<string> {
  const [row] = await queryOnce<{ id: string }>(
    stack.superuserUrl('incident'),
    `insert into environments (tenant_id, id, display_name, drift_status, last_checked_at)
     values ($1, gen_random_uuid(), $2, 'DRIFT', now()) returning id`,
    [tenantId, name],
  );
  return row?.id ?? '';
}

/** A check for each age, with two workflows that it flagged. */
export async function addChecks(
  stack: Stack,
  tenantId: string,
  environmentId: string,
  ages: readonly (string | null)[],
): Promise<void> {
  await queryOnce(
    stack.superuserUrl('incident'),
    `with c as (
       insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
       select $1, gen_random_uuid(), $2, 'DRIFT', now() - age from unnest($3::interval[]) age returning tenant_id, id)
     insert into drift_check_workflows
       select tenant_id, id, w, 'MODIFIED' from c, unnest(array['a', 'b']) w`,
    [tenantId, environmentId, [...ages]],
  );
}

/** What an incident with a payload and a decided approval looks like. */
export interface AgedIncident {
  readonly state: 'DETECTED' | 'ACKNOWLEDGED' | 'STABILIZED' | 'RECONCILED' | 'CLOSED';
  /** Since when it is closed, and its approval decided. */
  readonly age: string | null;
  readonly approval?: 'PENDING' | 'APPROVED' | 'REJECTED';
}

/** Incidents, each with a payload and an approval; answers their ids in order. */
export async function addIncidents(
  stack: Stack,
  tenantId: string,
  environmentId: string,
  incidents: readonly AgedIncident[],
): Promise<string[]> {
  const ids: string[] = [];
  for (const { state, age, approval = 'APPROVED' } of incidents) {
    const [row] = await queryOnce<{ id: string }>(
      stack.superuserUrl('incident'),
      `with i as (
         insert into incidents (tenant_id, id, environment_id, title, state, close_cause, closed_at, created_at,
                                opened_with_payload)
         values ($1, gen_random_uuid(), $2, 'drift', $3, case when $3 = 'CLOSED' then 'RESOLVED' end,
                 now() - $4::interval, coalesce(now() - $4::interval, now()) - interval '1 day', true)
         returning tenant_id, id, closed_at),
       t as (insert into incident_transitions (tenant_id, incident_id, state, actor)
             select tenant_id, id, 'DETECTED', 'ada' from i),
       p as (insert into incident_payloads (tenant_id, incident_id, payload_json)
             select tenant_id, id, '{"workflow": "call"}' from i),
       a as (insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at)
             select tenant_id, gen_random_uuid(), id, 'CLOSED', $5, 'ada', now() - $4::interval from i)
       select id from i`,
      [tenantId, environmentId, state, age, approval],
    );
    ids.push(row?.id ?? '');
  }
  return ids;
}

/** How many rows of a table the tenant has in IncidentService's database. */
export async function rowsOf(stack: Stack, table: string, tenantId: string): Promise<number> {
  const [row] = await queryOnce<{ count: number }>(
    stack.superuserUrl('incident'),
    `select count(*)::int as count from ${table} where tenant_id = $1`,
    [tenantId],
  );
  return row?.count ?? -1;
}

const TABLE_OF: Readonly<Record<string, string>> = {
  drift_check: 'drift_checks',
  drift_check_workflow: 'drift_check_workflows',
  incident_payload: 'incident_payloads',
  approval: 'approvals',
};

/** The tenant's rows by resource type, counted by SQL that shares nothing with the product. */
export async function census(stack: Stack, tenantId: string): Promise<Record<string, number>> {
  const counts = Object.entries(TABLE_OF).map(async ([type, table]) => [type, await rowsOf(stack, table, tenantId)]);
  return Object.fromEntries(await Promise.all(counts));
}

/** What a receipt says was removed, by resource type; types of which nothing went are there when `types` names them. */
export function removedBy(
  counts: readonly { readonly resourceType: string; readonly deleted: bigint }[],
  types: readonly string[] = Object.keys(TABLE_OF),
): Record<string, number> {
  const sums = Object.fromEntries(types.map((type) => [type, 0]));
  for (const { resourceType, deleted } of counts) sums[resourceType] = (sums[resourceType] ?? 0) + Number(deleted);
  return sums;
}

/** A census less another. */
export const less = (a: Record<string, number>, b: Record<string, number>): Record<string, number> =>
  Object.fromEntries(Object.entries(a).map(([type, count]) => [type, count - (b[type] ?? 0)]));

type PurgeScope = Partial<
  Pick<PurgeRequest, 'tenantIds' | 'allTenants' | 'validateOnly' | 'requestId' | 'reason' | 'subjects'>
>;

/** Purges as platform, and reads the stream to its summary. */
export async function purge(
  stack: Stack,
  request: PurgeScope,
  onEvent: (event: PurgeProgress['event']) => void = () => undefined,
): Promise<{ readonly summary: RetentionPurge; readonly items: readonly RetentionPurgeItem[] }> {
  const items: RetentionPurgeItem[] = [];
  for await (const { event } of stack.clients({ role: 'platform' }).retention.purge(request)) {
    onEvent(event);
    if (event.case === 'tenantFinished' && event.value.item) items.push(event.value.item);
    if (event.case === 'summary' && event.value.purge) return { summary: event.value.purge, items };
  }
  throw new Error('the stream ended without a summary');
}

/** Whether it has ended, but for what is held. */
export const hasEnded = ({ state }: Pick<RetentionPurge, 'state'>): boolean =>
  state === PurgeState.COMPLETE || state === PurgeState.PARTIAL || state === PurgeState.HELD;
