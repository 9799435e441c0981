import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import {
  Plan,
  RetentionSubject,
  type RetentionWindow,
  type TenantPlan,
  WindowKind,
  WindowSource,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import type { Run } from '../context.ts';
import { EXIT, instantOf, nameOf, toTable } from '../output.ts';
import { enumNames, enumValue, instant } from '../parse.ts';

const rowOf = (entry: TenantPlan) => [
  entry.tenantId,
  nameOf(Plan, entry.plan),
  String(entry.version),
  instantOf(entry.effectiveTime),
  entry.actor,
  entry.reason,
];
const tableOf = (plans: readonly TenantPlan[]) =>
  toTable(['TENANT', 'PLAN', 'VERSION', 'FROM', 'SET BY', 'REASON'], plans.map(rowOf));
const windowRow = (window: RetentionWindow) => [
  nameOf(RetentionSubject, window.subject),
  window.kind === WindowKind.DAYS ? `${window.retentionDays} days` : nameOf(WindowKind, window.kind),
  nameOf(WindowSource, window.source),
  instantOf(window.changeTime),
];

/** `lethe plans …`. Tenants are named as arguments; `get` and `windows` without one are about `--tenant`. */
export function addPlanCommands(program: Command, run: Run): void {
  const plans = program.command('plans').description("tenants' plans, and the windows they give");

  plans
    .command('set')
    .description('give a tenant a plan')
    .argument('<tenant>')
    .argument('<plan>', `one of ${enumNames(Plan).join(', ')}`, enumValue(Plan))
    .option('--effective <instant>', 'from then on; now by default', instant)
    .option('--reason <reason>', 'why, for history and audit', '')
    .action((tenantId: string, plan: Plan, { effective, reason }: { effective?: Timestamp; reason: string }) =>
      run(
        async ({ lethe, print }) => {
          const from = effective ? { effectiveTime: effective } : {};
          const entry = await lethe.retention.setPlan({ tenantId, plan, reason, ...from });
          print(entry, () => tableOf([entry]));
          return EXIT.ok;
        },
        { asPlatform: true },
      ),
    );

  plans
    .command('get [tenant]')
    .description('the plan in force')
    .action((tenantId?: string) =>
      run(async ({ lethe, print }) => {
        const entry = await lethe.retention.getPlan(tenantId);
        print(entry, () => tableOf([entry]));
        return EXIT.ok;
      }),
    );

  plans
    .command('windows [tenant]')
    .description('how long data is kept, why, and when that changes')
    .action((tenantId?: string) =>
      run(async ({ lethe, print }) => {
        const resolved = await lethe.retention.resolve(tenantId);
        print(resolved, () => toTable(['WHAT', 'KEPT', 'BY', 'CHANGES'], resolved.windows.map(windowRow)));
        return EXIT.ok;
      }),
    );

  plans
    .command('list')
    .description('the plans in force by tenant')
    .option('--plan <plan>', `one of ${enumNames(Plan).join(', ')}`, enumValue(Plan))
    .action(({ plan }: { plan?: Plan }) =>
      run(
        async ({ lethe, print }) => {
          const found = await Array.fromAsync(lethe.retention.listPlans(plan ? { plan } : {}));
          print(found, () => tableOf(found));
          return EXIT.ok;
        },
        { asPlatform: true },
      ),
    );

  plans
    .command('history [tenant]')
    .description("every plan of a tenant's, past and to come, newest first")
    .action((tenantId?: string) =>
      run(async ({ lethe, print }) => {
        const filter = { showHistory: true, ...(tenantId === undefined ? {} : { tenantId }) };
        const found = await Array.fromAsync(lethe.retention.listPlans(filter));
        print(found, () => tableOf(found));
        return EXIT.ok;
      }),
    );
}
