import type { Command } from 'commander';
import type { ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  Plan,
  PurgeItemState,
  PurgeState,
  PurgeTrigger,
  type RetentionPurge,
  type RetentionPurgeItem,
  RetentionSubject,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import type { CommandContext, Run } from '../context.ts';
import { EXIT, firstOf, instantOf, nameOf, toLine, toTable } from '../output.ts';
import { enumNames, enumValue, wholeNumber } from '../parse.ts';
import { UsageError } from '../usage-error.ts';

interface PurgeOptions {
  readonly all: boolean;
  readonly tenants?: readonly string[];
  readonly wait: boolean;
  readonly dryRun: boolean;
  readonly reason: string;
  readonly requestId?: string;
}

/** `lethe purge`, the nightly CronJob's command. */
export function addPurgeCommand(program: Command, run: Run): void {
  program
    .command('purge')
    .description('purge what plans no longer keep, of all tenants, of --tenant or of --tenants')
    .option('--all', 'every tenant that has a plan', false)
    .option('--tenants <tenants...>', 'these tenants')
    .option('--wait', 'until every tenant has ended; 3 when one is anything but complete', false)
    .option('--dry-run', 'count, remove nothing', false)
    .option('--reason <reason>', 'why, for receipt and audit', '')
    .option('--request-id <uuid>', 'the same one, given again, joins the same purge')
    .action((options: PurgeOptions) => run((context) => purge(context, options), { asPlatform: true }));
}

async function purge(
  { lethe, tenant, progress, print }: CommandContext,
  { all, tenants = tenant === undefined ? [] : [tenant], wait, dryRun: validateOnly, reason, requestId }: PurgeOptions,
): Promise<number> {
  if (all !== (tenants.length === 0)) throw new UsageError('give either --all or the tenants, with --tenants');
  const scope = all ? {} : { tenantIds: tenants };
  const request = { ...scope, validateOnly, reason, ...(requestId === undefined ? {} : { requestId }) };
  let begun: RetentionPurge | undefined;
  let done = 0;
  for await (const { event } of lethe.retention.purge(request)) {
    switch (event.case) {
      case 'started':
        begun = event.value.purge;
        if (wait) break;
        print(begun, () => `purge ${begun?.id} is under way`);
        return EXIT.ok;
      case 'tenantProgress':
        progress.update(done, begun?.tenantCount ?? 0, event.value.tenantId);
        break;
      case 'tenantFinished': {
        const { item } = event.value;
        done += 1;
        print(item, () => tellItem(item, validateOnly));
        progress.update(done, begun?.tenantCount ?? done, 'tenants');
        break;
      }
      case 'summary': {
        const ended = event.value.purge;
        print(ended, () => tellPurge(ended));
        return ended?.state === PurgeState.COMPLETE ? EXIT.ok : EXIT.partial;
      }
      case undefined: // An event that this version does not know.
        break;
    }
  }
  return EXIT.failed;
}

const purgeRow = (purge: RetentionPurge) => [
  purge.id,
  nameOf(PurgeState, purge.state),
  nameOf(PurgeTrigger, purge.trigger),
  purge.validateOnly ? 'dry run' : '',
  `${purge.completeTenantCount}/${purge.tenantCount}`,
  instantOf(purge.createTime),
  purge.actor,
  purge.reason,
];
const purgeTable = (purges: readonly RetentionPurge[]): string =>
  toTable(['PURGE', 'STATE', 'BY', '', 'TENANTS', 'CREATED', 'ACTOR', 'REASON'], purges.map(purgeRow));

function itemRow(item: RetentionPurgeItem): string[] {
  const counts = item.resourceCounts.map(({ resourceType, deleted }) => `${resourceType} ${deleted}`).join(', ');
  return [item.tenantId, nameOf(PurgeItemState, item.state), nameOf(Plan, item.plan), counts, whyOf(item)];
}

/** `lethe purges …`: receipts of retention purges, and the release of what the ceiling held. */
export function addPurgesCommands(program: Command, run: Run): void {
  const purges = program.command('purges').description('retention purges: what went, what is held');

  purges
    .command('list')
    .description('retention purges, newest first')
    .option('--state <state>', `one of ${enumNames(PurgeState).join(', ')}`, enumValue(PurgeState))
    .option('--limit <count>', 'so many at most', wholeNumber({ min: 1, max: 10_000 }), 50)
    .action(({ state, limit }: { state?: PurgeState; limit: number }) =>
      run(async ({ lethe, print }) => {
        const found = await firstOf(lethe.retention.listPurges(state ? { state } : {}), limit);
        print(found, () => purgeTable(found));
        return EXIT.ok;
      }),
    );

  purges
    .command('get')
    .description('one retention purge with its tenants')
    .argument('<purge>')
    .action((purgeId: string) =>
      run(async ({ lethe, print }) => {
        const found = await lethe.retention.getPurge(purgeId);
        print(found, () => {
          const items = toTable(['TENANT', 'STATE', 'PLAN', 'REMOVED', 'WHY'], found.items.map(itemRow));
          return `${purgeTable([found.purge])}\n\n${items}`;
        });
        return EXIT.ok;
      }),
    );

  purges
    .command('approve')
    .description("release a tenant's purge that the ceiling held")
    .argument('<purge>')
    .argument('<tenant>')
    .requiredOption('--reason <reason>', 'why, for receipt and audit')
    .action((purgeId: string, tenantId: string, { reason }: { reason: string }) =>
      run(
        async ({ lethe, print }) => {
          const item = await lethe.retention.approveHeld({ purgeId, tenantId, reason });
          print(item, () => tellItem(item, false));
          return EXIT.ok;
        },
        { asPlatform: true },
      ),
    );
}

function tellItem(item: RetentionPurgeItem | undefined, validateOnly: boolean): string {
  const tellCount = ({ resourceType, found, deleted }: ResourceCount): string =>
    `${resourceType} ${validateOnly ? found : deleted}`;
  const counts = item?.resourceCounts.map(tellCount).join(', ') ?? '';
  return toLine(`${item?.tenantId} ${nameOf(PurgeItemState, item?.state)} ${counts} ${item ? whyOf(item) : ''}`).trim();
}

const tellPurge = (purge: RetentionPurge | undefined): string =>
  `purge ${purge?.id} ${nameOf(PurgeState, purge?.state)}: ${purge?.completeTenantCount} of ${purge?.tenantCount} tenants`;

/** Why a tenant's part is not COMPLETE, for people. */
function whyOf({ state, error, hold, runningPurgeId }: RetentionPurgeItem): string {
  if (state === PurgeItemState.SKIPPED) return `left to purge ${runningPurgeId}`;
  if (state !== PurgeItemState.HELD || !hold) return error;
  const count = (value: bigint | undefined): string => (value === undefined ? 'an unknown number' : String(value));
  const subject = nameOf(RetentionSubject, hold.subject).toLowerCase().replaceAll('_', ' ');
  return `${count(hold.expiredCount)} of ${count(hold.totalCount)} ${subject} would go`;
}
