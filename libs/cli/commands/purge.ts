import type { Command } from 'commander';
import type { ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  PurgeItemState,
  PurgeState,
  type RetentionPurge,
  type RetentionPurgeItem,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import type { CommandContext, Run } from '../context.ts';
import { EXIT, nameOf, toLine } from '../output.ts';
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

function tellItem(item: RetentionPurgeItem | undefined, validateOnly: boolean): string {
  const tellCount = ({ resourceType, found, deleted }: ResourceCount): string =>
    `${resourceType} ${validateOnly ? found : deleted}`;
  const counts = item?.resourceCounts.map(tellCount).join(', ') ?? '';
  return toLine(`${item?.tenantId} ${nameOf(PurgeItemState, item?.state)} ${counts} ${item?.error}`).trim();
}

const tellPurge = (purge: RetentionPurge | undefined): string =>
  `purge ${purge?.id} ${nameOf(PurgeState, purge?.state)}: ${purge?.completeTenantCount} of ${purge?.tenantCount} tenants`;
