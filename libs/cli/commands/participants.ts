import type { Command } from 'commander';
import type { KnownParticipant } from '#gen/lethe/run/v1/run_service_pb.ts';
import type { Run } from '../context.ts';
import { EXIT, instantOf, toTable } from '../output.ts';

const stateOf = ({ configured, retireTime, claimedDataId }: KnownParticipant): string => {
  if (claimedDataId) return 'CHANGED';
  if (configured) return 'CONFIGURED';
  return retireTime ? 'RETIRED' : 'NOT CONFIGURED';
};

const tableOf = (participants: readonly KnownParticipant[]): string =>
  toTable(
    ['PARTICIPANT', 'STATE', 'SINCE', 'WHY'],
    participants.map((participant) => [
      participant.name,
      stateOf(participant),
      instantOf(participant.firstConfigureTime),
      participant.retireReason && `${participant.retiredBy}: ${participant.retireReason}`,
    ]),
  );

/** `lethe participants …`: the services that deletions of runs wait for. */
export function addParticipantCommands(program: Command, run: Run): void {
  const participants = program.command('participants').description('services that deletions of runs wait for');

  participants
    .command('list')
    .description('every participant that this installation has or had')
    .action(() =>
      run(
        async ({ lethe, print }) => {
          const found = await Array.fromAsync(lethe.participants.list());
          print(found, () => tableOf(found));
          return EXIT.ok;
        },
        { asPlatform: true },
      ),
    );

  for (const [verb, description] of [
    ['confirm', 'confirm that the data set from which it now answers is the right one'],
    ['retire', 'take one out of all deletions whose service is gone together with its data'],
  ] as const) {
    participants
      .command(`${verb} <participant>`)
      .description(description)
      .requiredOption('--reason <reason>', 'why, for the audit')
      .action((name: string, options: { reason: string }) =>
        run(
          async ({ lethe, print }) => {
            const participant = await lethe.participants[verb](name, options);
            print(participant, () => tableOf([participant]));
            return EXIT.ok;
          },
          { asPlatform: true },
        ),
      );
  }
}
