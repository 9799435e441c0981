import { isTerminal, type OutputReference, type Run } from '../domain/run.ts';
import type { Workflow } from '../domain/workflow.ts';
import type { StepParticipant } from './saga-ports.ts';

/**
 * The run as readers may see it: for each thing of another service that its output names, whether that is still there.
 * A name of what is gone is left out of the output. What a participant cannot answer in time is UNKNOWN, so that a run
 * can be read while it is down.
 */
export type ShowReferences = (run: Run) => Promise<Run>;

/** Makes ShowReferences. `patienceMs` is how long a participant has to answer. */
export function makeShowReferences(
  workflows: readonly Workflow[],
  participants: readonly Pick<StepParticipant, 'name' | 'holds'>[],
  patienceMs: number,
): ShowReferences {
  return async (run) => {
    const { output } = run;
    const workflow = workflows.find(({ name }) => name === run.workflow);
    if (run.driver !== 'ENGINE' || !isTerminal(run.state) || !output || !workflow) return run;
    const named = Object.entries(workflow.outputNames ?? {}).filter(([field]) => typeof output[field] === 'string');
    if (named.length === 0) return run;
    const references = await Promise.all(
      named.map(async ([field, { step, participant: name, resourceType }]): Promise<OutputReference> => {
        const participant = participants.find((candidate) => candidate.name === name);
        const call = { tenantId: run.tenantId, actor: 'service:run', operationId: run.id, runId: run.id, step };
        const isHeld = await participant
          ?.holds({ ...call, reason: undefined }, resourceType, patienceMs)
          .catch(() => undefined);
        return {
          field,
          participant: name,
          resourceType,
          state: isHeld === undefined ? 'UNKNOWN' : isHeld ? 'EXISTS' : 'GONE',
        };
      }),
    );
    const gone = new Set(references.filter(({ state }) => state === 'GONE').map(({ field }) => field));
    return {
      ...run,
      output: Object.fromEntries(Object.entries(output).filter(([field]) => !gone.has(field))),
      references,
    };
  };
}
