import type { ServiceFoundation } from '#libs/service/run-service.ts';
import { sumRemoved } from '../../domain/saga.ts';
import type { OnSagaSettled } from '../../use-cases/advance-runs.ts';
import type { OnRewritten } from '../../use-cases/keep-execution-months.ts';
import type { OnRetired } from '../../use-cases/keep-participants.ts';
import type { OnOrdered } from '../../use-cases/order-deletion.ts';
import type { OnCascadeSettled } from '../../use-cases/run-cascades.ts';

/** Whom the use cases of RunService tell of what they do. */
export interface RunObservers {
  readonly onOrdered: OnOrdered;
  readonly onSettled: OnCascadeSettled;
  readonly onRetired: OnRetired;
  readonly onLostRun: (error: unknown) => void;
  readonly onSagaSettled: OnSagaSettled;
  readonly onRewritten: OnRewritten;
}

/** Writes it into the log, and counts what has ended. */
export const observeRuns = ({ log, metrics }: Pick<ServiceFoundation, 'log' | 'metrics'>): RunObservers => ({
  onOrdered({ tenantId, runId, mode, caller, reason }, outcome, why) {
    const { actor, subject } = caller;
    const told = { audit: true, action: mode, tenantId, runId, actor, subject, reason, outcome, why };
    log.info(told, 'operation on a run');
    if (outcome === 'REFUSED') metrics.deletionFinished(mode, 'REFUSED');
  },

  onSettled(deletion, outcome, error) {
    const { tenantId, id, runId, mode, actor, reason, attempts, steps, lastError } = deletion;
    const told = { audit: outcome !== 'RETRY', action: mode, tenantId, deletionId: id, runId, actor, reason, outcome };
    const counts = steps.map((step) => ({ participant: step.participant, counts: step.counts }));
    if (outcome === 'COMPLETE') log.info({ ...told, counts }, 'cascade complete');
    else log.warn({ ...told, attempts, lastError, err: error }, 'cascade not complete yet');
    if (outcome !== 'RETRY') metrics.deletionFinished(mode, outcome);
  },

  onRetired({ name, retirement }) {
    log.warn({ audit: true, action: 'retire-participant', participant: name, ...retirement }, 'participant retired');
  },

  onLostRun: (error) => log.error({ err: error }, 'a run was given up'),

  onSagaSettled(run, outcome, error) {
    const { tenantId, runId, workflow, actor, currentStep, attempts, error: why, parkedReason, steps } = run;
    const told = { tenantId, runId, workflow, actor, outcome };
    if (outcome === 'COMPLETED') return log.info(told, 'run completed');
    if (outcome === 'RETRY') return log.warn({ ...told, currentStep, attempts, err: error }, 'a step failed');
    const end = { ...told, audit: true, action: 'COMPENSATION', why, parkedReason, counts: sumRemoved(steps) };
    if (outcome === 'FAILED') log.error({ ...end, currentStep, err: error }, 'run parked');
    else log.info(end, 'run compensated');
    metrics.deletionFinished('COMPENSATION', outcome === 'FAILED' ? 'STUCK' : 'COMPLETE');
  },

  onRewritten: (rewritten) => log.info(rewritten, 'a month of executions was rewritten'),
});
