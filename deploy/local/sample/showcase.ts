import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  ApprovalState,
  DriftFlag,
  DriftStatus,
  IncidentState,
  PayloadState,
} from '#gen/lethe/incident/v1/incident_pb.ts';
import { PurgeState, type RetentionPurge } from '#gen/lethe/retention/v1/retention_pb.ts';
import { ExecutionState, RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Stack } from '../stack.ts';
import { type Counts, showStages } from './evidence.ts';
import { letGracePass, letIncidentPass, letPurgePass } from './let-pass.ts';
import type { Part } from './part.ts';

/** What the console shows of a tenant that has worked for some weeks. */
interface ShowTenant {
  readonly tenantId: string;
  readonly plan: string;
  /** How many days ago purges ran, each with so many drift checks to remove. */
  readonly nights: readonly (readonly [days: number, checks: number])[];
  /** Executions by age: within 30 days before the purge, within 30 days after it, and beyond 30 days. */
  readonly executions: { readonly young: number; readonly later: number; readonly old: number };
  /** Whether more of the executions would go than the ceiling lets. */
  readonly isHeld: boolean;
}

const TENANTS: readonly ShowTenant[] = [
  {
    tenantId: 'globex',
    plan: 'PRO',
    nights: [
      [9, 12],
      [7, 7],
      [6, 9],
      [4, 15],
      [3, 5],
      [2, 11],
      [1, 8],
    ],
    executions: { young: 900, later: 700, old: 1_300 },
    isHeld: true,
  },
  {
    tenantId: 'atelier',
    plan: 'AGENCY',
    nights: [
      [3, 6],
      [1, 4],
    ],
    executions: { young: 300, later: 60, old: 0 },
    isHeld: false,
  },
];
const MINUTES_A_DAY = 1_440;
const DAY_MS = 86_400_000;
const EXECUTIONS_A_CALL = 1_000;
const STATES = ['DETECTED', 'ACKNOWLEDGED', 'STABILIZED', 'RECONCILED', 'CLOSED'] as const;
const SUMMARY = {
  compared_with: 'main@4f21c9e',
  modified: ['billing', 'import contacts'],
  not_in_git: ['hotfix 12 March'],
  workflows: [
    { workflow: 'billing', nodes_changed: 3, credentials_changed: false },
    { workflow: 'import contacts', nodes_changed: 1, credentials_changed: true },
  ],
};

/** What a tenant must have in the end, counted by hand. */
const EXPECTED: Readonly<Record<string, Counts>> = {
  globex: { 'runs shown': 7, 'open incidents': 4, 'incidents purged': 1, executions: 2_900, 'purges held': 1 },
  atelier: { 'runs shown': 9, 'open incidents': 4, 'incidents purged': 2, executions: 360, 'purges held': 0 },
};

/** Two tenants with something in every state, for those who look at the console. Filled once. */
export const showcase: Part = async (stack, say) => {
  const mistakes: string[] = [];
  for (const tenant of TENANTS) {
    const { incidents } = stack.clients({ tenantId: tenant.tenantId, role: 'admin' });
    const { environments } = await incidents.listEnvironments({});
    if (environments.some(({ displayName }) => displayName === 'production')) continue;
    mistakes.push(...(await fill(stack, tenant)));
    const counts = await count(stack, tenant.tenantId);
    for (const [what, expected] of Object.entries(EXPECTED[tenant.tenantId] ?? {})) {
      if (counts[what] !== expected)
        mistakes.push(`${tenant.tenantId}: ${what}: ${counts[what]}, ${expected} expected`);
    }
    say(`${tenant.tenantId} has runs, environments, incidents, executions and purges of some weeks`);
  }
  const shown = await Promise.all(
    TENANTS.map(async ({ tenantId }) => [tenantId, await count(stack, tenantId)] as const),
  );
  return { table: showStages('in the console', shown), mistakes };
};

async function fill(stack: Stack, tenant: ShowTenant): Promise<string[]> {
  const { tenantId, plan } = tenant;
  await stack
    .clients({ role: 'platform' })
    .retention.setTenantPlan({ tenantId, planName: plan, reason: 'contract signed' });
  await letGracePass(stack, tenantId);
  const runId = await fillRuns(stack, tenantId);
  await fillIncidents(stack, tenant, runId);
  return fillExecutions(stack, tenant);
}

/** A run in each state that a caller can bring it into, one that is hidden and one of which a receipt is left. */
async function fillRuns(stack: Stack, tenantId: string): Promise<string> {
  const { runs } = stack.clients({ tenantId, role: 'admin', subject: `ada@${tenantId}` });
  const start = async (displayName: string): Promise<string> => {
    const { run } = await runs.createRun({ workflow: 'quarterly-report', displayName });
    const runId = run?.id ?? '';
    await runs.recordStep({ runId, name: 'collect', state: StepState.RUNNING, participants: ['job'] });
    return runId;
  };
  const finish = async (displayName: string, state: RunState, error = ''): Promise<string> => {
    const runId = await start(displayName);
    const isDone = state === RunState.COMPLETED;
    await runs.recordStep({ runId, name: 'collect', state: isDone ? StepState.COMPLETED : StepState.FAILED, error });
    await runs.finishRun({ runId, state, error });
    return runId;
  };
  await start('Q4, being collected');
  const completed = await finish('Q3, delivered', RunState.COMPLETED);
  await finish('Q2, delivered', RunState.COMPLETED);
  await finish('Q1, source unreachable', RunState.FAILED, 'The source did not answer within 30 s.');
  const failed = await start('Q1, second attempt');
  await runs.failRun({ runId: failed, error: 'The figures do not add up.' });
  await finish('Forecast, not needed', RunState.CANCELLED);
  const hidden = await finish('Draft of Q3', RunState.COMPLETED);
  await runs.deleteRun({ runId: hidden, reason: 'replaced by the final one' });
  const purged = await finish('Pilot of last year', RunState.COMPLETED);
  const { deletion } = await runs.purgeRun({ runId: purged, reason: 'contract ended' });
  for await (const _ of runs.watchDeletion({ deletionId: deletion?.id ?? '' })) {
    // To the end of the stream, which is when the purge has ended.
  }
  return completed;
}

/** Environments with every badge, incidents in every state, and purges that took checks and a payload. */
async function fillIncidents(stack: Stack, { tenantId, nights }: ShowTenant, runId: string): Promise<void> {
  const { incidents } = stack.clients({ tenantId, role: 'admin', subject: `grace@${tenantId}` });
  const environment = async (displayName: string): Promise<string> =>
    (await incidents.createEnvironment({ displayName })).environment?.id ?? '';
  const [production, staging, archive] = [
    await environment('production'),
    await environment('staging'),
    await environment('archive'),
  ];
  await environment('sandbox');
  const check = (environmentId: string, status: DriftStatus, minutesAgo: number) =>
    incidents.recordDriftCheck({
      environmentId,
      status,
      checkTime: timestampFromMs(Date.now() - minutesAgo * 60_000),
      workflows:
        status === DriftStatus.DRIFT
          ? [
              { workflow: 'billing', flag: DriftFlag.MODIFIED },
              { workflow: 'import contacts', flag: DriftFlag.MODIFIED },
              { workflow: 'hotfix 12 March', flag: DriftFlag.NOT_IN_GIT },
            ]
          : [],
    });

  const openOne = async (title: string, reached: number, life: { opened: number; ended: number }, more = {}) => {
    const { incident } = await incidents.openIncident({
      environmentId: production,
      title,
      driftSummary: SUMMARY,
      ...more,
    });
    const incidentId = incident?.id ?? '';
    const { approval } = await incidents.requestApproval({
      incidentId,
      requestedState: IncidentState.ACKNOWLEDGED,
      notes: 'The change was made by hand during the outage.',
    });
    if (reached > 0) {
      await incidents.decideApproval({
        approvalId: approval?.id ?? '',
        decision: ApprovalState.APPROVED,
        notes: 'Known, go on.',
      });
    }
    for (const state of STATES.slice(1, reached + 1)) {
      await incidents.transitionIncident({
        incidentId,
        state: IncidentState[state],
        note: `${state.toLowerCase()} by the team on duty`,
      });
    }
    await letIncidentPass(stack, tenantId, incidentId, life);
  };
  await openOne('Payload long gone', 4, { opened: 800 * MINUTES_A_DAY, ended: 799 * MINUTES_A_DAY });
  await openOne('Credentials of the importer changed', 4, { opened: 12_000, ended: 11_300 });
  await openOne('Billing differs from git', 3, { opened: 5_000, ended: 300 }, { runId });
  await openOne('Importer was edited by hand', 2, { opened: 2_900, ended: 1_200 });
  await openOne('Hotfix is not in git', 1, { opened: 700, ended: 640 });
  await openOne('Billing drifted again', 0, { opened: 35, ended: 35 });

  const minutesOld = 100 * MINUTES_A_DAY;
  for (const [days, checks] of nights) {
    for (let index = 0; index < checks; index += 1) {
      await check(archive, DriftStatus.IN_SYNC, minutesOld + days * MINUTES_A_DAY + index);
    }
    const subjects = ['drift_checks', 'incident_payloads', 'approvals'];
    const ended = await purge(stack, { tenantIds: [tenantId], subjects, reason: 'nightly' });
    await letPurgePass(stack, ended?.id ?? '', days);
  }
  for (const hours of [72, 48, 24, 1]) await check(staging, DriftStatus.IN_SYNC, hours * 60);
  for (const hours of [70, 46, 22]) await check(production, DriftStatus.IN_SYNC, hours * 60);
  await check(production, DriftStatus.DRIFT, 5);
}

/** Executions of some weeks; where the tenant's are held, so many are old that a purge waits for a decision. */
async function fillExecutions(stack: Stack, { tenantId, executions, isHeld }: ShowTenant): Promise<string[]> {
  const { retention } = stack.clients({ tenantId, role: 'admin', subject: `ada@${tenantId}` });
  await retention.upsertExecutionPolicy({ retentionDays: 30, minExecutionsToKeep: 100n });
  await record(stack, tenantId, executions.old, [31, 60]);
  await record(stack, tenantId, executions.young, [0.05, 29]);
  if (isHeld) {
    const held = await purge(stack, { tenantIds: [tenantId], subjects: ['executions'], reason: 'nightly' });
    if (held?.state !== PurgeState.PARTIAL || held.heldTenantCount !== 1) {
      return [`${tenantId}: the purge of executions was not held but ended as ${held?.state}`];
    }
  }
  // With these it would not be held again: the next nightly purge of all tenants goes through.
  await record(stack, tenantId, executions.later, [0.01, 28]);
  return [];
}

/** Records executions evenly between two ages in days; the youngest are still running or queued. */
async function record(
  stack: Stack,
  tenantId: string,
  total: number,
  [from, to]: readonly [number, number],
): Promise<void> {
  const { runs } = stack.clients({ tenantId, role: 'member' });
  const workflows = ['billing', 'sync contacts', 'import contacts', 'quarterly-report'];
  const now = Date.now();
  const all = Array.from({ length: total }, (_, index) => {
    // Busier on some days than on others, and the same at every start.
    const share = index / total;
    const days = from + (to - from) * (share + 0.012 * Math.sin(share * 40));
    const begun = now - Math.round(Math.max(0.001, days) * DAY_MS);
    const state =
      days > 1 || index > 8 ? ExecutionState.ENDED : index % 3 ? ExecutionState.RUNNING : ExecutionState.QUEUED;
    return {
      id: newId(),
      workflow: workflows[(index * 7) % workflows.length] ?? '',
      status: state === ExecutionState.ENDED ? (index % 17 === 0 ? 'error' : 'success') : '',
      state,
      createTime: timestampFromMs(begun),
      ...(state === ExecutionState.QUEUED ? {} : { startTime: timestampFromMs(begun) }),
      ...(state === ExecutionState.ENDED
        ? { finishTime: timestampFromMs(begun + 2_000 + ((index * 977) % 90_000)) }
        : {}),
    };
  });
  for (let index = 0; index < all.length; index += EXECUTIONS_A_CALL) {
    await runs.recordExecutions({ executions: all.slice(index, index + EXECUTIONS_A_CALL) });
  }
}

async function purge(
  stack: Stack,
  request: { tenantIds: string[]; subjects: string[]; reason: string },
): Promise<RetentionPurge | undefined> {
  let summary: RetentionPurge | undefined;
  for await (const { event } of stack
    .clients({ role: 'platform', subject: 'nightly@platform' })
    .retention.purge(request)) {
    if (event.case === 'summary') summary = event.value.purge;
  }
  return summary;
}

async function count(stack: Stack, tenantId: string): Promise<Counts> {
  const { runs, incidents, retention } = stack.clients({ tenantId, role: 'viewer' });
  const [shown, dashboard, listed, counted, purges] = await Promise.all([
    runs.listRuns({ pageSize: 200 }),
    incidents.getDriftDashboard({}),
    incidents.listIncidents({ pageSize: 200 }),
    Promise.all(
      [0, 31].map((days) =>
        runs.countExecutions({ lastDay: new Date(Date.now() - days * DAY_MS).toISOString().slice(0, 10) }),
      ),
    ),
    retention.listPurges({ pageSize: 200 }),
  ]);
  return {
    'runs shown': shown.runs.length,
    'open incidents': Number(dashboard.openIncidentCount),
    'incidents purged': listed.incidents.filter(({ payloadState }) => payloadState === PayloadState.PURGED).length,
    executions: counted.flatMap(({ counts }) => counts).reduce((sum, one) => sum + Number(one.count), 0),
    'purges held': purges.purges.filter(({ heldTenantCount }) => heldTenantCount > 0).length,
  };
}
