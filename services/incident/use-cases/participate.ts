import { crashPoint } from '#libs/durable/crash-point.ts';
import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { RunOperation, RunScope } from '#libs/participant/participant.ts';
import { actionRefused } from '../domain/incident.ts';
import type { EndingCounts, Refusal, RefusalAudit, RunIncidents, StepAction, StepActions } from './ports.ts';

/** The persisted points of an ending and of an action, for the tests that kill the process there. */
export const PARTICIPANT_CRASH_POINTS = [
  'incident.execute.after-outcome',
  'incident.cascade.after-intent',
  'incident.cascade.after-batch',
] as const;

/** What one call of a cascade did, summed over all calls with its key, and what it left. */
export interface Participation {
  readonly progress: 'PARTIAL' | 'COMPLETE';
  readonly sums: EndingCounts;
  readonly left: EndingCounts;
}

/** IncidentService's part in runs. Every method is idempotent by its operation. */
export interface Participate {
  /**
   * Opens the step's incident once, however often it is asked for. STEP_COMPENSATED, REQUEST_ID_REUSED, and
   * ACTION_REFUSED where it names an environment or a check that is not there.
   */
  execute(
    action: Omit<StepAction, 'fingerprint'>,
  ): Promise<{ readonly incidentId: string; readonly hasPayload: boolean }>;
  /** Hides the run's incidents; how many this operation hid. */
  softDelete(scope: RunScope, operation: RunOperation): Promise<number>;
  /** Brings back what the soft delete hid; how many. */
  restore(scope: RunScope, operation: RunOperation, softDeleteId: string): Promise<number>;
  /**
   * Removes the payloads of the run's incidents, and refuses incidents that come later. The shells stay in the states that
   * they are in, visible also where the run was hidden.
   */
  purge(scope: RunScope, operation: RunOperation, limit: number): Promise<Participation>;
  /** Closes the step's incidents as compensated, removes their payloads, and refuses those that come later. */
  compensate(scope: RunScope, operation: RunOperation): Promise<Participation>;
  /** What is left, read from the rows; before an ending, what it would take. */
  inspect: RunIncidents['inspect'];
}

/** What was done to a run, told once for each operation that did something. */
export type OnRunTouched = (
  action: 'soft-delete' | 'undelete' | 'purge' | 'compensate',
  scope: RunScope,
  operation: RunOperation,
  counts: Partial<EndingCounts>,
) => void;

// So many incidents with their payloads are done well within a second.
const INCIDENTS_PER_BATCH = 500;
const COMPENSATED_PER_CALL = 10_000;
const BUDGET_MS = 5_000;
const NOTHING: EndingCounts = { incidents: 0, payloads: 0, payloadBytes: 0 };

/** Makes Participate. */
export function makeParticipate(
  runIncidents: RunIncidents,
  stepActions: StepActions,
  refusals: RefusalAudit,
  onTouched: OnRunTouched,
): Participate {
  /** Once a purge has begun nothing is hidden or brought back, and the audit tells who tried. */
  const unlessPurged = async <T>(order: Omit<Refusal, 'outcome'>, work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      if (hasReason(error, 'OPERATION_IN_PROGRESS')) await refusals.record({ ...order, outcome: error.reason });
      throw error;
    }
  };

  const end = async (
    action: 'purge' | 'compensate',
    scope: RunScope,
    operation: RunOperation,
    limit: number,
  ): Promise<Participation> => {
    const startedAt = performance.now();
    await runIncidents.forbid(scope, operation);
    crashPoint('incident.cascade.after-intent');
    for (let rest = limit; ; ) {
      const batch = await runIncidents.endBatch(scope, operation, Math.min(rest, INCIDENTS_PER_BATCH));
      crashPoint('incident.cascade.after-batch');
      const { isDone, isNew, sums } = batch;
      rest -= batch.ended;
      if (isNew) onTouched(action, scope, operation, sums);
      if (isDone) return { progress: 'COMPLETE', sums, left: NOTHING };
      if (rest <= 0 || performance.now() - startedAt > BUDGET_MS) {
        return { progress: 'PARTIAL', sums, left: await runIncidents.inspect(scope) };
      }
    }
  };

  return {
    async execute(action) {
      const { tenantId: _, runId: __, step: ___, actor: ____, ...input } = action;
      try {
        const print = fingerprint({ action: 'open-incident', ...input });
        const outcome = await stepActions.open({ ...action, fingerprint: print });
        crashPoint('incident.execute.after-outcome');
        return outcome;
      } catch (error) {
        throw error instanceof DomainError && error.kind === 'not-found' ? actionRefused(error) : error;
      }
    },

    async softDelete(scope, operation) {
      const { incidents, isNew } = await unlessPurged({ action: 'soft-delete', scope, operation }, () =>
        runIncidents.hide(scope, operation),
      );
      if (isNew) onTouched('soft-delete', scope, operation, { incidents });
      return incidents;
    },

    async restore(scope, operation, softDeleteId) {
      const { incidents, isNew } = await unlessPurged({ action: 'undelete', scope, operation }, () =>
        runIncidents.restore(scope, operation, softDeleteId),
      );
      if (isNew) onTouched('undelete', scope, operation, { incidents });
      return incidents;
    },

    purge: (scope, operation, limit) => end('purge', scope, operation, limit),

    compensate: (scope, operation) => end('compensate', scope, operation, COMPENSATED_PER_CALL),

    inspect: runIncidents.inspect,
  };
}
