import type { JsonObject } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import type { PreviewPurgeRunResponse } from '#gen/lethe/run/v1/run_service_pb.ts';
import { confirmByTyping } from '../confirm.ts';
import type { CommandContext, Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { EXIT, instantOf } from '../output.ts';
import { enumNames, enumValue, instant, jsonObject } from '../parse.ts';
import { type Text, toLine, toTable } from '../table.ts';
import { countTable, deletionTable, exitOfDeletion, watchDeletion } from './deletions.ts';
import { addWorkflowCommands, hiddenRunTable, runTable } from './workflows.ts';

interface RunListOptions extends ListOptions {
  readonly state?: RunState;
  readonly workflow?: string;
  readonly since?: Timestamp;
  readonly until?: Timestamp;
  readonly showDeleted: boolean;
}

interface HideOptions {
  readonly reason: string;
  readonly dryRun: boolean;
  readonly wait: boolean;
}

interface PurgeOptions extends HideOptions {
  readonly force: boolean;
  readonly allowMissing: boolean;
  readonly yes: boolean;
}

const SOME_RUN = '018f6b1e-7c1a-7000-8000-000000000001';

/** `lethe runs …`. */
export function addRunCommands(program: Command, run: Run): void {
  const runs = program.command('runs').description('workflow runs');
  addWorkflowCommands(runs, run);
  addRunReadCommands(runs, run);

  addExamples(
    runs
      .command('create <workflow>')
      .description('open a run whose steps are done elsewhere; print its id')
      .option('--name <name>', 'a name for people', '')
      .option('--input <json>', 'what it is given', jsonObject)
      .action((workflow: string, { name: displayName, input }: { name: string; input?: JsonObject }) =>
        run(async ({ lethe, print }) => {
          const created = await lethe.runs.create({ workflow, displayName, ...(input ? { input } : {}) });
          print(created, () => created.id);
          return EXIT.ok;
        }),
      ),
    'lethe --tenant acme runs create call-review --input \'{"call": 17}\'',
  );

  addExamples(
    runs
      .command('finish <run>')
      .description('end a run whose steps are done elsewhere')
      .requiredOption('--state <state>', 'COMPLETED, FAILED or CANCELLED', enumValue(RunState))
      .option('--error <error>', 'why it failed', '')
      .action((runId: string, end: { state: RunState; error: string }) =>
        run(async ({ lethe, print }) => {
          const finished = await lethe.runs.finish(runId, end);
          print(finished, () => runTable([finished]));
          return EXIT.ok;
        }),
      ),
    `lethe --tenant acme runs finish ${SOME_RUN} --state COMPLETED`,
  );

  for (const [name, description, why] of [
    ['delete', 'hide it and what hangs on it; reversible until it is purged', 'by mistake'],
    ['undelete', 'bring back what was hidden', 'still needed'],
  ] as const) {
    addExamples(
      runs
        .command(`${name} <run>`)
        .description(description)
        .option('--reason <reason>', 'why, for tombstones and audit', '')
        .option('--no-wait', 'only until it is committed')
        .option('--dry-run', 'check everything, change nothing', false)
        .action((runId: string, { reason, wait, dryRun }: HideOptions) =>
          run(async (context) => {
            const { deletion } = await context.lethe.runs[name](runId, { reason, validateOnly: dryRun });
            const isWatched = wait && !dryRun && deletion !== undefined;
            const shown = isWatched ? await watchDeletion(context, deletion.id) : deletion;
            context.print(shown, () => (shown ? deletionTable([shown]) : 'nothing to do'));
            return isWatched ? exitOfDeletion(shown) : EXIT.ok;
          }),
        ),
      `lethe --tenant acme runs ${name} ${SOME_RUN} --reason '${why}'`,
    );
  }

  addExamples(
    runs
      .command('purge <run>')
      .description('remove it for good from every service')
      .requiredOption('--reason <reason>', 'why, for the audit')
      .option('--force', "also a run that is younger than the operator's guard", false)
      .option('--allow-missing', 'do well when there is no such run', false)
      .option('--wait', 'until it is gone', false)
      .option('--dry-run', 'check everything, show what would go', false)
      .option('--yes', 'do not ask', false)
      .action((runId: string, options: PurgeOptions) => run((context) => purge(context, runId, options))),
    `lethe --tenant acme runs purge ${SOME_RUN} --reason 'contract ended' --dry-run`,
    `lethe --tenant acme runs purge ${SOME_RUN} --reason 'contract ended' --wait`,
  );
}

function addRunReadCommands(runs: Command, run: Run): void {
  addExamples(
    addLimit(runs.command('list').description('newest first'))
      .option('--state <state>', `one of ${enumNames(RunState).join(', ')}`, enumValue(RunState))
      .option('--workflow <name>', 'only runs of this workflow')
      .option('--since <instant>', 'only runs created then or later', instant)
      .option('--until <instant>', 'only runs created before', instant)
      .option('--show-deleted', 'also hidden ones, and since when, by whom and why', false)
      .action(({ state, workflow, since, until, showDeleted, ...options }: RunListOptions) =>
        run(async (context) => {
          const filter = {
            showDeleted,
            ...(state ? { state } : {}),
            ...(workflow ? { workflow } : {}),
            ...(since ? { minCreateTime: since } : {}),
            ...(until ? { maxCreateTime: until } : {}),
          };
          const table = showDeleted ? hiddenRunTable : runTable;
          await printList(context, context.lethe.runs.list(filter), options, table);
          return EXIT.ok;
        }),
      ),
    'lethe --tenant acme runs list --state FAILED',
    'lethe --tenant acme runs list --show-deleted --limit 10',
  );

  addExamples(
    runs
      .command('get <run>')
      .description('one run')
      .option('--show-deleted', 'also a hidden one', false)
      .action((runId: string, options: { showDeleted: boolean }) =>
        run(async ({ lethe, print }) => {
          const found = await lethe.runs.get(runId, options);
          print(found, () => (found.deleteTime ? hiddenRunTable : runTable)([found]));
          return EXIT.ok;
        }),
      ),
    `lethe --tenant acme runs get ${SOME_RUN}`,
  );

  addExamples(
    runs
      .command('preview <run>')
      .description('what a purge would take; fails when something forbids it')
      .action((runId: string) =>
        run(async ({ lethe, print }) => {
          const preview = await lethe.runs.preview(runId);
          print(preview, () => previewText(preview));
          return preview.blockers.length > 0 ? EXIT.failed : EXIT.ok;
        }),
      ),
    `lethe --tenant acme runs preview ${SOME_RUN}`,
  );
}

async function purge(
  context: CommandContext,
  runId: string,
  { reason, force, allowMissing, wait, dryRun, yes }: PurgeOptions,
): Promise<number> {
  const { lethe, terminal, print } = context;
  const order = { reason, force, allowMissing };
  if (dryRun) {
    const preview = await lethe.runs.purge(runId, { ...order, validateOnly: true });
    print(preview, () => (preview ? countTable(preview) : 'nothing to do'));
    return EXIT.ok;
  }
  await confirmByTyping(terminal, `Purging the run ${runId}`, runId, yes);
  const deletion = await lethe.runs.purge(runId, order);
  const shown = wait && deletion ? await watchDeletion(context, deletion.id) : deletion;
  print(shown, () => (shown ? deletionTable([shown]) : 'nothing to do'));
  return wait ? exitOfDeletion(shown) : EXIT.ok;
}

function previewText({ participants, blockers, purgeableTime }: PreviewPurgeRunResponse): Text {
  const rows = participants.flatMap(({ participant, resourceCounts }) =>
    resourceCounts.map(({ resourceType, found, passedOn, bytes }) =>
      [participant, resourceType, found - passedOn, bytes, passedOn].map(String),
    ),
  );
  const forbidden = blockers.map(({ reason, message }) => `forbidden: ${reason}: ${toLine(message)}`);
  const guard =
    purgeableTime && forbidden.length > 0 ? [`the age guard lets it go at ${instantOf(purgeableTime)}`] : [];
  return [toTable(['SERVICE', 'WHAT', 'COUNT', 'BYTES', 'PASSED ON'], rows), ...forbidden, ...guard];
}
