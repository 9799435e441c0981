import type { JsonObject } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { type Run as RunMessage, RunState, type RunStep, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import type { RunSighting } from '#libs/client/runs.ts';
import type { CommandContext, Run } from '../context.ts';
import { EXIT, instantOf, nameOf, toTable } from '../output.ts';
import { jsonObject } from '../parse.ts';

interface OrderOptions {
  readonly reason: string;
  readonly wait: boolean;
}

const runRow = (run: RunMessage) => [
  run.id,
  nameOf(RunState, run.state),
  run.workflow,
  run.displayName,
  instantOf(run.createTime),
  run.parkedReason || run.error,
];

/** Runs, one a row. */
export const runTable = (runs: readonly RunMessage[]): string =>
  toTable(['RUN', 'STATE', 'WORKFLOW', 'NAME', 'CREATED', 'WHY'], runs.map(runRow));

const stepRow = (step: RunStep) => [
  String(step.position),
  step.name,
  nameOf(StepState, step.state),
  step.participants.join(', '),
  instantOf(step.startTime),
  step.removed.map(({ resourceType, deleted }) => `${resourceType} ${deleted}`).join(', '),
  step.error,
];
const stepTable = (steps: readonly RunStep[]): string =>
  toTable(['', 'STEP', 'STATE', 'AT', 'BEGUN', 'REMOVED', 'ERROR'], steps.map(stepRow));

const OVER: ReadonlySet<StepState> = new Set([StepState.COMPLETED, StepState.COMPENSATED]);

/** Watches a run to its end, with a bar where somebody looks; answers with it as it ended. */
async function watchRun({ lethe, progress }: CommandContext, runId: string): Promise<RunSighting | undefined> {
  let last: RunSighting | undefined;
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

/** What of `lethe runs …` is about runs of workflows that Lethe does itself. */
export function addWorkflowCommands(runs: Command, run: Run): void {
  const tell = async (context: CommandContext, begun: RunMessage, wait: boolean, meant: readonly RunState[]) => {
    const shown = wait ? ((await watchRun(context, begun.id))?.run ?? begun) : begun;
    context.print(shown, () => runTable([shown]));
    return wait ? exitOfRun(shown.state, meant) : EXIT.ok;
  };

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
    );

  runs
    .command('watch <run>')
    .description('until it has ended; fails when it failed, 3 when effects of it may be left')
    .action((runId: string) =>
      run(async (context) => {
        const ended = await watchRun(context, runId);
        context.print(ended?.run, () => runTable(ended ? [ended.run] : []));
        return exitOfRun(ended?.run.state, [RunState.COMPLETED, RunState.CANCELLED]);
      }),
    );

  runs
    .command('steps <run>')
    .description('where each of its steps stands, and what its compensation removed')
    .option('--show-deleted', 'also of a hidden run', false)
    .action((runId: string, options: { showDeleted: boolean }) =>
      run(async ({ lethe, print }) => {
        const steps = await Array.fromAsync(lethe.runs.steps(runId, options));
        print(steps, () => stepTable(steps));
        return EXIT.ok;
      }),
    );

  for (const [name, description] of [
    ['cancel', 'stop a running run and undo what was done of it'],
    ['retry', 'set a parked compensation going again'],
  ] as const) {
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
      );
  }
}
