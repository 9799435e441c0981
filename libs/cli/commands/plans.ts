import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { type Command, InvalidArgumentError } from 'commander';
import {
  type Plan,
  type PlanWindow,
  type PurgeForecast,
  type RetentionWindow,
  type TenantPlan,
  WindowKind,
  WindowSource,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import type { UnplannedTenant } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import type { NewPlanWindow } from '#libs/client/plans.ts';
import type { CommandContext, Run } from '../context.ts';
import { EXIT, instantOf, nameOf, toTable } from '../output.ts';
import { instant, wholeNumber } from '../parse.ts';
import { UsageError } from '../usage-error.ts';

const MAX_DAYS = 36_500;
const MAX_TO_KEEP = 1_000_000_000;

/** A window in few words: `30 days`, `everything`, `not in the plan`. */
export function windowText(kind: WindowKind, days: number | undefined): string {
  switch (kind) {
    case WindowKind.DAYS:
      return `${days} days`;
    case WindowKind.KEEP_ALL:
      return 'everything';
    case WindowKind.NOT_APPLICABLE:
      return 'not in the plan';
    default:
      return '';
  }
}

/** What a change would make the next purge remove, one subject a row. */
export function forecastTable(forecasts: readonly PurgeForecast[]): string {
  const rows = forecasts.map((forecast) => [
    forecast.subject,
    String(forecast.expiredCount),
    String(forecast.currentExpiredCount),
    String(forecast.tenantCount),
    String(forecast.uncountedTenantCount),
    instantOf(forecast.effectTime) || 'the next purge',
  ]);
  return toTable(['SUBJECT', 'WOULD GO', 'GOES ANYWAY', 'TENANTS', 'NOT COUNTED', 'FROM'], rows);
}

/** A result that was not applied, above what it would make the next purge remove. */
export const previewText = (table: string, forecasts: readonly PurgeForecast[]): string =>
  `Nothing was changed. It would be:\n${table}\n\n${forecastTable(forecasts)}`;

const floorOf = (minToKeep: bigint | undefined): string => (minToKeep ? `and the newest ${minToKeep}` : '');

const planWindowRow = (window: PlanWindow) => [
  window.plan,
  window.subject,
  `${windowText(window.kind, window.retentionDays)} ${floorOf(window.minToKeep)}`.trim(),
  String(window.version),
  instantOf(window.recordTime),
  window.actor,
  window.reason,
];
const planWindowTable = (windows: readonly PlanWindow[]): string =>
  toTable(['PLAN', 'SUBJECT', 'KEPT', 'VERSION', 'SINCE', 'SET BY', 'REASON'], windows.map(planWindowRow));
const planTable = (plans: readonly Plan[]): string => planWindowTable(plans.flatMap(({ windows }) => windows));
const planText = (plan: Plan): string =>
  `${planTable([plan])}\n\n${plan.name} is in force for ${plan.tenantCount} tenants; its etag is ${plan.etag}`;

const tenantRow = (entry: TenantPlan) => [
  entry.tenantId,
  entry.planName || 'none',
  String(entry.version),
  instantOf(entry.effectiveTime),
  entry.actor,
  entry.reason,
];
const tenantTable = (plans: readonly TenantPlan[]): string =>
  toTable(['TENANT', 'PLAN', 'VERSION', 'FROM', 'SET BY', 'REASON'], plans.map(tenantRow));

const windowRow = (window: RetentionWindow) => [
  window.subjectName,
  `${windowText(window.kind, window.retentionDays)} ${floorOf(window.minExecutionsToKeep)}`.trim(),
  `${nameOf(WindowSource, window.source)} ${window.planName}`.trim(),
  instantOf(window.changeTime),
  windowText(window.nextKind, window.nextRetentionDays),
];
const windowTable = (windows: readonly RetentionWindow[]): string =>
  toTable(['SUBJECT', 'KEPT', 'BY', 'CHANGES', 'TO'], windows.map(windowRow));

/** Plans are upper case and tenants lower case, so one argument can be either. */
const isPlanName = (name: string | undefined): name is string => name !== undefined && /^[A-Z]/.test(name);

/** Reads `drift_checks=30d`, `executions=90d,min=100`, `approvals=keep` or `approvals=none`; collects them. */
function planWindow(text: string, before: readonly NewPlanWindow[] = []): readonly NewPlanWindow[] {
  const [, subject = '', kept = '', floor] = /^([a-z][a-z0-9_]*)=(\d+d|keep|none)(?:,min=(\d+))?$/.exec(text) ?? [];
  if (subject === '') {
    throw new InvalidArgumentError('It must be SUBJECT=30d, SUBJECT=30d,min=100, SUBJECT=keep or SUBJECT=none.');
  }
  const minToKeep = floor === undefined ? {} : { minToKeep: BigInt(wholeNumber({ min: 0, max: MAX_TO_KEEP })(floor)) };
  if (kept === 'keep') return [...before, { subject, kind: WindowKind.KEEP_ALL, ...minToKeep }];
  if (kept === 'none') return [...before, { subject, kind: WindowKind.NOT_APPLICABLE, ...minToKeep }];
  const retentionDays = wholeNumber({ min: 1, max: MAX_DAYS })(kept.slice(0, -1));
  return [...before, { subject, kind: WindowKind.DAYS, retentionDays, ...minToKeep }];
}

interface UpdateOptions {
  readonly window: readonly NewPlanWindow[];
  readonly reason: string;
  readonly create: boolean;
  readonly dryRun: boolean;
  readonly etag?: string;
}

interface SetOptions {
  readonly none: boolean;
  readonly effective?: Timestamp;
  readonly reason: string;
  readonly dryRun: boolean;
  readonly etag?: string;
}

async function updatePlan(
  { lethe, print }: CommandContext,
  name: string,
  { window: windows, reason, create: allowMissing, dryRun, etag }: UpdateOptions,
): Promise<number> {
  const update = { windows, reason, allowMissing, ...(etag === undefined ? {} : { etag }) };
  if (dryRun) {
    const preview = await lethe.retention.plans.previewUpdate(name, update);
    print(preview, () => previewText(planTable([preview.plan]), preview.forecasts));
    return EXIT.ok;
  }
  const plan = await lethe.retention.plans.update(name, update);
  print(plan, () => planText(plan));
  return EXIT.ok;
}

async function setTenantPlan(
  { lethe, print }: CommandContext,
  tenantId: string,
  plan: string | undefined,
  { none, effective, reason, dryRun, etag }: SetOptions,
): Promise<number> {
  if (none === (plan !== undefined)) throw new UsageError('give either a plan or --none');
  const entry = {
    plan: plan?.toUpperCase() ?? null,
    reason,
    ...(effective ? { effectiveTime: effective } : {}),
    ...(etag === undefined ? {} : { etag }),
  };
  if (dryRun) {
    const preview = await lethe.retention.tenants.previewSet(tenantId, entry);
    print(preview, () => previewText(tenantTable([preview.tenantPlan]), preview.forecasts));
    return EXIT.ok;
  }
  const set = await lethe.retention.tenants.set(tenantId, entry);
  print(set, () => tenantTable([set]));
  return EXIT.ok;
}

async function showWindows({ lethe, print }: CommandContext, name: string | undefined): Promise<number> {
  if (isPlanName(name)) {
    const plan = await lethe.retention.plans.get(name);
    print(plan, () => planText(plan));
    return EXIT.ok;
  }
  const resolved = await lethe.retention.tenants.resolve(name);
  print(resolved, () => windowTable(resolved.windows));
  return EXIT.ok;
}

async function showHistory({ lethe, print }: CommandContext, name: string | undefined): Promise<number> {
  if (isPlanName(name)) {
    const windows = await Array.fromAsync(lethe.retention.plans.history(name));
    print(windows, () => planWindowTable(windows));
    return EXIT.ok;
  }
  const filter = { showHistory: true, ...(name === undefined ? {} : { tenantId: name }) };
  const entries = await Array.fromAsync(lethe.retention.tenants.list(filter));
  print(entries, () => tenantTable(entries));
  return EXIT.ok;
}

/**
 * `lethe plans …`. `get`, `windows` and `history` take the name of a plan, in upper case, or a tenant; without one they
 * are about `--tenant`.
 */
export function addPlanCommands(program: Command, run: Run): void {
  const plans = program.command('plans').description('what plans keep, and which plan a tenant has');

  plans
    .command('list')
    .description('all plans with their windows in force')
    .action(() =>
      run(async ({ lethe, print }) => {
        const found = await Array.fromAsync(lethe.retention.plans.list());
        print(found, () => planTable(found));
        return EXIT.ok;
      }),
    );

  plans
    .command('get [plan-or-tenant]')
    .description('a plan with its windows, or the plan that a tenant has')
    .action((name?: string) =>
      run(async (context) => {
        if (isPlanName(name)) return showWindows(context, name);
        const entry = await context.lethe.retention.tenants.get(name);
        context.print(entry, () => tenantTable([entry]));
        return EXIT.ok;
      }),
    );

  plans
    .command('windows [plan-or-tenant]')
    .description("how long a plan keeps what; how long a tenant's data is kept, why, and when that changes")
    .action((name?: string) => run((context) => showWindows(context, name)));

  plans
    .command('history [plan-or-tenant]')
    .description("every window of a plan, or every plan of a tenant's, newest first")
    .action((name?: string) => run((context) => showHistory(context, name)));

  plans
    .command('update')
    .description('change windows of a plan, or create one; subjects that are not named keep their windows')
    .argument('<plan>')
    .requiredOption('--window <window>', 'SUBJECT=30d, SUBJECT=30d,min=100, SUBJECT=keep or SUBJECT=none', planWindow)
    .requiredOption('--reason <reason>', 'why, for history and audit')
    .option('--create', 'create the plan if it does not exist', false)
    .option('--dry-run', 'change nothing; count what the next purge would remove', false)
    .option('--etag <etag>', 'only if the plan still has this etag')
    .action((name: string, options: UpdateOptions) =>
      run((context) => updatePlan(context, name, options), { asPlatform: true }),
    );

  plans
    .command('set')
    .description('give a tenant a plan')
    .argument('<tenant>')
    .argument('[plan]')
    .option('--none', 'no plan: everything is kept once grace is over', false)
    .option('--effective <instant>', 'from then on; now by default', instant)
    .option('--reason <reason>', 'why, for history and audit', '')
    .option('--dry-run', 'change nothing; count what the next purge would remove', false)
    .option('--etag <etag>', "only if the tenant's newest entry still has this etag")
    .action((tenantId: string, plan: string | undefined, options: SetOptions) =>
      run((context) => setTenantPlan(context, tenantId, plan, options), { asPlatform: true }),
    );
}

const unplannedRow = ({ tenantId, subjects, firstSeenTime }: UnplannedTenant) => [
  tenantId,
  subjects.join(', '),
  instantOf(firstSeenTime),
];

/** `lethe tenants …`. */
export function addTenantCommands(program: Command, run: Run): void {
  const tenants = program.command('tenants').description('tenants with a plan, and tenants with data and without one');

  tenants
    .command('list')
    .description('the plans in force by tenant')
    .option('--plan <plan>', 'only tenants on this plan')
    .action(({ plan }: { plan?: string }) =>
      run(
        async ({ lethe, print }) => {
          const filter = plan === undefined ? {} : { planName: plan.toUpperCase() };
          const found = await Array.fromAsync(lethe.retention.tenants.list(filter));
          print(found, () => tenantTable(found));
          return EXIT.ok;
        },
        { asPlatform: true },
      ),
    );

  tenants
    .command('unplanned')
    .description('tenants that have data and neither a plan nor a policy: nothing of theirs is ever purged')
    .action(() =>
      run(
        async ({ lethe, print }) => {
          const found = await Array.fromAsync(lethe.retention.tenants.unplanned());
          print(found, () => toTable(['TENANT', 'HAS', 'SINCE'], found.map(unplannedRow)));
          return EXIT.ok;
        },
        { asPlatform: true },
      ),
    );
}
