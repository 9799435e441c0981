import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { PurgeState, type RetentionPurge } from '#gen/lethe/retention/v1/retention_pb.ts';
import { ExecutionState } from '#gen/lethe/run/v1/run_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Stack } from '../stack.ts';
import { type Counts, countRows, showKept } from './evidence.ts';
import type { Part } from './part.ts';

const DAY_MS = 86_400_000;
const TABLES = ['executions'] as const;

/** How old an execution is, and whether it still runs. */
interface Aged {
  readonly days: number;
  readonly isRunning?: boolean;
}

// Counted by hand. A running execution that is less than stale_after_days past its window stays.
const BUREAU: readonly Aged[] = [
  ...[1, 10, 29].map((days) => ({ days })),
  { days: 30.5, isRunning: true },
  ...[31, 60, 200, 400].map((days) => ({ days })),
];
const HOBBY: readonly Aged[] = [1, 8, 9, 20, 50].map((days) => ({ days }));
const POLICIES = [
  { tenantId: 'bureau', title: '30 days (bureau)', retentionDays: 30, minExecutionsToKeep: 0n },
  { tenantId: 'hobby', title: '7 days, newest 4 (hobby)', retentionDays: 7, minExecutionsToKeep: 4n },
] as const;

/** Executions of many ages in two tenants with a policy of their own; then a purge of executions alone. */
export const executions: Part = async (stack, say) => {
  const before = await count(stack);
  for (const { tenantId, retentionDays, minExecutionsToKeep } of POLICIES) {
    await stack
      .clients({ tenantId, role: 'admin' })
      .retention.upsertExecutionPolicy({ retentionDays, minExecutionsToKeep });
  }
  await record(stack, 'bureau', BUREAU);
  // Once: what the floor kept at an earlier start is still there.
  if (before['hobby: executions'] === 0) await record(stack, 'hobby', HOBBY);
  const daysOf = (aged: readonly Aged[]) => aged.map(({ days }) => days).join(', ');
  say(`bureau keeps executions for 30 days and has some of ${daysOf(BUREAU)} days; that of 30.5 days is running`);
  say(`hobby keeps executions for 7 days, and at least the newest 4, and has some of ${daysOf(HOBBY)} days`);
  const full = await count(stack);
  const mistakes = await purge(stack, say);
  const after = await count(stack);
  const left = {
    bureau: (after['bureau: executions'] ?? 0) - (before['bureau: executions'] ?? 0),
    hobby: after['hobby: executions'],
  };
  if (left.bureau !== 4) mistakes.push(`bureau: executions: the sample left ${left.bureau}, 4 expected`);
  if (left.hobby !== 4) mistakes.push(`hobby: executions: ${left.hobby} are left, 4 expected`);
  const tables = POLICIES.map(({ tenantId, title }) => showKept(title, tenantId, TABLES, full, after));
  return { table: tables.join('\n'), mistakes };
};

async function record(stack: Stack, tenantId: string, aged: readonly Aged[]): Promise<void> {
  const now = Date.now();
  await stack.clients({ tenantId, role: 'member' }).runs.recordExecutions({
    executions: aged.map(({ days, isRunning = false }) => {
      const begun = now - days * DAY_MS;
      return {
        id: newId(),
        workflow: 'billing',
        status: isRunning ? 'running' : 'success',
        state: isRunning ? ExecutionState.RUNNING : ExecutionState.ENDED,
        createTime: timestampFromMs(begun),
        startTime: timestampFromMs(begun),
        ...(isRunning ? {} : { finishTime: timestampFromMs(begun + 60_000) }),
      };
    }),
  });
}

async function purge(stack: Stack, say: (line: string) => void): Promise<string[]> {
  const { retention } = stack.clients({ role: 'platform' });
  let summary: RetentionPurge | undefined;
  const tenantIds = POLICIES.map(({ tenantId }) => tenantId);
  for await (const { event } of retention.purge({ tenantIds, subjects: ['executions'], reason: 'sample' })) {
    if (event.case === 'summary') summary = event.value.purge;
  }
  if (summary?.state !== PurgeState.COMPLETE) return [`the purge of executions ended as ${summary?.state}`];
  say(`the purge ${summary.id} of executions alone is COMPLETE over ${summary.completeTenantCount} tenants`);
  return [];
}

async function count(stack: Stack): Promise<Counts> {
  const counts: Record<string, number> = {};
  for (const { tenantId } of POLICIES) {
    const { executions: rows = 0 } = await countRows(stack.superuserUrl('run'), TABLES, [tenantId]);
    counts[`${tenantId}: executions`] = rows;
  }
  return counts;
}
