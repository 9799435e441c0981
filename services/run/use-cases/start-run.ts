import { crashPoint } from '#libs/durable/crash-point.ts';
import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { newId } from '#libs/kernel/id.ts';
import { workflowNotFound } from '../domain/errors.ts';
import type { JsonObject, Run } from '../domain/run.ts';
import { beginSaga } from '../domain/saga.ts';
import { type Declaration, toDeclaration, type Workflow } from '../domain/workflow.ts';
import type { AdvanceRuns } from './advance-runs.ts';
import type { SagaClaim, SagaRepository, StepParticipant } from './saga-ports.ts';
import type { ShowReferences } from './show-references.ts';

/** What to begin. */
export interface StartRunCommand {
  readonly caller: Caller;
  readonly workflow: string;
  readonly displayName: string;
  readonly input: JsonObject;
  readonly requestId: string | undefined;
}

/**
 * Begins a run of a workflow that Lethe does itself. WORKFLOW_NOT_FOUND, FIELD_INVALID, also for what a participant does
 * not know, REQUEST_ID_REUSED, RUN_DELETED for an input that names what a hidden run holds, DEPENDENCY_UNAVAILABLE.
 */
export type StartRun = (command: StartRunCommand) => Promise<Run>;

/** Whoever has room for one more run in this process. */
export interface RunSlots {
  readonly owner: string;
  readonly leaseMs: number;
  /** Takes a slot; false when there is none. */
  take(): boolean;
  /** Gives a slot back unused. */
  giveBack(): void;
  /** Drives the run in the slot that was taken. */
  drive(claim: SagaClaim): void;
}

/** Makes StartRun. A run is driven in this process from the first, as long as a slot is free; `wake` tells the others. */
export function makeStartRun(
  sagas: SagaRepository,
  workflows: readonly Workflow[],
  advance: Pick<AdvanceRuns, 'firstIntent'>,
  participants: readonly Pick<StepParticipant, 'name' | 'check'>[],
  slots: RunSlots,
  wake: () => void,
  showReferences: ShowReferences,
): StartRun {
  const declarations = new Map<string, Promise<Declaration>>();
  const declarationOf = (workflow: Workflow): Promise<Declaration> => {
    const known = declarations.get(workflow.name);
    if (known) return known;
    const declaration = toDeclaration(workflow);
    const kept = sagas.keepDeclaration(declaration).then(() => declaration);
    declarations.set(workflow.name, kept);
    kept.catch(() => declarations.delete(workflow.name));
    return kept;
  };

  const checkForeseen = async (
    workflow: Workflow,
    { tenantId, runId, actor, input }: { tenantId: string; runId: string; actor: string; input: JsonObject },
  ): Promise<void> => {
    const foreseen = workflow.foresee?.(input) ?? [];
    await Promise.all(
      foreseen.map(async ({ participant: name, action, input: given }) => {
        // One that is not configured fails the step that needs it, and no other.
        const participant = participants.find((candidate) => candidate.name === name);
        await participant?.check({ tenantId, runId, actor, reason: undefined }, action, given);
      }),
    );
  };

  return async ({ caller, workflow: name, displayName, input, requestId }) => {
    const workflow = workflows.find((candidate) => candidate.name === name);
    if (!workflow) throw workflowNotFound(name);
    workflow.checkInput(input);
    const { actor, subject, trustEntry } = caller;
    const key = { tenantId: tenantOf(caller), runId: newId(), input };
    const request =
      requestId === undefined
        ? undefined
        : { id: requestId, fingerprint: fingerprint({ workflow: name, displayName, input }) };
    const prepared = await Promise.all([
      declarationOf(workflow),
      advance.firstIntent(workflow, key),
      checkForeseen(workflow, { ...key, actor }),
    ]).catch(async (error: unknown) => {
      // A request that began a run is answered with it, whatever would be refused by now.
      const begun = request && (await sagas.findBegun(key.tenantId, request));
      if (!begun) throw error;
      return begun;
    });
    if ('id' in prepared) return showReferences(prepared);
    const [declaration, intent] = prepared;
    const isTaken = slots.take();
    try {
      const { run, claim } = await sagas.begin(
        {
          run: { ...key, ...beginSaga(intent, input), workflow: name, declaration, actor, subject, trustEntry },
          displayName,
          request,
        },
        isTaken ? slots : undefined,
      );
      crashPoint('run.start.after-commit');
      if (claim) slots.drive(claim);
      else {
        if (isTaken) slots.giveBack();
        wake();
      }
      return showReferences(run);
    } catch (error) {
      if (isTaken) slots.giveBack();
      throw error;
    }
  };
}
