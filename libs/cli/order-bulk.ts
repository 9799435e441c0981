import { type Command, Option } from 'commander';
import {
  type BulkDeletion,
  type BulkDeletionPreview,
  BulkDeletionState,
  type SkipCount,
} from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { confirmByTyping, requireTerminalOrYes } from './confirm.ts';
import type { CommandContext } from './context.ts';
import type { Keeper } from './find-deletion.ts';
import { EXIT, instantOf, nameOf } from './output.ts';
import { makeTable, render, type Text, toLine, toTable } from './table.ts';
import { UsageError } from './usage-error.ts';

/** One target by its id, or with `--all-matching` every one that matches the filter. */
export interface BulkChoice {
  readonly allMatching: boolean;
}

/** Adds `--all-matching`, by which a verb works on everything that its filter matches. */
export const addAllMatching = (command: Command, what: string): Command =>
  command.addOption(
    new Option('--all-matching', `every ${what} that matches the filter, as one operation`).default(false),
  );

/** Whether a verb is about everything that matches; a UsageError where it is about neither or both. */
export function isAllMatching(id: string | undefined, { allMatching }: BulkChoice, filters: object): boolean {
  const isFiltered = Object.keys(filters).length > 0;
  if (allMatching && id !== undefined) throw new UsageError('give either an id or --all-matching');
  if (!allMatching && id === undefined) throw new UsageError('give an id, or a filter and --all-matching');
  if (!allMatching && isFiltered) throw new UsageError('a filter needs --all-matching, and no id');
  if (allMatching && !isFiltered) throw new UsageError('--all-matching needs a filter, such as --state');
  return allMatching;
}

/** What is to be done to everything that matches. */
export interface BulkOrder {
  readonly of: Keeper;
  /** What is done, for the question: `Purging`. */
  readonly doing: string;
  readonly reason: string;
  readonly dryRun: boolean;
  readonly wait: boolean;
  readonly yes: boolean;
  preview(): Promise<BulkDeletionPreview>;
  send(options: { readonly reason: string; readonly expectedCount: bigint }): Promise<BulkDeletion>;
}

/** Shows what matches, asks, orders it as one operation, and watches that to its end if it is to wait. */
export async function orderBulk(context: CommandContext, order: BulkOrder): Promise<number> {
  const { terminal, print, progress } = context;
  const { of, dryRun, yes, wait } = order;
  const what = `${order.doing} all ${of}s that match`;
  if (!dryRun && order.reason.trim() === '') throw new UsageError('--all-matching needs a --reason');
  if (!dryRun) requireTerminalOrYes(terminal, what, yes);
  const preview = await order.preview();
  if (dryRun || preview.matched === 0n) {
    print(preview, () => previewText(of, preview));
    return EXIT.ok;
  }
  if (!yes) {
    progress.stop();
    terminal.err(render(previewText(of, preview), terminal.columns));
    await confirmByTyping(terminal, `${order.doing} these ${preview.matched} ${of}s`, String(preview.matched), false);
  }
  const ordered = await order.send({ reason: order.reason, expectedCount: preview.matched });
  const shown = wait ? await watchBulk(context, ordered.id, of) : ordered;
  print(shown, () => bulkText(shown));
  return wait ? exitOfBulk(shown) : EXIT.ok;
}

/** Watches a bulk deletion to its end, with a bar where somebody looks; answers with it as it ended. */
export async function watchBulk(
  { lethe, progress, goesOn }: CommandContext,
  id: string,
  of: Keeper,
): Promise<BulkDeletion | undefined> {
  let last: BulkDeletion | undefined;
  goesOn(`The bulk deletion goes on: \`lethe bulk watch ${id}\` shows it, \`lethe bulk cancel ${id}\` stops it.`);
  for await (last of lethe.bulkDeletions.watch(id, { of })) {
    const { matched = 0n, pending = 0n } = last.counts ?? {};
    progress.update(Number(matched - pending), Number(matched), nameOf(BulkDeletionState, last.state));
  }
  progress.stop();
  return last;
}

/** Done when every item is gone; in part when some were skipped, are stuck or were left by a cancellation. */
export function exitOfBulk(bulk: BulkDeletion | undefined): number {
  if (!bulk) return EXIT.failed;
  return bulk.state === BulkDeletionState.COMPLETE && (bulk.counts?.skipped ?? 0n) === 0n ? EXIT.ok : EXIT.partial;
}

/** Bulk deletions, one a row. */
export const bulkTable = makeTable<BulkDeletion>({
  BULK: ({ id }) => id,
  MODE: ({ mode }) => nameOf(DeletionMode, mode),
  STATE: ({ state }) => nameOf(BulkDeletionState, state),
  OF: ({ targetType }) => `${targetType}s`,
  DONE: ({ counts }) => `${counts?.completed ?? 0n}/${counts?.matched ?? 0n}`,
  CREATED: ({ createTime }) => instantOf(createTime),
  ACTOR: ({ actor }) => actor,
  REASON: ({ reason }) => reason,
});

/** One bulk deletion with its counts, which always add up, and why items were skipped. */
export function bulkText(bulk: BulkDeletion | undefined): Text {
  if (!bulk) return '';
  const { counts, filter, lastError, cancelledBy, skipCounts } = bulk;
  const rows = [
    ['completed', counts?.completed],
    ['pending', counts?.pending],
    ['skipped', counts?.skipped],
    ['stuck', counts?.stuck],
    ['cancelled', counts?.cancelled],
    ['matched', counts?.matched],
  ].map(([name, count]) => [String(name), String(count ?? 0n)]);
  return [
    bulkTable([bulk]),
    '',
    toTable(['ITEMS', 'COUNT'], rows),
    ...skipText(skipCounts),
    ...(filter ? ['', toLine(`filter: ${JSON.stringify(filter)}`)] : []),
    ...(cancelledBy ? [toLine(`cancelled by ${cancelledBy}`)] : []),
    ...(lastError ? [toLine(`last error: ${lastError}`)] : []),
    ...(counts?.stuck ? [`\`lethe bulk items ${bulk.id} --state STUCK\` shows what is stuck`] : []),
  ];
}

const skipText = (skips: readonly SkipCount[]): readonly Text[] =>
  skips.length === 0
    ? []
    : [
        '',
        toTable(
          ['SKIPPED SINCE', 'COUNT'],
          skips.map(({ reason, count }) => [reason, String(count)]),
        ),
      ];

function previewText(of: Keeper, { matched, exceedsCeiling, skipCounts, samples }: BulkDeletionPreview): Text {
  const more = exceedsCeiling ? 'more than ' : '';
  const some = samples.map(({ resourceId }) => `  ${toLine(resourceId)}`);
  return [
    `${more}${matched} ${of}s match`,
    ...skipText(skipCounts),
    ...(some.length > 0 ? ['', 'the newest of them:', ...some] : []),
  ];
}
