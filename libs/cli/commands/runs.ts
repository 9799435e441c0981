import type { JsonObject } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import type { PreviewPurgeRunResponse } from '#gen/lethe/run/v1/run_service_pb.ts';
import { confirmByTyping } from '../confirm.ts';
import type { CommandContext, Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { addAllMatching, isAllMatching, orderBulk } from '../order-bulk.ts';
import { EXIT, instantOf } from '../output.ts';
import { enumNames, enumValue, enumValues, instant, jsonObject } from '../parse.ts';
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

interface FilterOptions {
  readonly state?: readonly RunState[];
  readonly workflow?: string;
  readonly since?: Timestamp;
  readonly until?: Timestamp;
}

interface HideOptions extends FilterOptions {
  readonly allMatching: boolean;
  readonly reason: string;
  readonly dryRun: boolean;
  readonly wait: boolean;
  readonly yes: boolean;
}

interface PurgeOptions extends HideOptions {
  readonly force: boolean;
  readonly allowMissing: boolean;
  readonly showDeleted: boolean;
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
        }),
      ),
    `lethe --tenant acme runs finish ${SOME_RUN} --state COMPLETED`,
  );

  addExamples(
    addFilter(runs.command('delete [run]'))
      .description('hide it and what hangs on it, or all that match; reversible until it is purged')
      .option('--reason <reason>', 'why, for tombstones and audit', '')
      .option('--no-wait', 'only until it is committed')
      .option('--dry-run', 'check everything, change nothing', false)
      .option('--yes', 'do not ask, which --all-matching does', false)
      .action((runId: string | undefined, options: HideOptions) => run((context) => hide(context, runId, options))),
    `lethe --tenant acme runs delete ${SOME_RUN} --reason 'by mistake'`,
    "lethe --tenant acme runs delete --all-matching --workflow trial --reason 'the trial is over'",
  );

  addExamples(
    runs
      .command('undelete <run>')
      .description('bring back what was hidden')
      .option('--reason <reason>', 'why, for tombstones and audit', '')
      .option('--no-wait', 'only until it is committed')
      .option('--dry-run', 'check everything, change nothing', false)
      .action((runId: string, options: Pick<HideOptions, 'reason' | 'wait' | 'dryRun'>) =>
        run((context) => hideOne(context, 'undelete', runId, options)),
      ),
    `lethe --tenant acme runs undelete ${SOME_RUN} --reason 'still needed'`,
  );

  addExamples(
    addFilter(runs.command('purge [run]'))
      .description('remove it for good from every service, or all that match')
      .option('--show-deleted', 'with --all-matching: also hidden ones', false)
      .requiredOption('--reason <reason>', 'why, for the audit')
      .option('--force', "also a run that is younger than the operator's guard", false)
      .option('--allow-missing', 'do well when there is no such run', false)
      .option('--wait', 'until it is gone', false)
      .option('--dry-run', 'check everything, show what would go', false)
      .option('--yes', 'do not ask', false)
      .action((runId: string | undefined, options: PurgeOptions) => run((context) => purge(context, runId, options))),
    `lethe --tenant acme runs purge ${SOME_RUN} --reason 'contract ended' --dry-run`,
    `lethe --tenant acme runs purge ${SOME_RUN} --reason 'contract ended' --wait`,
    "lethe --tenant acme runs purge --all-matching --state FAILED --until 2026-01-01T00:00:00Z --reason 'old' --wait",
  );
}

/** What `--all-matching` goes by. */
const addFilter = (command: Command): Command =>
  addAllMatching(command, 'run')
    .option('--state <states...>', `in one of these states: ${enumNames(RunState).join(', ')}`, enumValues(RunState))
    .option('--workflow <name>', 'of this workflow')
    .option('--since <instant>', 'created then or later', instant)
    .option('--until <instant>', 'created before', instant);

const filterOf = ({ state, workflow, since, until }: FilterOptions) =>
  defined({ states: state && [...state], workflow, minCreateTime: since, maxCreateTime: until });

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
          const filter = defined({ showDeleted, state, workflow, minCreateTime: since, maxCreateTime: until });
          const table = showDeleted ? hiddenRunTable : runTable;
          await printList(context, context.lethe.runs.list(filter), options, table);
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

async function hide(context: CommandContext, runId: string | undefined, options: HideOptions) {
  const filter = filterOf(options);
  if (!isAllMatching(runId, options, filter)) return hideOne(context, 'delete', runId ?? '', options);
  const { runs } = context.lethe;
  return orderBulk(context, {
    ...options,
    of: 'run',
    doing: 'Hiding',
    preview: () => runs.previewPurgeAll(filter, { hide: true }),
    send: (order) => runs.purgeAll(filter, { hide: true, ...order }),
  });
}

async function hideOne(
  context: CommandContext,
  name: 'delete' | 'undelete',
  runId: string,
  { reason, wait, dryRun }: Pick<HideOptions, 'reason' | 'wait' | 'dryRun'>,
): Promise<number> {
  const { deletion } = await context.lethe.runs[name](runId, { reason, validateOnly: dryRun });
  const isWatched = wait && !dryRun && deletion !== undefined;
  const shown = isWatched ? await watchDeletion(context, deletion.id) : deletion;
  context.print(shown, () => (shown ? deletionTable([shown]) : 'nothing to do'));
  return isWatched ? exitOfDeletion(shown) : EXIT.ok;
}

async function purge(context: CommandContext, runId: string | undefined, options: PurgeOptions): Promise<number> {
  const filter = filterOf(options);
  const { force, showDeleted } = options;
  if (!isAllMatching(runId, options, filter)) return purgeOne(context, runId ?? '', options);
  const { runs } = context.lethe;
  return orderBulk(context, {
    ...options,
    of: 'run',
    doing: 'Purging',
    preview: () => runs.previewPurgeAll({ ...filter, showDeleted }, { force }),
    send: (order) => runs.purgeAll({ ...filter, showDeleted }, { force, ...order }),
  });
}

async function purgeOne(
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
