import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import type { Command } from 'commander';
import { PurgeItemState, PurgeState, type RetentionPurge } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Run } from '../lethe.ts';
import { EXIT, nameOf } from '../output.ts';
import { UsageError } from '../session.ts';

const ATTEMPTS = 5;
const PAUSE_MS = 2_000;

/** `lethe purge`, the nightly CronJob's command. */
export function addPurgeCommands(program: Command, run: Run): void {
  program
    .command('purge')
    .description('purge what plans no longer keep')
    .option('--all', 'every tenant that has a plan', false)
    .option('--tenants <tenants...>', 'these tenants')
    .option('--wait', 'until it has ended', false)
    .option('--dry-run', 'count, remove nothing', false)
    .option('--reason <reason>', 'why, for the audit', '')
    .action((options: { all: boolean; tenants?: string[]; wait: boolean; dryRun: boolean; reason: string }) =>
      run(async ({ lethe, print }) => {
        const tenantIds = options.tenants ?? [];
        if (options.all !== (tenantIds.length === 0)) throw new UsageError('give either --all or --tenants');
        const { reason } = options;
        // The purge goes on by itself when the stream breaks; with the same request id this joins it again.
        const request = {
          allTenants: options.all,
          tenantIds,
          validateOnly: options.dryRun,
          reason,
          requestId: newId(),
        };
        for (let attempt = 1; ; attempt += 1) {
          try {
            for await (const { event } of lethe.services.retention.purge(request)) {
              if (event.case === 'started' && !options.wait) {
                const id = event.value.purge?.id ?? '';
                print(event.value, () => `purge ${id} is under way`);
                return EXIT.ok;
              }
              if (event.case === 'tenantFinished') {
                const { item } = event.value;
                const counts = item?.resourceCounts.map(
                  (c) => `${c.resourceType} ${options.dryRun ? c.found : c.deleted}`,
                );
                print(item, () =>
                  `${item?.tenantId} ${nameOf(PurgeItemState, item?.state ?? 0)} ${counts?.join(', ')} ${item?.error}`.trim(),
                );
              }
              if (event.case === 'summary') return conclude(event.value.purge, print);
            }
            throw new ConnectError('the stream ended without a summary', Code.Unavailable);
          } catch (error) {
            if (attempt === ATTEMPTS || ConnectError.from(error).code !== Code.Unavailable) throw error;
            await delay(PAUSE_MS);
          }
        }
      }),
    );
}

function conclude(purge: RetentionPurge | undefined, print: (value: unknown, text: () => string) => void): number {
  const { state = PurgeState.UNSPECIFIED, tenantCount = 0, completeTenantCount = 0 } = purge ?? {};
  print(
    purge,
    () => `purge ${purge?.id} ${nameOf(PurgeState, state)}: ${completeTenantCount} of ${tenantCount} tenants`,
  );
  return state === PurgeState.COMPLETE ? EXIT.ok : EXIT.partial;
}
