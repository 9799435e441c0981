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
import type { Run } from '../context.ts';
import { EXIT, firstOf, instantOf, nameOf, toLine, toTable } from '../output.ts';
import { enumNames, enumValue, names, wholeNumber } from '../parse.ts';
import { windowText } from './plans.ts';
import { stopText } from './stop.ts';

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
function purgeText(purge: RetentionPurge, items: readonly RetentionPurgeItem[]): string {
  const { validateOnly } = purge;
  const counted = validateOnly ? 'WOULD GO' : 'REMOVED';
  const tenants = items.map((item) => itemRow(item, validateOnly));
  const subjects = items.flatMap((item) =>
    item.subjects.map((subject) => subjectRow(item.tenantId, subject, validateOnly)),
  );
  return [
    purgeTable([purge]),
    ...(purge.stop?.isStopped ? [stopText(purge.stop)] : []),
    ...(purge.fleetHold ? [fleetHoldText(purge)] : []),
    toTable(['TENANT', 'STATE', 'PLAN', counted, 'WHY'], tenants),
    toTable(['TENANT', 'SUBJECT', 'STATE', 'KEPT', 'EXPIRED', counted, 'BEFORE', 'WHY'], subjects),
  ].join('\n\n');
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
    .description('one retention purge with its tenants and their subjects')
    .argument('<purge>')
    .action((purgeId: string) =>
      run(async ({ lethe, print }) => {
        const found = await lethe.retention.getPurge(purgeId);
        print(found, () => purgeText(found.purge, found.items));
        return EXIT.ok;
      }),
    );

  purges
    .command('approve')
    .description('release what the ceiling held: of one tenant, or without a tenant the purge as a whole')
    .argument('<purge>')
    .argument('[tenant]')
    .option('--subjects <subjects...>', 'only these; by default all that are held', names)
    .requiredOption('--reason <reason>', 'why, for receipt and audit')
    .action(
      (purgeId: string, tenantId: string | undefined, options: { subjects?: readonly string[]; reason: string }) =>
        run(
          async ({ lethe, print }) => {
            const of = tenantId === undefined ? {} : { tenantId };
            const { purge, item } = await lethe.retention.approveHeld({ purgeId, ...of, ...options });
            if (item) print(item, () => itemText(item, false));
            else print(purge, () => (purge ? purgeTable([purge]) : ''));
            return EXIT.ok;
          },
          { asPlatform: true },
        ),
    );
}
