import type { JsonObject } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import type { PreviewPurgeRunResponse } from '#gen/lethe/run/v1/run_service_pb.ts';
import { confirmByTyping } from '../confirm.ts';
import type { Run } from '../context.ts';
import { EXIT, firstOf, instantOf, toLine, toTable } from '../output.ts';
import { enumNames, enumValue, instant, jsonObject, wholeNumber } from '../parse.ts';
import { countTable, deletionTable, exitOfDeletion, watchDeletion } from './deletions.ts';
import { addWorkflowCommands, runTable } from './workflows.ts';

interface ListOptions {
  readonly state?: RunState;
  readonly workflow?: string;
  readonly since?: Timestamp;
  readonly until?: Timestamp;
  readonly showDeleted: boolean;
  readonly limit?: number;
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

/** `lethe runs …`. */
export function addRunCommands(program: Command, run: Run): void {
  const runs = program.command('runs').description('workflow runs');
  addWorkflowCommands(runs, run);

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
    );

  runs
    .command('list')
    .description('newest first')
    .option('--state <state>', `one of ${enumNames(RunState).join(', ')}`, enumValue(RunState))
    .option('--workflow <name>', 'only runs of this workflow')
    .option('--since <instant>', 'only runs created then or later', instant)
    .option('--until <instant>', 'only runs created before', instant)
    .option('--show-deleted', 'also hidden ones', false)
    .option('--limit <count>', 'no more than so many', wholeNumber({ min: 1, max: 1_000_000_000 }))
    .action(({ state, workflow, since, until, showDeleted, limit }: ListOptions) =>
      run(async ({ lethe, print }) => {
        const filter = {
          showDeleted,
          ...(state ? { state } : {}),
          ...(workflow ? { workflow } : {}),
          ...(since ? { minCreateTime: since } : {}),
          ...(until ? { maxCreateTime: until } : {}),
        };
        const found = await firstOf(lethe.runs.list(filter), limit);
        print(found, () => runTable(found));
        return EXIT.ok;
      }),
    );

  runs
    .command('get <run>')
    .option('--show-deleted', 'also a hidden one', false)
    .action((runId: string, options: { showDeleted: boolean }) =>
      run(async ({ lethe, print }) => {
        const found = await lethe.runs.get(runId, options);
        print(found, () => runTable([found]));
        return EXIT.ok;
      }),
    );

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
    );

  runs
    .command('preview <run>')
    .description('what a purge would take; fails when something forbids it')
    .action((runId: string) =>
      run(async ({ lethe, print }) => {
        const preview = await lethe.runs.preview(runId);
        print(preview, () => tellPreview(preview));
        return preview.blockers.length > 0 ? EXIT.failed : EXIT.ok;
      }),
    );

  for (const [name, description] of [
    ['delete', 'hide it and what hangs on it; reversible until it is purged'],
    ['undelete', 'bring back what was hidden'],
  ] as const) {
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
      );
  }

  runs
    .command('purge <run>')
    .description('remove it for good from every service')
    .requiredOption('--reason <reason>', 'why, for the audit')
    .option('--force', "also a run that is younger than the operator's guard", false)
    .option('--allow-missing', 'do well when there is no such run', false)
    .option('--wait', 'until it is gone', false)
    .option('--dry-run', 'check everything, show what would go', false)
    .option('--yes', 'do not ask', false)
    .action((runId: string, { reason, force, allowMissing, wait, dryRun, yes }: PurgeOptions) =>
      run(async (context) => {
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
      }),
    );
}

function tellPreview({ participants, blockers, purgeableTime }: PreviewPurgeRunResponse): string {
  const rows = participants.flatMap(({ participant, resourceCounts }) =>
    resourceCounts.map(({ resourceType, found, passedOn, bytes }) =>
      [participant, resourceType, found - passedOn, bytes, passedOn].map(String),
    ),
  );
  const forbidden = blockers.map(({ reason, message }) => `forbidden: ${reason}: ${toLine(message)}`);
  const guard =
    purgeableTime && forbidden.length > 0 ? [`the age guard lets it go at ${instantOf(purgeableTime)}`] : [];
  return [toTable(['SERVICE', 'WHAT', 'COUNT', 'BYTES', 'PASSED ON'], rows), ...forbidden, ...guard].join('\n');
}
