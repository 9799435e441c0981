import type { Command } from 'commander';
import type { ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  PurgeItemState,
  PurgeState,
  PurgeSubjectState,
  PurgeTrigger,
  type RetentionPurge,
  type RetentionPurgeItem,
  type RetentionPurgeSubject,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import type { PurgeSighting } from '#libs/client/retention.ts';
import { confirmByTyping } from '../confirm.ts';
import type { CommandContext, Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { EXIT, instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue, names, tenantId } from '../parse.ts';
import { makeTable, type Text, toLine, toTable } from '../table.ts';
import { UsageError } from '../usage-error.ts';
import { windowText } from './plans.ts';
import { stopText } from './stop.ts';

const purgeTable = makeTable<RetentionPurge>({
  PURGE: ({ id }) => id,
  STATE: ({ state }) => nameOf(PurgeState, state),
  BY: ({ trigger }) => nameOf(PurgeTrigger, trigger),
  '': ({ validateOnly }) => (validateOnly ? 'dry run' : ''),
  TENANTS: ({ completeTenantCount, tenantCount }) => `${completeTenantCount}/${tenantCount}`,
  CREATED: ({ createTime }) => instantOf(createTime),
  ACTOR: ({ actor }) => actor,
  REASON: ({ reason }) => reason,
});

const countsText = (counts: readonly ResourceCount[], validateOnly: boolean): string =>
  counts.map(({ resourceType, found, deleted }) => `${resourceType} ${validateOnly ? found : deleted}`).join(', ');

const itemRow = (item: RetentionPurgeItem, validateOnly: boolean) => [
  item.tenantId,
  nameOf(PurgeItemState, item.state),
  item.planName,
  countsText(item.resourceCounts, validateOnly),
  whyOfItem(item),
];

const subjectRow = (tenantId: string, subject: RetentionPurgeSubject, validateOnly: boolean) => [
  tenantId,
  subject.subject,
  nameOf(PurgeSubjectState, subject.state),
  subject.window ? windowText(subject.window.kind, subject.window.retentionDays) : '',
  subject.expiredCount === undefined ? '' : `${subject.expiredCount} of ${subject.seenCount ?? '?'}`,
  countsText(subject.resourceCounts, validateOnly),
  instantOf(subject.cutoffTime),
  whyOfSubject(subject),
];

/** One purge, its tenants, and their subjects. */
function purgeText(purge: RetentionPurge, items: readonly RetentionPurgeItem[]): Text {
  const { validateOnly } = purge;
  const counted = validateOnly ? 'WOULD GO' : 'REMOVED';
  const tenants = items.map((item) => itemRow(item, validateOnly));
  const subjects = items.flatMap((item) =>
    item.subjects.map((subject) => subjectRow(item.tenantId, subject, validateOnly)),
  );
  return [
    purgeTable([purge]),
    ...(purge.stop?.isStopped ? ['', stopText(purge.stop)] : []),
    ...(purge.fleetHold ? ['', fleetHoldText(purge)] : []),
    '',
    toTable(['TENANT', 'STATE', 'PLAN', counted, 'WHY'], tenants),
    '',
    toTable(['TENANT', 'SUBJECT', 'STATE', 'KEPT', 'EXPIRED', counted, 'BEFORE', 'WHY'], subjects),
  ];
}

/** Why a purge is held as a whole, or who released it. */
export function fleetHoldText({ id, fleetHold }: RetentionPurge): string {
  const { narrowedTenantCount, tenantCount, approveTime, approvedBy, approveReason } = fleetHold ?? {};
  const why = `${narrowedTenantCount} of ${tenantCount} tenants have a narrower window than in their last purge`;
  return approveTime
    ? toLine(`${why}; released at ${instantOf(approveTime)} by ${approvedBy}: ${approveReason}`)
    : `${why}; \`lethe purges approve ${id} --reason …\` releases it`;
}

/** A tenant's part in one line. */
export function itemText(item: RetentionPurgeItem | undefined, validateOnly: boolean): string {
  if (!item) return '';
  const counts = countsText(item.resourceCounts, validateOnly);
  return toLine(`${item.tenantId} ${nameOf(PurgeItemState, item.state)} ${counts} ${whyOfItem(item)}`).trim();
}

/** Why a tenant's part is not COMPLETE, for people. */
function whyOfItem({ state, error, subjects, runningPurgeId }: RetentionPurgeItem): string {
  if (state === PurgeItemState.SKIPPED) return `left to purge ${runningPurgeId}`;
  const unfinished = subjects.filter(
    ({ state: its, error: failure }) => its === PurgeSubjectState.HELD || failure !== '',
  );
  const whys = unfinished.map((subject) => `${subject.subject}: ${whyOfSubject(subject)}`);
  return [error, ...whys].filter((why) => why !== '').join('; ');
}

/** Why a subject was not purged, or what it waited for. */
function whyOfSubject({ state, error, hold, waits }: RetentionPurgeSubject): string {
  const parts: string[] = [];
  if (hold && state === PurgeSubjectState.HELD) {
    const count = (value: bigint | undefined): string => (value === undefined ? 'an unknown number' : String(value));
    parts.push(`${count(hold.expiredCount)} of ${count(hold.totalCount)} would go`);
  } else if (hold?.approveTime) {
    parts.push(`${hold.approvedRows} released by ${hold.approvedBy}: ${hold.approveReason}`);
  }
  parts.push(error, ...waits.map(({ cause, duration }) => `waited ${duration?.seconds ?? 0} s for ${cause}`));
  return parts.filter((part) => part !== '').join('; ');
}

interface PurgeListOptions extends ListOptions {
  readonly state?: PurgeState;
  readonly of?: string;
}

interface ApproveOptions {
  readonly of?: string;
  readonly subjects?: readonly string[];
  readonly reason: string;
  readonly yes: boolean;
}

const SOME_PURGE = '018f6b1e-7c1a-7000-8000-000000000004';

/** `lethe purges …`: receipts of retention purges, and the release of what the ceiling held. */
export function addPurgesCommands(program: Command, run: Run): void {
  const purges = program.command('purges').description('retention purges: what went, what is held');

  addExamples(
    addLimit(purges.command('list').description('retention purges, newest first'))
      .option('--state <state>', `one of ${enumNames(PurgeState).join(', ')}`, enumValue(PurgeState))
      .option('--of <tenant>', 'only those that this tenant is part of', tenantId)
      .action(({ state, of, ...options }: PurgeListOptions) =>
        run(async (context) => {
          const filter = defined({ state, tenantId: of });
          await printList(context, context.lethe.retention.listPurges(filter), options, purgeTable);
        }),
      ),
    'lethe purges list --state PARTIAL',
    'lethe purges list --of acme',
  );

  addExamples(
    purges
      .command('get <purge>')
      .description('one retention purge with its tenants and their subjects')
      .action((purgeId: string) =>
        run(async ({ lethe, print }) => {
          const found = await lethe.retention.getPurge(purgeId);
          print(found, () => purgeText(found.purge, found.items));
        }),
      ),
    `lethe purges get ${SOME_PURGE}`,
  );

  addExamples(
    purges
      .command('watch <purge>')
      .description('until it has ended or is held; 3 when a tenant was not done, 4 when one is held')
      .action((purgeId: string) => run((context) => watch(context, purgeId))),
    `lethe purges watch ${SOME_PURGE}`,
  );

  addExamples(
    purges
      .command('approve <purge>')
      .description('release what the ceiling held: of one tenant, or without a tenant the purge as a whole')
      .allowExcessArguments()
      .option('--of <tenant>', 'of this tenant', tenantId)
      .option('--subjects <subjects...>', 'only these; by default all that are held', names)
      .requiredOption('--reason <reason>', 'why, for receipt and audit')
      .option('--yes', 'do not ask; without a terminal nothing is asked', false)
      .action((purgeId: string, options: ApproveOptions, command: Command) =>
        run((context) => approve(context, purgeId, approvalOf(command.args, options))),
      ),
    `lethe purges approve ${SOME_PURGE} --of acme --subjects drift_checks --reason 'their backlog of last year'`,
    `lethe purges approve ${SOME_PURGE} --reason 'the new price list'`,
  );
}

async function watch({ lethe, progress, print, goesOn }: CommandContext, purgeId: string): Promise<number> {
  let last: PurgeSighting | undefined;
  goesOn(`The purge goes on: \`lethe purges get ${purgeId}\` shows it, \`lethe stop --reason …\` stops all purges.`);
  for await (last of lethe.retention.watchPurge(purgeId)) {
    const done = last.items.filter(({ finishTime }) => finishTime !== undefined).length;
    progress.update(done, last.purge.tenantCount, nameOf(PurgeState, last.purge.state));
  }
  print(last, () => (last ? purgeText(last.purge, last.items) : ''));
  return exitOfPurge(last?.purge);
}

/** The tenant of --of, or the one that was once given as the second argument. */
function approvalOf([, second, ...more]: readonly string[], { of, ...options }: ApproveOptions): ApproveOptions {
  if (more.length > 0 || (second !== undefined && of !== undefined)) throw new UsageError('give one tenant, with --of');
  const tenant = second === undefined ? of : tenantId(second);
  return { ...options, ...(tenant === undefined ? {} : { of: tenant }) };
}

async function approve(
  { lethe, terminal, print }: CommandContext,
  purgeId: string,
  { of, subjects, reason, yes }: ApproveOptions,
): Promise<number> {
  if (terminal.isInteractive && !yes) {
    const { purge, items } = await lethe.retention.getPurge(purgeId);
    const held = items.filter(({ tenantId: its }) => of === undefined || its === of);
    const lines = of === undefined ? [fleetHoldText(purge)] : held.map((item) => itemText(item, false));
    for (const line of lines) terminal.err(line);
    await confirmByTyping(terminal, 'What is released', of ?? purgeId, false);
  }
  const scope = defined({ tenantId: of, subjects });
  const { purge, item } = await lethe.retention.approveHeld({ purgeId, reason, ...scope });
  if (item) print(item, () => itemText(item, false));
  else print(purge, () => (purge ? purgeTable([purge]) : ''));
  return EXIT.ok;
}

/** Held when it is held as a whole, or when a tenant is held and none failed, here or where it was skipped for. */
export function exitOfPurge(purge: RetentionPurge | undefined): number {
  if (!purge) return EXIT.failed;
  if (purge.state === PurgeState.COMPLETE) return EXIT.ok;
  if (purge.state === PurgeState.HELD) return EXIT.held;
  const failed = purge.failedTenantCount + purge.skippedFailedTenantCount;
  return failed === 0 && purge.heldTenantCount > 0 ? EXIT.held : EXIT.partial;
}
