import { type Command, Option } from 'commander';
import {
  type BulkDeletion,
  type BulkDeletionItem,
  BulkDeletionItemState,
  BulkDeletionState,
} from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { hasReason, type Lethe } from '#libs/client/lethe.ts';
import type { Run } from '../context.ts';
import { addExamples } from '../example.ts';
import type { Keeper } from '../find-deletion.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { mergeNewest } from '../merge-newest.ts';
import { bulkTable, bulkText, exitOfBulk, watchBulk } from '../order-bulk.ts';
import { instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue } from '../parse.ts';
import { makeTable, toLine } from '../table.ts';

interface KindOptions {
  readonly kind?: Keeper;
}

const KEEPERS: readonly Keeper[] = ['run', 'job'];
const SOME_BULK = '018f6b1e-7c1a-7000-8000-000000000005';

const itemTable = makeTable<BulkDeletionItem>({
  ITEM: ({ targetId }) => targetId,
  STATE: ({ state }) => nameOf(BulkDeletionItemState, state),
  DELETION: ({ deletionId }) => deletionId,
  WHY: ({ skipReason, lastError }) => [skipReason, lastError].filter((why) => why !== '').join('; '),
  CHANGED: ({ updateTime }) => instantOf(updateTime),
});

/** Finds a bulk deletion in whichever service has it. */
async function find(lethe: Lethe, id: string): Promise<{ readonly of: Keeper; readonly bulk: BulkDeletion }> {
  const missing: unknown[] = [];
  for (const of of KEEPERS) {
    try {
      return { of, bulk: await lethe.bulkDeletions.get(id, { of }) };
    } catch (error) {
      if (!hasReason(error, 'BULK_DELETION_NOT_FOUND') && !hasReason(error, 'ADDRESS_MISSING')) throw error;
      missing.push(error);
    }
  }
  throw missing.find((error) => hasReason(error, 'BULK_DELETION_NOT_FOUND')) ?? missing[0];
}

/** `lethe bulk …`: deletions of everything that a filter matched. */
export function addBulkCommands(program: Command, run: Run): void {
  const bulk = program.command('bulk').description('deletions of everything that a filter matched, with their items');

  addExamples(
    addLimit(bulk.command('list').description('newest first'))
      .option('--state <state>', `one of ${enumNames(BulkDeletionState).join(', ')}`, enumValue(BulkDeletionState))
      .addOption(new Option('--kind <kind>', 'only of runs, or of jobs').choices([...KEEPERS]))
      .action(({ state, kind, ...options }: ListOptions & KindOptions & { state?: BulkDeletionState }) =>
        run(async (context) => {
          const lists = (kind ? [kind] : KEEPERS).map((of) =>
            context.lethe.bulkDeletions.list({ of, ...(state ? { state } : {}) }),
          );
          await printList(context, mergeNewest(lists), options, bulkTable);
        }),
      ),
    'lethe --tenant acme bulk list --state STUCK',
  );

  addExamples(
    bulk
      .command('get <bulk>')
      .description('one with its counts, its filter and why items were skipped')
      .action((id: string) =>
        run(async ({ lethe, print }) => {
          const found = await find(lethe, id);
          print(found.bulk, () => bulkText(found.bulk));
        }),
      ),
    `lethe --tenant acme bulk get ${SOME_BULK}`,
  );

  addExamples(
    addLimit(bulk.command('items <bulk>').description('its items with their receipts, in the order of deletion'))
      .option(
        '--state <state>',
        `one of ${enumNames(BulkDeletionItemState).join(', ')}`,
        enumValue(BulkDeletionItemState),
      )
      .action((id: string, { state, ...options }: ListOptions & { state?: BulkDeletionItemState }) =>
        run(async (context) => {
          const { of } = await find(context.lethe, id);
          const items = context.lethe.bulkDeletions.items(id, { of, ...(state ? { state } : {}) });
          await printList(context, items, options, itemTable);
        }),
      ),
    `lethe --tenant acme bulk items ${SOME_BULK} --state SKIPPED`,
  );

  addExamples(
    bulk
      .command('watch <bulk>')
      .description('until it has ended; 3 when something was skipped, is stuck or was cancelled')
      .action((id: string) =>
        run(async (context) => {
          const { of } = await find(context.lethe, id);
          const ended = await watchBulk(context, id, of);
          context.print(ended, () => bulkText(ended));
          return exitOfBulk(ended);
        }),
      ),
    `lethe --tenant acme bulk watch ${SOME_BULK}`,
  );

  addExamples(
    bulk
      .command('cancel <bulk>')
      .description('begin no further item; what is under way is finished, what went stays gone')
      .option('--reason <reason>', 'why, for the audit', '')
      .action((id: string, { reason }: { reason: string }) =>
        run(async ({ lethe, print }) => {
          const { of } = await find(lethe, id);
          const cancelled = await lethe.bulkDeletions.cancel(id, { of, reason });
          print(cancelled, () => toLine(`${cancelled.id} ${nameOf(BulkDeletionState, cancelled.state)}`));
        }),
      ),
    `lethe --tenant acme bulk cancel ${SOME_BULK} --reason 'wrong filter'`,
  );
}
