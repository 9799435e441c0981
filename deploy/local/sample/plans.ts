import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { ApprovalState, DriftFlag, DriftStatus, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { PurgeState, type RetentionPurge } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { Stack } from '../stack.ts';
import { type Counts, countRows, showKept } from './evidence.ts';
import { letGracePass, letIncidentPass } from './let-pass.ts';
import type { Part } from './part.ts';

/** By the seed's table, in days; undefined: not kept, nothing to purge. */
const TENANTS = [
  { tenantId: 'hobby', plan: 'FREE', driftDays: 7, closedDays: undefined },
  { tenantId: 'studio', plan: 'PRO', driftDays: 30, closedDays: 180 },
  { tenantId: 'bureau', plan: 'AGENCY', driftDays: 90, closedDays: 365 },
  { tenantId: 'concern', plan: 'ENTERPRISE', driftDays: 180, closedDays: 2_555 },
] as const;
const CHECK_AGES_DAYS = [1, 6, 8, 29, 31, 89, 91, 179, 181] as const;
const INCIDENT_AGES_DAYS = [100, 200, 400, 2_600] as const;
const WORKFLOWS_PER_CHECK = 2;
const DAY_MS = 86_400_000;
const MINUTES_OPEN = 540;
const TABLES = ['drift_checks', 'drift_check_workflows', 'incidents', 'incident_payloads', 'approvals'] as const;

/** Drift checks, closed incidents and decided approvals of many ages, in one tenant a plan; then the nightly purge. */
export const plans: Part = async (stack, say) => {
  const before = await count(stack);
  for (const tenant of TENANTS) await fill(stack, tenant);
  say(`${TENANTS.length} tenants, one a plan, have drift checks of ${CHECK_AGES_DAYS.join(', ')} days`);
  say(`and closed incidents with a decided approval of ${INCIDENT_AGES_DAYS.join(', ')} days, and one that is open`);
  const full = await count(stack);
  const mistakes = await purge(stack, say);
  mistakes.push(...(await checkDashboards(stack)));
  const after = await count(stack);
  for (const tenant of TENANTS) {
    const expected = keptOf(tenant);
    for (const table of TABLES) {
      const what = `${tenant.tenantId}: ${table}`;
      const left = (after[what] ?? 0) - (before[what] ?? 0);
      if (left !== expected[table]) mistakes.push(`${what}: the sample left ${left}, ${expected[table]} expected`);
    }
  }
  const tables = TENANTS.map(({ tenantId, plan }) => showKept(`${plan} (${tenantId})`, tenantId, TABLES, full, after));
  return { table: tables.join('\n'), mistakes };
};

type Tenant = (typeof TENANTS)[number];

async function fill(stack: Stack, { tenantId, plan }: Tenant): Promise<void> {
  await stack.clients({ role: 'platform' }).retention.setTenantPlan({ tenantId, planName: plan, reason: 'sample' });
  await letGracePass(stack, tenantId);
  const { incidents } = stack.clients({ tenantId, role: 'admin' });
  const { environments } = await incidents.listEnvironments({});
  const environment = environments[0] ?? (await incidents.createEnvironment({ displayName: 'production' })).environment;
  const environmentId = environment?.id ?? '';
  const now = Date.now();
  for (const days of CHECK_AGES_DAYS.toReversed()) {
    await incidents.recordDriftCheck({
      environmentId,
      status: DriftStatus.DRIFT,
      checkTime: timestampFromMs(now - days * DAY_MS),
      workflows: [
        { workflow: 'billing', flag: DriftFlag.MODIFIED },
        { workflow: 'import', flag: DriftFlag.NOT_IN_GIT },
      ],
    });
  }
  for (const days of [...INCIDENT_AGES_DAYS, undefined]) {
    const opened = await incidents.openIncident({
      environmentId,
      title: 'billing drifted',
      driftSummary: { workflow: 'billing', lines: 12 },
    });
    const incidentId = opened.incident?.id ?? '';
    const { approval } = await incidents.requestApproval({ incidentId, requestedState: IncidentState.ACKNOWLEDGED });
    await incidents.decideApproval({ approvalId: approval?.id ?? '', decision: ApprovalState.APPROVED });
    if (days === undefined) continue;
    for (const state of ['ACKNOWLEDGED', 'STABILIZED', 'RECONCILED', 'CLOSED'] as const) {
      await incidents.transitionIncident({ incidentId, state: IncidentState[state] });
    }
    const ended = days * 1_440;
    await letIncidentPass(stack, tenantId, incidentId, { opened: ended + MINUTES_OPEN, ended });
  }
}

/** Every closed incident of the sample was open for MINUTES_OPEN, give or take how long its opening took. */
async function checkDashboards(stack: Stack): Promise<string[]> {
  const mistakes: string[] = [];
  for (const { tenantId } of TENANTS) {
    const { meanTimeToClose } = await stack.clients({ tenantId, role: 'viewer' }).incidents.getDriftDashboard({});
    const minutes = Number(meanTimeToClose?.seconds ?? Number.NaN) / 60;
    if (Math.abs(minutes - MINUTES_OPEN) > 1) {
      mistakes.push(`${tenantId}: the mean time to close is ${minutes} minutes, ${MINUTES_OPEN} expected`);
    }
  }
  return mistakes;
}

async function purge(stack: Stack, say: (line: string) => void): Promise<string[]> {
  const { retention } = stack.clients({ role: 'platform' });
  let summary: RetentionPurge | undefined;
  const tenantIds = TENANTS.map(({ tenantId }) => tenantId);
  for await (const { event } of retention.purge({ tenantIds, reason: 'sample' })) {
    if (event.case === 'summary') summary = event.value.purge;
  }
  if (summary?.state !== PurgeState.COMPLETE) return [`the retention purge ended as ${summary?.state}`];
  say(`the retention purge ${summary.id} is COMPLETE over ${summary.completeTenantCount} tenants`);
  return [];
}

/** What must be left of one tenant's, counted by hand. The open incident keeps what it has, whatever the plan. */
function keptOf({ driftDays, closedDays }: Tenant): Counts {
  const checks = CHECK_AGES_DAYS.filter((days) => days < driftDays).length;
  const closed = INCIDENT_AGES_DAYS.filter((days) => closedDays === undefined || days < closedDays).length;
  return {
    drift_checks: checks,
    drift_check_workflows: checks * WORKFLOWS_PER_CHECK,
    incidents: INCIDENT_AGES_DAYS.length + 1,
    incident_payloads: closed + 1,
    approvals: closed + 1,
  };
}

async function count(stack: Stack): Promise<Counts> {
  const counts: Record<string, number> = {};
  for (const { tenantId } of TENANTS) {
    const rows = await countRows(stack.superuserUrl('incident'), TABLES, [tenantId]);
    for (const [table, number] of Object.entries(rows)) counts[`${tenantId}: ${table}`] = number;
  }
  return counts;
}
