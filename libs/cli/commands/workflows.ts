import type { JsonObject } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { type Run as RunMessage, RunState, type RunStep, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import type { RunSighting } from '#libs/client/runs.ts';
import type { CommandContext, Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { EXIT, instantOf, nameOf } from '../output.ts';
import { jsonObject } from '../parse.ts';
import { makeTable } from '../table.ts';

const SOME_RUN = '018f6b1e-7c1a-7000-8000-000000000001';

interface OrderOptions {
  readonly reason: string;
  readonly wait: boolean;
}

/** Runs, one a row. */
export const runTable = makeTable<RunMessage>({
  RUN: ({ id }) => id,
  STATE: ({ state }) => nameOf(RunState, state),
  WORKFLOW: ({ workflow }) => workflow,
  NAME: ({ displayName }) => displayName,
  CREATED: ({ createTime }) => instantOf(createTime),
  WHY: ({ parkedReason, error }) => parkedReason || error,
});

/** Runs, one a row, with who hid them since when and why. */
export const hiddenRunTable = makeTable<RunMessage>({
  RUN: ({ id }) => id,
  STATE: ({ state }) => nameOf(RunState, state),
  WORKFLOW: ({ workflow }) => workflow,
  NAME: ({ displayName }) => displayName,
  'HIDDEN SINCE': ({ deleteTime }) => instantOf(deleteTime),
  BY: ({ deletedBy }) => deletedBy,
  REASON: ({ deleteReason }) => deleteReason,
});

const stepTable = makeTable<RunStep>({
  '': ({ position }) => String(position),
  STEP: ({ name }) => name,
  STATE: ({ state }) => nameOf(StepState, state),
  AT: ({ participants }) => participants.join(', '),
  BEGUN: ({ startTime }) => instantOf(startTime),
  REMOVED: ({ removed }) => removed.map(({ resourceType, deleted }) => `${resourceType} ${deleted}`).join(', '),
  ERROR: ({ error }) => error,
});

const OVER: ReadonlySet<StepState> = new Set([StepState.COMPLETED, StepState.COMPENSATED]);

/** Watches a run to its end, with a bar where somebody looks; answers with it as it ended. */
async function watchRun({ lethe, progress, goesOn }: CommandContext, runId: string): Promise<RunSighting | undefined> {
  let last: RunSighting | undefined;
  goesOn(`The run goes on: \`lethe runs watch ${runId}\` shows it, \`lethe runs cancel ${runId}\` stops it.`);
  for await (last of lethe.runs.watch(runId)) {
    const { run, steps } = last;
    const over = steps.filter(({ state }) => OVER.has(state)).length;
    progress.update(over, steps.length, `${nameOf(RunState, run.state)} ${run.currentStep}`.trim());
  }
  progress.stop();
  return last;
}

/** Done where the run ended as it was meant to; in part where its effects may be left. */
function exitOfRun(state: RunState | undefined, meant: readonly RunState[]): number {
  if (state !== undefined && meant.includes(state)) return EXIT.ok;
  return state === RunState.FAILED ? EXIT.partial : EXIT.failed;
}

/** What client_to_delivery needs at least. */
const SOME_INPUT = {
  environment_id: '018f6b1e-7c1a-7000-8000-000000000002',
  brief: { client: 'Acme', product: 'Night Bus', audience: 'commuters', goals: ['be known'], channels: ['web'] },
};

/** What of `lethe runs …` is about runs of workflows that Lethe does itself. */
export function addWorkflowCommands(runs: Command, run: Run): void {
  const tell = async (context: CommandContext, begun: RunMessage, wait: boolean, meant: readonly RunState[]) => {
    const shown = wait ? ((await watchRun(context, begun.id))?.run ?? begun) : begun;
    context.print(shown, () => runTable([shown]));
    return wait ? exitOfRun(shown.state, meant) : EXIT.ok;
  };

  addExamples(
    runs
      .command('start <workflow>')
      .description('begin a run of a workflow that Lethe does')
      .option('--name <name>', 'a name for people', '')
      .option('--input <json>', 'what it is given', jsonObject)
      .option('--wait', 'until it has ended; fails when it did not complete', false)
      .action((workflow: string, { name, input, wait }: { name: string; input?: JsonObject; wait: boolean }) =>
        run(async (context) => {
          const begun = await context.lethe.runs.start({ workflow, displayName: name, ...(input ? { input } : {}) });
          return tell(context, begun, wait, [RunState.COMPLETED]);
        }),
      ),
    `lethe --tenant acme runs start client_to_delivery --input '${JSON.stringify(SOME_INPUT)}' --wait`,
  );

  addExamples(
    runs
      .command('watch <run>')
      .description('until it has ended; fails when it failed, 3 when effects of it may be left')
      .action((runId: string) =>
        run(async (context) => {
          const ended = await watchRun(context, runId);
          context.print(ended?.run, () => runTable(ended ? [ended.run] : []));
          return exitOfRun(ended?.run.state, [RunState.COMPLETED, RunState.CANCELLED]);
        }),
      ),
    `lethe --tenant acme runs watch ${SOME_RUN}`,
  );

  addExamples(
    addLimit(
      runs.command('steps <run>').description('where each of its steps stands, and what its compensation removed'),
    )
      .option('--show-deleted', 'also of a hidden run', false)
      .action((runId: string, { showDeleted, ...options }: ListOptions & { showDeleted: boolean }) =>
        run(async (context) => {
          await printList(context, context.lethe.runs.steps(runId, { showDeleted }), options, stepTable);
        }),
      ),
    `lethe --tenant acme runs steps ${SOME_RUN}`,
  );

  for (const [name, description, why] of [
    ['cancel', 'stop a running run and undo what was done of it', 'the client left'],
    ['retry', 'set a parked compensation going again', 'the store is back'],
  ] as const) {
    addExamples(
      runs
        .command(`${name} <run>`)
        .description(description)
        .option('--reason <reason>', 'why, for the audit', '')
        .option('--wait', 'until it has ended; 3 when effects of it may be left', false)
        .action((runId: string, { reason, wait }: OrderOptions) =>
          run(async (context) => {
            const ordered = await context.lethe.runs[name](runId, { reason });
            return tell(context, ordered, wait, [RunState.CANCELLED, RunState.COMPENSATED]);
          }),
        ),
      `lethe --tenant acme runs ${name} ${SOME_RUN} --reason '${why}' --wait`,
    );
  }
}
