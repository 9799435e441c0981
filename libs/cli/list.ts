import { type Command, Option } from 'commander';
import type { CommandContext } from './context.ts';
import { wholeNumber } from './parse.ts';
import type { Text } from './table.ts';

/** How much of a list is shown. */
export interface ListOptions {
  readonly limit: number;
  readonly all: boolean;
}

const DEFAULT_LIMIT = 50;

/** Adds `--limit` and `--all`. */
export const addLimit = (command: Command): Command =>
  command
    .option('--limit <count>', 'show no more than so many', wholeNumber({ min: 1, max: 1_000_000_000 }), DEFAULT_LIMIT)
    .addOption(new Option('--all', 'show all there are').default(false).conflicts('limit'));

/** Prints as much of a list as was asked for, and says on standard error when there is more. */
export async function printList<T>(
  { print, terminal }: Pick<CommandContext, 'print' | 'terminal'>,
  items: AsyncIterable<T>,
  { limit, all }: ListOptions,
  text: (found: readonly T[]) => Text,
  toJson: (item: T) => unknown = (item) => item,
): Promise<void> {
  const found: T[] = [];
  let isMore = false;
  for await (const item of items) {
    isMore = !all && found.length === limit;
    if (isMore) break;
    found.push(item);
  }
  print(found.map(toJson), () => text(found));
  if (isMore) terminal.err(`There are more than these ${limit}: --all shows all, --limit COUNT so many.`);
}
