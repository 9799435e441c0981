import { type Command, Option } from 'commander';
import { PurgeState, type PurgeStop, type RetentionPurge } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { PurgeSighting } from '#libs/client/retention.ts';
import { TENANT_ROLES } from '#libs/kernel/caller.ts';
import { confirmOnTerminal } from '../confirm.ts';
import type { CommandContext, Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { EXIT, nameOf } from '../output.ts';
import { names, tenantIds } from '../parse.ts';
import { UsageError } from '../usage-error.ts';
import { exitOfPurge, fleetHoldText, itemText } from './purges.ts';
import { stopText } from './stop.ts';

interface PurgeOptions {
  readonly all: boolean;
  readonly of?: readonly string[];
  /** The old spelling of `of`. */
  readonly tenants?: readonly string[];
  readonly subjects?: readonly string[];
  readonly wait: boolean;
  readonly dryRun: boolean;
  readonly yes: boolean;
  readonly reason: string;
  readonly requestId?: string;
}

const STOP_POLL_MS = 2_000;

/** `lethe purge`, the nightly CronJob's command; for a tenant's own admin the purge of that tenant. */
export function addPurgeCommand(program: Command, run: Run): void {
  addExamples(
    program
      .command('purge')
      .description(
        'purge what plans and policies no longer keep: as platform of --all or --of some; in a tenant, of that one',
      )
      .option('--all', 'every tenant that has a plan or a policy', false)
      .option('--of <tenants...>', 'these tenants', tenantIds)
      .addOption(new Option('--tenants <tenants...>').argParser(tenantIds).hideHelp())
      .option('--subjects <subjects...>', 'only these subjects, such as drift_checks,approvals', names)
      .option('--wait', 'until every tenant has ended; 3 when one was not done, 4 when one is held', false)
      .option('--dry-run', 'count, remove nothing', false)
      .option('--yes', 'do not ask; without a terminal nothing is asked', false)
      .option('--reason <reason>', 'why, for receipt and audit', '')
      .option('--request-id <uuid>', 'the same one, given again, joins the same purge')
      .action((options: PurgeOptions) => run((context) => purge(context, options))),
    'lethe purge --all --wait --dry-run',
    'lethe purge --of acme globex --subjects drift_checks --wait',
    'lethe --tenant acme --role admin purge --wait',
  );
}

const purge = (context: CommandContext, options: PurgeOptions): Promise<number> =>
  TENANT_ROLES.some((role) => role === context.role)
    ? purgeOwnTenant(context, options)
    : purgeAsPlatform(context, options);

/** What both kinds of purge are asked with. */
const orderOf = ({ subjects = [], dryRun: validateOnly, reason, requestId }: PurgeOptions) => ({
  subjects,
  validateOnly,
  reason,
  ...(requestId === undefined ? {} : { requestId }),
});

async function purgeAsPlatform(context: CommandContext, options: PurgeOptions): Promise<number> {
  const { lethe, terminal, progress, print } = context;
  const { all, of = options.tenants ?? [], wait, dryRun, yes } = options;
  if (all !== (of.length === 0)) throw new UsageError('give either --all or the tenants, with --of');
  const scope = all ? {} : { tenantIds: of };
  const what = all
    ? 'Purging what plans no longer keep, of every tenant,'
    : `Purging what plans no longer keep of ${of}`;
  await confirmOnTerminal(terminal, what, all ? 'all' : 'purge', yes || dryRun);
  const stops = tellStops(context);
  let begun: RetentionPurge | undefined;
  let done = 0;
  try {
    for await (const { event } of lethe.retention.purge({ ...scope, ...orderOf(options) })) {
      switch (event.case) {
        case 'started':
          begun = event.value.purge;
          goesOn(context, begun);
          if (!wait) {
            print(begun, () => underWayText(begun));
            return EXIT.ok;
          }
          stops.watch(begun?.stop);
          break;
        case 'tenantProgress':
          progress.update(done, begun?.tenantCount ?? 0, event.value.tenantId);
          break;
        case 'tenantFinished': {
          const { item } = event.value;
          done += 1;
          print(item, () => itemText(item, dryRun));
          progress.update(done, begun?.tenantCount ?? done, 'tenants');
          break;
        }
        case 'summary': {
          const ended = event.value.purge;
          print(ended, () => purgeText(ended));
          return exitOfPurge(ended);
        }
        case undefined: // An event that this version does not know.
          break;
      }
    }
  } finally {
    stops.end();
  }
  return EXIT.failed;
}

async function purgeOwnTenant(context: CommandContext, options: PurgeOptions): Promise<number> {
  const { lethe, terminal, progress, print } = context;
  const { all, of = options.tenants ?? [], wait, dryRun, yes } = options;
  if (all || of.length > 1) throw new UsageError(`the role ${context.role} purges its own tenant only`);
  const [tenantId] = of;
  await confirmOnTerminal(terminal, 'Purging what the plan no longer keeps', 'purge', yes || dryRun);
  const order = { ...orderOf(options), ...(tenantId === undefined ? {} : { tenantId }) };
  const { purge: begun } = await lethe.retention.purgeNow(order);
  if (!wait) {
    print(begun, () => underWayText(begun));
    return EXIT.ok;
  }
  goesOn(context, begun);
  const stops = tellStops(context);
  let last: PurgeSighting | undefined;
  try {
    stops.watch(begun.stop);
    for await (last of lethe.retention.watchPurge(begun.id)) {
      const done = last.items.filter(({ finishTime }) => finishTime !== undefined).length;
      progress.update(done, last.purge.tenantCount, nameOf(PurgeState, last.purge.state));
    }
  } finally {
    stops.end();
  }
  for (const item of last?.items ?? []) print(item, () => itemText(item, dryRun));
  print(last?.purge, () => purgeText(last?.purge));
  return exitOfPurge(last?.purge);
}

/**
 * Tells on standard error when purges are stopped, so that whoever waits knows why nothing happens, and when they go on.
 * `watch` begins with what the purge said about itself.
 */
function tellStops({ lethe, terminal, progress }: CommandContext) {
  let version: bigint | undefined;
  let isWaiting = false;
  let timer: NodeJS.Timeout | undefined;
  const tell = (stop: PurgeStop | undefined): void => {
    if (!stop || stop.version === version) return;
    version = stop.version;
    if (!stop.isStopped && !isWaiting) return;
    isWaiting = stop.isStopped;
    progress.stop();
    terminal.err(isWaiting ? `${stopText(stop)}. This purge waits for \`lethe resume\`.` : stopText(stop));
  };
  const look = async (): Promise<void> => {
    // Whoever waits for a purge must not fail since the switch could not be read.
    tell(await lethe.retention.stopSwitch.get().catch(() => undefined));
    if (timer) timer = setTimeout(look, STOP_POLL_MS);
  };
  return {
    watch(stop: PurgeStop | undefined): void {
      tell(stop);
      timer = setTimeout(look, STOP_POLL_MS);
    },
    end(): void {
      clearTimeout(timer);
      timer = undefined;
    },
  };
}

/** What Ctrl-C leaves going, and how to see and to stop it. */
const goesOn = (context: CommandContext, purge: RetentionPurge | undefined): void =>
  context.goesOn(
    `The purge goes on: \`lethe purges watch ${purge?.id}\` shows it, \`lethe stop --reason …\` stops all purges.`,
  );

const underWayText = (purge: RetentionPurge | undefined): string =>
  purge?.stop?.isStopped ? `purge ${purge.id} waits: ${stopText(purge.stop)}` : `purge ${purge?.id} is under way`;

function purgeText(purge: RetentionPurge | undefined): string {
  const done = `purge ${purge?.id} ${nameOf(PurgeState, purge?.state)}: ${purge?.completeTenantCount} of ${purge?.tenantCount} tenants`;
  if (purge?.state !== PurgeState.HELD) return done;
  return `${done}; ${fleetHoldText(purge)}`;
}
