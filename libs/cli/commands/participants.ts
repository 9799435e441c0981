import type { Command } from 'commander';
import type { KnownParticipant } from '#gen/lethe/run/v1/run_service_pb.ts';
import type { Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf } from '../output.ts';
import { makeTable } from '../table.ts';

/** Where a participant stands, in one word or two. */
export const stateOfParticipant = ({ configured, retireTime, claimedDataId }: KnownParticipant): string => {
  if (claimedDataId) return 'CHANGED';
  if (configured) return 'CONFIGURED';
  return retireTime ? 'RETIRED' : 'NOT CONFIGURED';
};

const tableOf = makeTable<KnownParticipant>({
  PARTICIPANT: ({ name }) => name,
  STATE: stateOfParticipant,
  SINCE: ({ firstConfigureTime }) => instantOf(firstConfigureTime),
  WHY: ({ retiredBy, retireReason }) => retireReason && `${retiredBy}: ${retireReason}`,
});

/** `lethe participants …`: the services that deletions of runs wait for. */
export function addParticipantCommands(program: Command, run: Run): void {
  const participants = program.command('participants').description('services that deletions of runs wait for');

  addExamples(
    addLimit(
      participants.command('list').description('every participant that this installation has or had; for platform'),
    ).action((options: ListOptions) =>
      run(async (context) => {
        await printList(context, context.lethe.participants.list(), options, tableOf);
      }),
    ),
    'lethe participants list',
  );

  for (const [verb, description, why] of [
    ['confirm', 'confirm that the data set from which it now answers is the right one', 'restored from the backup'],
    ['retire', 'take one out of all deletions whose service is gone together with its data', 'the product ended'],
  ] as const) {
    addExamples(
      participants
        .command(`${verb} <participant>`)
        .description(description)
        .requiredOption('--reason <reason>', 'why, for the audit')
        .action((name: string, options: { reason: string }) =>
          run(async ({ lethe, print }) => {
            const participant = await lethe.participants[verb](name, options);
            print(participant, () => tableOf([participant]));
          }),
        ),
      `lethe participants ${verb} mail --reason '${why}'`,
    );
  }
}
