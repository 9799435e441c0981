import { type Command, Option } from 'commander';
import { type Deletion, DeletionMode, DeletionState, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { CommandContext, Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { findDeletion, type Keeper, listDeletions } from '../find-deletion.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { EXIT, instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue } from '../parse.ts';
import { makeTable, type Text, toLine, toTable } from '../table.ts';

/** Whose deletions; both kinds without. */
interface KindOptions {
  readonly kind?: Keeper;
  /** The old spelling of kind. */
  readonly of?: Keeper;
}

interface DeletionListOptions extends ListOptions, KindOptions {
  readonly state?: DeletionState;
  readonly target?: string;
}

const SOME_DELETION = '018f6b1e-7c1a-7000-8000-000000000002';

/** Deletions, one a row. */
export const deletionTable = makeTable<Deletion>({
  DELETION: ({ id }) => id,
  MODE: ({ mode }) => nameOf(DeletionMode, mode),
  STATE: ({ state }) => nameOf(DeletionState, state),
  OF: ({ targetType }) => targetType,
  ID: ({ targetId }) => targetId,
  'LAST ERROR': ({ lastError }) => lastError,
});

/** A receipt whole: who, why, when, what went of how much, and what was read back. */
export function receiptText(deletion: Deletion): Text {
  const { actor, reason, force, runId, participants } = deletion;
  const failed = participants.flatMap(({ participant, failedItems }) =>
    failedItems.map(({ key, code, message }) => [participant, key, code, message]),
  );
  return [
    deletionTable([deletion]),
    '',
    toLine(`by ${actor}${reason ? `: ${reason}` : ''}`),
    whenText(deletion),
    ...(force ? ['the age guard was overridden'] : []),
    ...(runId ? [`the run ${runId} keeps what it holds itself, until it is purged: lethe runs purge ${runId}`] : []),
    '',
    countsTable(deletion),
    '',
    readBackTable(deletion),
    ...(failed.length > 0 ? ['', toTable(['SERVICE', 'COULD NOT BE REMOVED', 'CODE', 'WHY'], failed)] : []),
  ];
}

function whenText({ createTime, finishTime, updateTime, state, attempts }: Deletion): string {
  const asked = `asked for at ${instantOf(createTime)}`;
  if (finishTime) return `${asked}, ended at ${instantOf(finishTime)}`;
  const failed = attempts > 0 ? `, after ${attempts} failed attempts` : '';
  return `${asked}, ${nameOf(DeletionState, state)} since ${instantOf(updateTime)}${failed}`;
}

/** What a deletion has done so far, participant by participant. */
function countsTable({ participants }: Deletion) {
  const rows = participants.flatMap(({ participant, resourceCounts }) =>
    resourceCounts.map(({ resourceType, found, deleted, left, passedOn, bytes, atLeast }) => {
      const told = (count: bigint): string => (atLeast ? `>= ${count}` : String(count));
      return [participant, resourceType, told(found), told(deleted), String(left), String(passedOn), told(bytes)];
    }),
  );
  return toTable(['SERVICE', 'WHAT', 'FOUND', 'DONE', 'LEFT', 'PASSED ON', 'BYTES'], rows);
}

/** Whether each participant was read back as holding nothing more, and what keeps those that were not. */
function readBackTable({ mode, participants }: Deletion) {
  // Only a purge is told of while it has yet to be read back.
  const unread = mode === DeletionMode.PURGE ? 'not yet' : '';
  const rows = participants.map(({ participant, state, verifyTime, lastError, attempts, nextAttemptTime }) => [
    participant,
    nameOf(DeletionState, state),
    instantOf(verifyTime) || unread,
    [
      lastError,
      ...(attempts > 0 ? [`${attempts} failed attempts`] : []),
      ...(nextAttemptTime ? [`next at ${instantOf(nextAttemptTime)}`] : []),
    ]
      .filter((part) => part !== '')
      .join('; '),
  ]);
  return toTable(['SERVICE', 'STATE', 'READ BACK', 'LAST ERROR'], rows);
}

/** What the dry run of a deletion would take. */
export function countTable({ participants }: Deletion) {
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
  { lethe, progress, goesOn }: CommandContext,
  deletionId: string,
  of: Keeper = 'run',
): Promise<Deletion | undefined> {
  let last: Deletion | undefined;
  goesOn(`The deletion goes on: \`lethe deletions watch ${deletionId}\` shows it.`);
  for await (last of lethe.deletions.watch(deletionId, { of })) {
    const done = last.participants.filter(({ state }) => state === DeletionState.COMPLETE).length;
    progress.update(done, last.participants.length, nameOf(DeletionState, last.state));
  }
  progress.stop();
  return last;
}

/** Done when it is COMPLETE, or when there was nothing to do; anything else is left or under way. */
export const exitOfDeletion = (deletion: Deletion | undefined): number =>
  deletion === undefined || deletion.state === DeletionState.COMPLETE ? EXIT.ok : EXIT.partial;

const addKind = (command: Command): Command =>
  command
    .addOption(new Option('--kind <kind>', 'only deletions of runs, or of jobs').choices(['run', 'job']))
    .addOption(new Option('--of <kind>').choices(['run', 'job']).hideHelp());

const keeperOf = ({ kind, of }: KindOptions): Keeper | undefined => kind ?? of;

/** `lethe deletions …`. */
export function addDeletionCommands(program: Command, run: Run): void {
  const deletions = program.command('deletions').description('receipts of what went, and what is stuck');

  addExamples(
    addKind(addLimit(deletions.command('list').description('of runs and jobs, newest first')))
      .option('--state <state>', `one of ${enumNames(DeletionState).join(', ')}`, enumValue(DeletionState))
      .option('--target <id>', 'only of this run or job')
      .action(({ kind, of, state, target, ...options }: DeletionListOptions) =>
        run(async (context) => {
          const filter = defined({ keeper: kind ?? of, state, targetId: target });
          const found = listDeletions(context.lethe, filter);
          await printList(context, found, options, deletionTable);
        }),
      ),
    'lethe --tenant acme deletions list --state STUCK',
    'lethe --tenant acme deletions list --target 018f6b1e-7c1a-7000-8000-000000000001',
  );

  addExamples(
    addKind(deletions.command('get <deletion>'))
      .description('one receipt: who, why, what went of how much, and what was read back')
      .action((deletionId: string, options: KindOptions) =>
        run(async ({ lethe, print }) => {
          const { deletion } = await findDeletion(lethe, deletionId, keeperOf(options));
          print(deletion, () => receiptText(deletion));
        }),
      ),
    `lethe --tenant acme deletions get ${SOME_DELETION}`,
  );

  addExamples(
    addKind(deletions.command('watch <deletion>'))
      .description('until it is complete or stuck')
      .action((deletionId: string, options: KindOptions) =>
        run(async (context) => {
          const { keeper } = await findDeletion(context.lethe, deletionId, keeperOf(options));
          const ended = await watchDeletion(context, deletionId, keeper);
          context.print(ended, () => deletionTable(ended ? [ended] : []));
          return exitOfDeletion(ended);
        }),
      ),
    `lethe --tenant acme deletions watch ${SOME_DELETION}`,
  );

  addExamples(
    addKind(deletions.command('redrive <deletion>'))
      .description('set a stuck one going again')
      .option('--reason <reason>', 'why, for the audit', '')
      .action((deletionId: string, { reason, ...options }: KindOptions & { reason: string }) =>
        run(async ({ lethe, print }) => {
          const { keeper } = await findDeletion(lethe, deletionId, keeperOf(options));
          const deletion = await lethe.deletions.redrive(deletionId, { of: keeper, reason });
          print(deletion, () => deletionTable([deletion]));
        }),
      ),
    `lethe --tenant acme deletions redrive ${SOME_DELETION} --reason 'the store is back'`,
  );
}
