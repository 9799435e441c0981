import { type Command, Option } from 'commander';
import { Progress, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { SweepSummary, TenantSweep } from '#gen/lethe/job/v1/job_service_pb.ts';
import { confirmByTyping, requireTerminalOrYes } from '../confirm.ts';
import type { CommandContext, Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { EXIT } from '../output.ts';
import { tenantIds, wholeNumber } from '../parse.ts';
import { toLine } from '../table.ts';
import { UsageError } from '../usage-error.ts';

interface OrphanOptions {
  readonly of?: readonly string[];
  /** The old spelling of `of`. */
  readonly tenants?: readonly string[];
  readonly sweep: boolean;
  readonly reason: string;
  readonly minAgeHours: number;
  readonly yes: boolean;
  readonly maxShare: number;
  readonly tenantsWithoutJobs: boolean;
}

const HOUR_SECONDS = 3_600;
const MAX_AGE_HOURS = 3_650 * 24;
const WHAT = 'Removing objects that belong to no job';

/** `lethe orphans`. */
export function addOrphanCommand(program: Command, run: Run): void {
  addExamples(
    program
      .command('orphans')
      .description('objects without a job and jobs without objects; shown, and the objects removed with --sweep')
      .option('--of <tenants...>', 'only of these tenants; of all by default', tenantIds)
      .addOption(new Option('--tenants <tenants...>').argParser(tenantIds).hideHelp())
      .option('--sweep', 'remove the objects, after showing what would go', false)
      .option('--reason <reason>', 'why, for the audit; required with --sweep', '')
      .option('--min-age-hours <hours>', 'pass over what is younger', wholeNumber({ min: 1, max: MAX_AGE_HOURS }), 24)
      .option(
        '--max-share <percent>',
        "leave a tenant alone of whose objects more would go; the service's own by default",
        wholeNumber({ min: 1, max: 100 }),
        0,
      )
      .option('--tenants-without-jobs', 'also of the named tenants that have objects and not one job', false)
      .option('--yes', 'do not ask', false)
      .action((options: OrphanOptions) => run((context) => sweep(context, options))),
    'lethe orphans',
    "lethe orphans --of acme --sweep --reason 'monthly'",
  );
}

async function sweep(context: CommandContext, options: OrphanOptions): Promise<number> {
  if (!options.sweep) return exitOf(await go(context, options, true));
  if (options.reason.trim() === '') throw new UsageError('--sweep needs a --reason');
  requireTerminalOrYes(context.terminal, WHAT, options.yes);
  if (!options.yes) {
    const dryRun = await go(context, options, true);
    const found = sumOf(dryRun?.orphans ?? []);
    if (found === 0n) return exitOf(dryRun);
    context.progress.stop();
    await confirmByTyping(context.terminal, `${WHAT}, ${found} in all,`, String(found), false);
  }
  return exitOf(await go(context, options, false));
}

async function go(
  { lethe, progress, print }: CommandContext,
  {
    tenants: oldSpelling,
    of: tenants = oldSpelling,
    minAgeHours,
    reason,
    maxShare: maxSharePercent,
    tenantsWithoutJobs,
  }: OrphanOptions,
  validateOnly: boolean,
): Promise<SweepSummary | undefined> {
  const scope = tenants ? { tenantIds: tenants } : {};
  const limits = { maxSharePercent, tenantsWithoutJobs, minAgeSeconds: minAgeHours * HOUR_SECONDS };
  const request = { ...scope, validateOnly, reason, ...limits };
  let done = 0;
  for await (const { event } of lethe.orphans.sweep(request)) {
    if (event.case === 'summary') {
      const summary = event.value;
      print(summary, () => `${summary.tenantCount} tenants: ${tell(summary, validateOnly)}`);
      return summary;
    }
    if (event.case !== 'tenant') continue;
    const found = event.value;
    print(found, () => tellTenant(found, validateOnly));
    done += 1;
    progress.update(done, tenants?.length ?? done, 'tenants');
  }
  return undefined;
}

function tellTenant(found: TenantSweep, validateOnly: boolean): string {
  const head = `${found.tenantId}: ${found.error ? `left alone: ${toLine(found.error)}` : tell(found, validateOnly)}`;
  const samples = found.samples.map(({ resourceType, resourceId }) => `  ${resourceType} ${toLine(resourceId)}`);
  const failed = found.failedItems.map(
    ({ key, code, message }) => `  not removed ${toLine(`${key}: ${code}: ${message}`)}`,
  );
  return [head, ...samples, ...failed].join('\n');
}

function tell(
  { orphans, jobsWithoutObjects }: Pick<SweepSummary, 'orphans' | 'jobsWithoutObjects'>,
  validateOnly: boolean,
): string {
  const deleted = orphans.reduce((sum, count) => sum + count.deleted, 0n);
  const removed = validateOnly ? '' : `, ${deleted} removed`;
  return `${sumOf(orphans)} objects without a job${removed}, ${jobsWithoutObjects} jobs without objects`;
}

const sumOf = (counts: readonly ResourceCount[]): bigint => counts.reduce((sum, { found }) => sum + found, 0n);

/** A sweep whose summary never came has failed. */
const exitOf = (summary: SweepSummary | undefined): number => {
  if (!summary) return EXIT.failed;
  return summary.progress === Progress.COMPLETE ? EXIT.ok : EXIT.partial;
};
