import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { type Command, InvalidArgumentError } from 'commander';
import {
  type Plan,
  type PlanWindow,
  type RetentionWindow,
  type TenantPlan,
  WindowKind,
  WindowSource,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import type { NewPlanWindow } from '#libs/client/plans.ts';
import type { CommandContext, Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { confirmShortening, previewText } from '../forecast.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { EXIT, instantOf, nameOf } from '../output.ts';
import { instant, tenantId, wholeNumber } from '../parse.ts';
import { makeTable, type Text } from '../table.ts';
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

const floorOf = (minToKeep: bigint | undefined): string => (minToKeep ? `and the newest ${minToKeep}` : '');

const planWindowTable = makeTable<PlanWindow>({
  PLAN: ({ plan }) => plan,
  SUBJECT: ({ subject }) => subject,
  KEPT: ({ kind, retentionDays, minToKeep }) => `${windowText(kind, retentionDays)} ${floorOf(minToKeep)}`.trim(),
  VERSION: ({ version }) => String(version),
  SINCE: ({ recordTime }) => instantOf(recordTime),
  'SET BY': ({ actor }) => actor,
  REASON: ({ reason }) => reason,
});
const planTable = (plans: readonly Plan[]) => planWindowTable(plans.flatMap(({ windows }) => windows));
const planText = (plan: Plan): Text => [
  planTable([plan]),
  '',
  `${plan.name} is in force for ${plan.tenantCount} tenants; its etag is ${plan.etag}`,
];

/** Tenants with their plans, one a row. */
export const tenantTable = makeTable<TenantPlan>({
  TENANT: ({ tenantId }) => tenantId,
  PLAN: ({ planName }) => planName || 'none',
  VERSION: ({ version }) => String(version),
  FROM: ({ effectiveTime }) => instantOf(effectiveTime),
  'SET BY': ({ actor }) => actor,
  REASON: ({ reason }) => reason,
});

const windowTable = makeTable<RetentionWindow>({
  SUBJECT: ({ subjectName }) => subjectName,
  KEPT: ({ kind, retentionDays, minExecutionsToKeep }) =>
    `${windowText(kind, retentionDays)} ${floorOf(minExecutionsToKeep)}`.trim(),
  BY: ({ source, planName }) => `${nameOf(WindowSource, source)} ${planName}`.trim(),
  CHANGES: ({ changeTime }) => instantOf(changeTime),
  TO: ({ nextKind, nextRetentionDays }) => windowText(nextKind, nextRetentionDays),
});

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
  readonly yes: boolean;
  readonly etag?: string;
}

interface SetOptions {
  readonly of?: string;
  readonly none: boolean;
  readonly effective?: Timestamp;
  readonly reason: string;
  readonly dryRun: boolean;
  readonly yes: boolean;
  readonly etag?: string;
}

interface ShowOptions {
  readonly of?: string;
}

async function updatePlan(
  context: CommandContext,
  name: string,
  { window: windows, reason, create: allowMissing, dryRun, yes, etag }: UpdateOptions,
): Promise<number> {
  const { lethe, print } = context;
  const update = { windows, reason, allowMissing, ...defined({ etag }) };
  const preview = async () => {
    const previewed = await lethe.retention.plans.previewUpdate(name, update);
    return { ...previewed, table: planTable([previewed.plan]) };
  };
  if (dryRun) {
    const { table, ...previewed } = await preview();
    print(previewed, () => previewText(table, previewed.forecasts));
    return EXIT.ok;
  }
  await confirmShortening(context, { what: `changing the plan ${name}`, word: name, yes, preview });
  const plan = await lethe.retention.plans.update(name, update);
  print(plan, () => planText(plan));
  return EXIT.ok;
}

/** The tenant and the plan: `set PLAN --of TENANT`, or as it was once written, `set TENANT PLAN`. */
function setArguments(words: readonly string[], { of, none }: SetOptions): [tenant: string, plan: string | undefined] {
  const [first, second, ...more] = words;
  if (more.length > 0) throw new UsageError('too many arguments: give a plan, and the tenant with --of');
  const [tenant, plan] = of === undefined && (second !== undefined || none) ? [first, second] : [of, first];
  if (tenant === undefined) throw new UsageError('say which tenant: --of TENANT');
  if (of !== undefined && second !== undefined) throw new UsageError('give the tenant once, with --of');
  if (none === (plan !== undefined)) throw new UsageError('give either a plan or --none');
  return [tenantId(tenant), plan];
}

async function setTenantPlan(context: CommandContext, words: readonly string[], options: SetOptions): Promise<number> {
  const { lethe, print } = context;
  const { effective, reason, dryRun, yes, etag } = options;
  const [tenant, plan] = setArguments(words, options);
  const entry = {
    plan: plan?.toUpperCase() ?? null,
    reason,
    ...defined({ effectiveTime: effective, etag }),
  };
  const preview = async () => {
    const previewed = await lethe.retention.tenants.previewSet(tenant, entry);
    return { ...previewed, table: tenantTable([previewed.tenantPlan]) };
  };
  if (dryRun) {
    const { table, ...previewed } = await preview();
    print(previewed, () => previewText(table, previewed.forecasts));
    return EXIT.ok;
  }
  await confirmShortening(context, { what: `changing the plan of ${tenant}`, word: tenant, yes, preview });
  const set = await lethe.retention.tenants.set(tenant, entry);
  print(set, () => tenantTable([set]));
  return EXIT.ok;
}

async function showWindows({ lethe, print }: CommandContext, plan: string | undefined, of: string | undefined) {
  if (plan !== undefined) {
    const found = await lethe.retention.plans.get(plan);
    print(found, () => planText(found));
    return EXIT.ok;
  }
  const resolved = await lethe.retention.tenants.resolve(of);
  print(resolved, () => windowTable(resolved.windows));
  return EXIT.ok;
}

async function showHistory(
  context: CommandContext,
  plan: string | undefined,
  of: string | undefined,
  list: ListOptions,
) {
  if (plan !== undefined) {
    await printList(context, context.lethe.retention.plans.history(plan), list, planWindowTable);
    return EXIT.ok;
  }
  const filter = { showHistory: true, ...(of === undefined ? {} : { tenantId: of }) };
  await printList(context, context.lethe.retention.tenants.list(filter), list, tenantTable);
  return EXIT.ok;
}

/** What `get`, `windows` and `history` are about: a plan, the tenant of --of, or neither. */
function aboutOf(name: string | undefined, { of }: ShowOptions): { plan: string | undefined; of: string | undefined } {
  if (name === undefined) return { plan: undefined, of };
  if (of !== undefined) throw new UsageError('give either a plan or --of TENANT');
  // Tenants were once given as the argument; they are lower case, and plans upper case.
  return isPlanName(name) ? { plan: name, of } : { plan: undefined, of: tenantId(name) };
}

const OF = '--of <tenant>';

/** `lethe plans …`. */
export function addPlanCommands(program: Command, run: Run): void {
  const plans = program.command('plans').description('what plans keep, and which plan a tenant has');
  addPlanReadCommands(plans, run);

  addExamples(
    plans
      .command('update <plan>')
      .description('change windows of a plan, or create one; subjects that are not named keep their windows')
      .requiredOption('--window <window>', 'SUBJECT=30d, SUBJECT=30d,min=100, SUBJECT=keep or SUBJECT=none', planWindow)
      .requiredOption('--reason <reason>', 'why, for history and audit')
      .option('--create', 'create the plan if it does not exist', false)
      .option('--dry-run', 'change nothing; count what the next purge would remove', false)
      .option('--yes', 'do not ask where less would be kept', false)
      .option('--etag <etag>', 'only if the plan still has this etag')
      .action((name: string, options: UpdateOptions) => run((context) => updatePlan(context, name, options))),
    "lethe plans update TRIAL --create --reason 'a new offer' --window drift_checks=14d --window approvals=keep",
    "lethe plans update TRIAL --reason 'too long' --window drift_checks=3d --dry-run",
  );

  addExamples(
    plans
      .command('set [plan]')
      .description('give a tenant a plan')
      .allowExcessArguments()
      .option(OF, 'which tenant', tenantId)
      .option('--none', 'no plan: everything is kept once grace is over', false)
      .option('--effective <instant>', 'from then on; now by default', instant)
      .option('--reason <reason>', 'why, for history and audit', '')
      .option('--dry-run', 'change nothing; count what the next purge would remove', false)
      .option('--yes', 'do not ask where less would be kept', false)
      .option('--etag <etag>', "only if the tenant's newest entry still has this etag")
      .action((_: string | undefined, options: SetOptions, command: Command) =>
        run((context) => setTenantPlan(context, command.args, options)),
      ),
    "lethe plans set PRO --of acme --reason 'signed up'",
    'lethe plans set --none --of acme --dry-run',
  );
}

function addPlanReadCommands(plans: Command, run: Run): void {
  addExamples(
    addLimit(plans.command('list').description('all plans with their windows in force')).action(
      (options: ListOptions) =>
        run(async (context) => {
          await printList(context, context.lethe.retention.plans.list(), options, planTable);
        }),
    ),
    'lethe plans list',
  );

  addExamples(
    plans
      .command('get [plan]')
      .description('a plan with its windows; without one the plan that a tenant has')
      .option(OF, "that tenant's; your own by default", tenantId)
      .action((name: string | undefined, options: ShowOptions) =>
        run(async (context) => {
          const { plan, of } = aboutOf(name, options);
          if (plan !== undefined) return showWindows(context, plan, of);
          const entry = await context.lethe.retention.tenants.get(of);
          context.print(entry, () => tenantTable([entry]));
          return EXIT.ok;
        }),
      ),
    'lethe plans get PRO',
    'lethe plans get --of acme',
  );

  addExamples(
    plans
      .command('windows [plan]')
      .description("how long a plan keeps what; without one how long a tenant's data is kept, why, and what changes")
      .option(OF, "that tenant's; your own by default", tenantId)
      .action((name: string | undefined, options: ShowOptions) =>
        run((context) => {
          const { plan, of } = aboutOf(name, options);
          return showWindows(context, plan, of);
        }),
      ),
    'lethe plans windows --of acme',
    'lethe --tenant acme plans windows',
  );

  addExamples(
    addLimit(
      plans
        .command('history [plan]')
        .description('every window of a plan; without one every plan that a tenant had; newest first'),
    )
      .option(OF, "that tenant's; your own by default", tenantId)
      .action((name: string | undefined, { of: wanted, ...list }: ShowOptions & ListOptions) =>
        run((context) => {
          const { plan, of } = aboutOf(name, wanted === undefined ? {} : { of: wanted });
          return showHistory(context, plan, of, list);
        }),
      ),
    'lethe plans history PRO',
    'lethe plans history --of acme',
  );
}
