import type { Command } from 'commander';
import type { ExecutionPolicy } from '#gen/lethe/retention/v1/retention_pb.ts';
import { hasReason } from '#libs/client/lethe.ts';
import type { NewExecutionPolicy } from '#libs/client/plans.ts';
import { confirmOnTerminal } from '../confirm.ts';
import type { CommandContext, Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { confirmShortening, previewText } from '../forecast.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { EXIT, instantOf } from '../output.ts';
import { tenantId, wholeNumber } from '../parse.ts';
import { makeTable } from '../table.ts';
import { UsageError } from '../usage-error.ts';

const MAX_DAYS = 36_500;
const MAX_TO_KEEP = 1_000_000_000;

interface SetOptions {
  readonly days?: number;
  readonly keep?: number;
  readonly enable: boolean;
  readonly disable: boolean;
  readonly staleAfter?: number;
  readonly dryRun: boolean;
  readonly yes: boolean;
  readonly etag?: string;
}

interface DeleteOptions {
  readonly yes: boolean;
  readonly etag?: string;
}

interface OfOptions {
  readonly of?: string;
}

const policyTable = makeTable<ExecutionPolicy>({
  TENANT: ({ tenantId }) => tenantId,
  KEPT: ({ isEnabled, retentionDays }) => (isEnabled ? `${retentionDays} days` : `off (${retentionDays} days)`),
  'NEWEST KEPT': ({ minExecutionsToKeep }) => String(minExecutionsToKeep),
  'STALE AFTER': ({ staleAfterDays }) => `${staleAfterDays} days`,
  'LAST CLEANUP': ({ lastCleanupTime }) => instantOf(lastCleanupTime),
  REMOVED: ({ lastCleanupTime, lastCleanupDeletedCount }) => (lastCleanupTime ? String(lastCleanupDeletedCount) : ''),
  ETAG: ({ etag }) => etag,
});

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
    ...kept,
    ...defined({
      tenantId,
      retentionDays: days,
      minExecutionsToKeep: keep === undefined ? undefined : BigInt(keep),
      isEnabled: enable || disable ? enable : undefined,
      staleAfterDays: staleAfter,
      etag,
    }),
  };
}

async function setPolicy(context: CommandContext, tenant: string | undefined, options: SetOptions): Promise<number> {
  if (options.enable && options.disable) throw new UsageError('give either --enable or --disable');
  const { policies } = context.lethe.retention;
  const policy = await mergedPolicy(context, tenant, options);
  const preview = async () => {
    const previewed = await policies.previewUpsert(policy);
    return { ...previewed, table: policyTable([previewed.policy]) };
  };
  if (options.dryRun) {
    const { table, ...previewed } = await preview();
    context.print(previewed, () => previewText(table, previewed.forecasts));
    return EXIT.ok;
  }
  const word = tenant ?? context.tenant ?? 'yes';
  await confirmShortening(context, { what: 'changing the policy', word, yes: options.yes, preview });
  const set = await policies.upsert(policy);
  context.print(set, () => policyTable([set]));
  return EXIT.ok;
}

async function deletePolicy(
  { lethe, terminal, tenant: own, print }: CommandContext,
  tenant: string | undefined,
  { etag, yes }: DeleteOptions,
): Promise<number> {
  const word = tenant ?? own ?? 'yes';
  await confirmOnTerminal(terminal, 'The plan alone decides then, and what a purge then removes', word, yes);
  await lethe.retention.policies.delete(defined({ tenantId: tenant, etag }));
  print({ deleted: true }, () => 'the policy is gone');
  return EXIT.ok;
}

/** The tenant: that of --of, or the one that was once given as the argument. */
function tenantIn(words: readonly string[], of: string | undefined): string | undefined {
  const [first, ...more] = words;
  if (more.length > 0 || (first !== undefined && of !== undefined)) {
    throw new UsageError('give one tenant, with --of');
  }
  return first === undefined ? of : tenantId(first);
}

/** `lethe policies …`. */
export function addPolicyCommands(program: Command, run: Run): void {
  const policies = program.command('policies').description("tenants' own policies for their executions");
  const verb = (name: string, description: string): Command =>
    policies
      .command(name)
      .description(description)
      .usage('[options]')
      .allowExcessArguments()
      .option('--of <tenant>', "that tenant's; your own by default", tenantId);

  addExamples(
    verb('get', "a tenant's policy, and what its last cleanup removed").action(({ of }: OfOptions, command: Command) =>
      run(async ({ lethe, print }) => {
        const policy = await lethe.retention.policies.get(tenantIn(command.args, of));
        print(policy, () => policyTable([policy]));
      }),
    ),
    'lethe --tenant acme policies get',
    'lethe policies get --of acme',
  );

  addExamples(
    verb('set', 'create or change a policy; what is not named stays as it is')
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
      .option('--yes', 'do not ask where less would be kept', false)
      .option('--etag <etag>', 'only if the policy still has this etag')
      .action(({ of, ...options }: SetOptions & OfOptions, command: Command) =>
        run((context) => setPolicy(context, tenantIn(command.args, of), options)),
      ),
    'lethe --tenant acme policies set --days 90 --keep 100 --dry-run',
    'lethe policies set --of acme --disable',
  );

  addExamples(
    verb('delete', 'remove a policy, so that the plan alone decides')
      .option('--yes', 'do not ask', false)
      .option('--etag <etag>', 'only if the policy still has this etag')
      .action(({ of, ...options }: DeleteOptions & OfOptions, command: Command) =>
        run((context) => deletePolicy(context, tenantIn(command.args, of), options)),
      ),
    'lethe policies delete --of acme',
  );

  addExamples(
    addLimit(policies.command('list').description('all policies by tenant')).action((options: ListOptions) =>
      run(async (context) => {
        await printList(context, context.lethe.retention.policies.list(), options, policyTable);
      }),
    ),
    'lethe policies list',
  );
}
