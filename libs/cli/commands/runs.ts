import { SingleBar } from 'cli-progress';
import type { Command } from 'commander';
import { type Deletion, DeletionMode, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Run as RunMessage, RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { confirmByTyping } from '../confirm.ts';
import type { CommandContext, Run } from '../lethe.ts';
import { EXIT, instantOf, nameOf, toTable } from '../output.ts';

const rowOf = (run: RunMessage) => [run.id, nameOf(RunState, run.state), run.workflow, instantOf(run.createTime)];
const tableOf = (runs: readonly RunMessage[]) => toTable(['RUN', 'STATE', 'WORKFLOW', 'CREATED'], runs.map(rowOf));
const deletionRow = (deletion: Deletion) => [
  deletion.id,
  nameOf(DeletionMode, deletion.mode),
  nameOf(DeletionState, deletion.state),
  deletion.targetId,
  deletion.lastError,
];
const deletionTable = (deletions: readonly Deletion[]) =>
  toTable(['DELETION', 'MODE', 'STATE', 'RUN', 'LAST ERROR'], deletions.map(deletionRow));

/** Watches a deletion to its end, with a bar on a terminal; answers it as it ended. */
async function watch({ lethe }: CommandContext, deletionId: string): Promise<Deletion | undefined> {
  const bar = process.stderr.isTTY
    ? new SingleBar({ format: '{bar} {value}/{total} {state}', stream: process.stderr })
    : undefined;
  let last: Deletion | undefined;
  for await (const { deletion } of lethe.services.run.watchDeletion({ deletionId })) {
    if (!deletion) continue;
    const done = deletion.participants.filter(({ state }) => state === DeletionState.COMPLETE).length;
    const state = nameOf(DeletionState, deletion.state);
    if (last) bar?.update(done, { state });
    else bar?.start(deletion.participants.length, done, { state });
    last = deletion;
  }
  bar?.stop();
  return last;
}

const exitOf = (deletion: Deletion | undefined): number =>
  deletion === undefined || deletion.state === DeletionState.COMPLETE ? EXIT.ok : EXIT.partial;

/** `lethe runs …` and `lethe deletions …`. */
export function addRunCommands(program: Command, run: Run): void {
  const runs = program.command('runs').description('workflow runs');

  runs
    .command('list')
    .option('--show-deleted', 'also hidden ones', false)
    .action((options: { showDeleted: boolean }) =>
      run(async ({ lethe, print }) => {
        const found: RunMessage[] = [];
        for (let pageToken = '', first = true; first || pageToken !== ''; first = false) {
          const page = await lethe.services.run.listRuns({
            pageSize: 200,
            pageToken,
            showDeleted: options.showDeleted,
          });
          found.push(...page.runs);
          pageToken = page.nextPageToken;
        }
        print(found, () => tableOf(found));
        return EXIT.ok;
      }),
    );

  runs.command('get <run>').action((runId: string) =>
    run(async ({ lethe, print }) => {
      const found = (await lethe.services.run.getRun({ runId })).run;
      print(found, () => tableOf(found ? [found] : []));
      return EXIT.ok;
    }),
  );

  runs
    .command('preview <run>')
    .description('what a purge would take')
    .action((runId: string) =>
      run(async ({ lethe, print }) => {
        const preview = await lethe.services.run.previewPurgeRun({ runId });
        const rows = preview.participants.flatMap(({ participant, resourceCounts }) =>
          resourceCounts.map(({ resourceType, found }) => [participant, resourceType, String(found)]),
        );
        print(preview, () => toTable(['SERVICE', 'WHAT', 'COUNT'], rows));
        return preview.blockers.length > 0 ? EXIT.failed : EXIT.ok;
      }),
    );

  for (const [name, description] of [
    ['delete', 'hide it; reversible'],
    ['undelete', 'bring it back'],
  ] as const) {
    runs
      .command(`${name} <run>`)
      .description(description)
      .option('--reason <reason>', 'why, for the audit', '')
      .action((runId: string, { reason }: { reason: string }) =>
        run(async (context) => {
          const { run: service } = context.lethe.services;
          const { deletion } = await (name === 'delete'
            ? service.deleteRun({ runId, reason })
            : service.undeleteRun({ runId, reason }));
          const ended = deletion && (await watch(context, deletion.id));
          context.print(ended, () => deletionTable(ended ? [ended] : []));
          return exitOf(ended);
        }),
      );
  }

  runs
    .command('purge <run>')
    .description('remove it for good from every service')
    .requiredOption('--reason <reason>', 'why, for the audit')
    .option('--force', 'also a run that is younger than the operator’s guard', false)
    .option('--wait', 'until it is gone', false)
    .option('--yes', 'do not ask', false)
    .action((runId: string, options: { reason: string; force: boolean; wait: boolean; yes: boolean }) =>
      run(async (context) => {
        await confirmByTyping('Purging a run', runId, options.yes);
        const { reason, force } = options;
        const { deletion } = await context.lethe.services.run.purgeRun({ runId, reason, force });
        const shown = options.wait && deletion ? await watch(context, deletion.id) : deletion;
        context.print(shown, () => deletionTable(shown ? [shown] : []));
        return options.wait ? exitOf(shown) : EXIT.ok;
      }),
    );

  const deletions = program.command('deletions').description('deletions of runs');
  deletions.command('list').action(() =>
    run(async ({ lethe, print }) => {
      const found: Deletion[] = [];
      for (let pageToken = '', first = true; first || pageToken !== ''; first = false) {
        const page = await lethe.services.run.listDeletions({ pageSize: 200, pageToken });
        found.push(...page.deletions);
        pageToken = page.nextPageToken;
      }
      print(found, () => deletionTable(found));
      return EXIT.ok;
    }),
  );
  deletions.command('get <deletion>').action((deletionId: string) =>
    run(async ({ lethe, print }) => {
      const { deletion } = await lethe.services.run.getDeletion({ deletionId });
      print(deletion, () => deletionTable(deletion ? [deletion] : []));
      return EXIT.ok;
    }),
  );
  deletions.command('watch <deletion>').action((deletionId: string) =>
    run(async (context) => {
      const ended = await watch(context, deletionId);
      context.print(ended, () => deletionTable(ended ? [ended] : []));
      return exitOf(ended);
    }),
  );
  deletions
    .command('redrive <deletion>')
    .option('--reason <reason>', 'why, for the audit', '')
    .action((deletionId: string, { reason }: { reason: string }) =>
      run(async ({ lethe, print }) => {
        const { deletion } = await lethe.services.run.redriveDeletion({ deletionId, reason });
        print(deletion, () => deletionTable(deletion ? [deletion] : []));
        return EXIT.ok;
      }),
    );
}
