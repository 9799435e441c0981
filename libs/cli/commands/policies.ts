import type { Command } from 'commander';
import type { ExecutionPolicy } from '#gen/lethe/retention/v1/retention_pb.ts';
import { hasReason } from '#libs/client/lethe.ts';
import type { NewExecutionPolicy } from '#libs/client/plans.ts';
import type { CommandContext, Run } from '../context.ts';
import { EXIT, instantOf, toTable } from '../output.ts';
import { wholeNumber } from '../parse.ts';
import { UsageError } from '../usage-error.ts';
import { previewText } from './plans.ts';

const MAX_DAYS = 36_500;
const MAX_TO_KEEP = 1_000_000_000;

interface SetOptions {
  readonly days?: number;
  readonly keep?: number;
  readonly enable: boolean;
  readonly disable: boolean;
  readonly staleAfter?: number;
  readonly dryRun: boolean;
  readonly etag?: string;
}

const policyRow = (policy: ExecutionPolicy) => [
  policy.tenantId,
  policy.isEnabled ? `${policy.retentionDays} days` : `off (${policy.retentionDays} days)`,
  String(policy.minExecutionsToKeep),
  `${policy.staleAfterDays} days`,
  instantOf(policy.lastCleanupTime),
  policy.lastCleanupTime ? String(policy.lastCleanupDeletedCount) : '',
  policy.etag,
];
const policyTable = (policies: readonly ExecutionPolicy[]): string =>
  toTable(['TENANT', 'KEPT', 'NEWEST KEPT', 'STALE AFTER', 'LAST CLEANUP', 'REMOVED', 'ETAG'], policies.map(policyRow));

/** What is set already and was not named stays: the RPC replaces a policy whole. */
async function mergedPolicy(
  { lethe }: CommandContext,
  tenantId: string | undefined,
  { days, keep, enable, disable, staleAfter, etag }: SetOptions,
): Promise<NewExecutionPolicy> {
  const before = await lethe.retention.policies.get(tenantId).catch((error: unknown) => {
    if (hasReason(error, 'EXECUTION_POLICY_NOT_FOUND')) return undefined;
    throw error;
  });
  const kept = before && {
    retentionDays: before.retentionDays,
    isEnabled: before.isEnabled,
    minExecutionsToKeep: before.minExecutionsToKeep,
    staleAfterDays: before.staleAfterDays,
    etag: before.etag,
  };
  return {
    ...(tenantId === undefined ? {} : { tenantId }),
    ...kept,
    ...(days === undefined ? {} : { retentionDays: days }),
    ...(keep === undefined ? {} : { minExecutionsToKeep: BigInt(keep) }),
    ...(enable || disable ? { isEnabled: enable } : {}),
    ...(staleAfter === undefined ? {} : { staleAfterDays: staleAfter }),
    ...(etag === undefined ? {} : { etag }),
  };
}

async function setPolicy(context: CommandContext, tenantId: string | undefined, options: SetOptions): Promise<number> {
  if (options.enable && options.disable) throw new UsageError('give either --enable or --disable');
  const { policies } = context.lethe.retention;
  const policy = await mergedPolicy(context, tenantId, options);
  if (options.dryRun) {
    const preview = await policies.previewUpsert(policy);
    context.print(preview, () => previewText(policyTable([preview.policy]), preview.forecasts));
    return EXIT.ok;
  }
  const set = await policies.upsert(policy);
  context.print(set, () => policyTable([set]));
  return EXIT.ok;
}

/** `lethe policies …`. A tenant is named as an argument; without one it is `--tenant`. */
export function addPolicyCommands(program: Command, run: Run): void {
  const policies = program.command('policies').description("tenants' own policies for their executions");

  policies
    .command('get [tenant]')
    .description("a tenant's policy, and what its last cleanup removed")
    .action((tenantId?: string) =>
      run(async ({ lethe, print }) => {
        const policy = await lethe.retention.policies.get(tenantId);
        print(policy, () => policyTable([policy]));
        return EXIT.ok;
      }),
    );

  policies
    .command('set [tenant]')
    .description('create or change a policy; what is not named stays as it is')
    .option('--days <days>', 'remove executions older than this; 90 at first', wholeNumber({ min: 1, max: MAX_DAYS }))
    .option('--keep <count>', 'but never the newest of them; 100 at first', wholeNumber({ min: 0, max: MAX_TO_KEEP }))
    .option(
      '--stale-after <days>',
      'keep a running one so much longer; 30 at first',
      wholeNumber({ min: 0, max: MAX_DAYS }),
    )
    .option('--enable', 'remove executions, as at first', false)
    .option('--disable', 'remove none', false)
    .option('--dry-run', 'change nothing; count what the next purge would remove', false)
    .option('--etag <etag>', 'only if the policy still has this etag')
    .action((tenantId: string | undefined, options: SetOptions) =>
      run((context) => setPolicy(context, tenantId, options)),
    );

  policies
    .command('delete [tenant]')
    .description('remove a policy, so that the plan alone decides')
    .option('--etag <etag>', 'only if the policy still has this etag')
    .action((tenantId: string | undefined, { etag }: { etag?: string }) =>
      run(async ({ lethe, print }) => {
        await lethe.retention.policies.delete({
          ...(tenantId === undefined ? {} : { tenantId }),
          ...(etag === undefined ? {} : { etag }),
        });
        print({ deleted: true }, () => 'the policy is gone');
        return EXIT.ok;
      }),
    );

  policies
    .command('list')
    .description('all policies by tenant')
    .action(() =>
      run(async ({ lethe, print }) => {
        const found = await Array.fromAsync(lethe.retention.policies.list());
        print(found, () => policyTable(found));
        return EXIT.ok;
      }),
    );
}
