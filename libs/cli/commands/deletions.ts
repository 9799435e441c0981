import { type Command, Option } from 'commander';
import { type Deletion, DeletionMode, DeletionState, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { CommandContext, Run } from '../context.ts';
import { EXIT, firstOf, nameOf, toTable } from '../output.ts';
import { enumNames, enumValue, wholeNumber } from '../parse.ts';

/** Whose deletions. */
export interface OfOption {
  readonly of: 'run' | 'job';
}

interface ListOptions extends OfOption {
  readonly state?: DeletionState;
  readonly target?: string;
  readonly limit?: number;
}

const rowOf = (deletion: Deletion) => [
  deletion.id,
  nameOf(DeletionMode, deletion.mode),
  nameOf(DeletionState, deletion.state),
  deletion.targetType,
  deletion.targetId,
  deletion.lastError,
];

/** Deletions, one a row. */
export const deletionTable = (deletions: readonly Deletion[]): string =>
  toTable(['DELETION', 'MODE', 'STATE', 'OF', 'ID', 'LAST ERROR'], deletions.map(rowOf));

/** What a deletion has done so far, participant by participant. */
export function receiptTable({ participants }: Deletion): string {
  const rows = participants.flatMap(({ participant, resourceCounts }) =>
    resourceCounts.map(({ resourceType, found, deleted, left, passedOn, bytes, atLeast }) => {
      const told = (count: bigint): string => (atLeast ? `>= ${count}` : String(count));
      return [participant, resourceType, told(found), told(deleted), String(left), String(passedOn), told(bytes)];
    }),
  );
  return toTable(['SERVICE', 'WHAT', 'FOUND', 'DONE', 'LEFT', 'PASSED ON', 'BYTES'], rows);
}

/** What a rehearsed deletion would take. */
export function countTable({ participants }: Deletion): string {
  const rows = participants.flatMap(({ participant, resourceCounts }) =>
    resourceCounts.map(({ resourceType, found, passedOn }: ResourceCount) => [
      participant,
      resourceType,
      String(found - passedOn),
    ]),
  );
  return toTable(['SERVICE', 'WOULD GO', 'COUNT'], rows);
}

/** Watches a deletion to its end, with a bar where somebody looks; answers with the deletion as it ended. */
export async function watchDeletion(
  { lethe, progress }: CommandContext,
  deletionId: string,
  options: OfOption = { of: 'run' },
): Promise<Deletion | undefined> {
  let last: Deletion | undefined;
  for await (last of lethe.deletions.watch(deletionId, options)) {
    const done = last.participants.filter(({ state }) => state === DeletionState.COMPLETE).length;
    progress.update(done, last.participants.length, nameOf(DeletionState, last.state));
  }
  progress.stop();
  return last;
}

/** Done when it is COMPLETE, or when there was nothing to do; anything else is left or under way. */
export const exitOfDeletion = (deletion: Deletion | undefined): number =>
  deletion === undefined || deletion.state === DeletionState.COMPLETE ? EXIT.ok : EXIT.partial;

/** `lethe deletions …`. */
export function addDeletionCommands(program: Command, run: Run): void {
  const deletions = program.command('deletions').description('receipts of what went, and what is stuck');
  const ofOption = () =>
    new Option('--of <what>', 'deletions of runs or of jobs').choices(['run', 'job']).default('run');

  deletions
    .command('list')
    .description('newest first')
    .addOption(ofOption())
    .option('--state <state>', `one of ${enumNames(DeletionState).join(', ')}`, enumValue(DeletionState))
    .option('--target <id>', 'only of this run or job')
    .option('--limit <count>', 'no more than so many', wholeNumber({ min: 1, max: 1_000_000_000 }))
    .action(({ of, state, target: targetId, limit }: ListOptions) =>
      run(async ({ lethe, print }) => {
        const filter = { of, ...(state ? { state } : {}), ...(targetId ? { targetId } : {}) };
        const found = await firstOf(lethe.deletions.list(filter), limit);
        print(found, () => deletionTable(found));
        return EXIT.ok;
      }),
    );

  deletions
    .command('get <deletion>')
    .description('one receipt, with counts for each service')
    .addOption(ofOption())
    .action((deletionId: string, options: OfOption) =>
      run(async ({ lethe, print }) => {
        const deletion = await lethe.deletions.get(deletionId, options);
        print(deletion, () => `${deletionTable([deletion])}\n\n${receiptTable(deletion)}`);
        return EXIT.ok;
      }),
    );

  deletions
    .command('watch <deletion>')
    .description('until it is complete or stuck')
    .addOption(ofOption())
    .action((deletionId: string, options: OfOption) =>
      run(async (context) => {
        const ended = await watchDeletion(context, deletionId, options);
        context.print(ended, () => deletionTable(ended ? [ended] : []));
        return exitOfDeletion(ended);
      }),
    );

  deletions
    .command('redrive <deletion>')
    .description('set a stuck one going again')
    .addOption(ofOption())
    .option('--reason <reason>', 'why, for the audit', '')
    .action((deletionId: string, options: OfOption & { reason: string }) =>
      run(async ({ lethe, print }) => {
        const deletion = await lethe.deletions.redrive(deletionId, options);
        print(deletion, () => deletionTable([deletion]));
        return EXIT.ok;
      }),
    );
}
