import { backoffMs, type RetryPolicy, waitingMs } from '#libs/durable/backoff.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { giveUpClaim } from '#libs/durable/give-up-claim.ts';
import { makeTakeDue, type TakeDue } from '#libs/durable/take-due.ts';
import { DomainError, hasReason, isUnavailable } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { addBounded, hasMoved } from '../domain/counts.ts';
import { afterAnswer, afterReadBack, type DeletionStep, needsPerson, pendingStep } from '../domain/deletion.ts';
import { assertGoesOn, participantUnavailable, participantUnknown, stepUnknown, workerLost } from '../domain/errors.ts';
import type { JsonObject } from '../domain/run.ts';
import {
  afterAction,
  afterAttempt,
  afterCompensation,
  afterFailedAction,
  end,
  type Intent,
  nextMove,
  type Removal,
  type SagaMove,
  type SagaStep,
  whileAway,
} from '../domain/saga.ts';
import type { StepAction, StepContext, StepOutcome, Workflow } from '../domain/workflow.ts';
import type { Cursor, ParticipantCall } from './deletion-ports.ts';
import { isAway } from './reachability.ts';
import type { EffectKey, Hold, SagaClaim, SagaRepository, SagaRun, SagaWrite, StepParticipant } from './saga-ports.ts';

/** Drives runs. */
export interface AdvanceRuns {
  /** Drives a due run. */
  readonly due: TakeDue;
  /** Drives a run that is held already, as far as it goes. */
  held(claim: SagaClaim, signal: AbortSignal): Promise<void>;
  /** The step with which a run begins: its intent names whom it will ask. RUN_DELETED when it uses a hidden run's. */
  firstIntent(workflow: Workflow, run: Pick<StepContext, 'tenantId' | 'runId' | 'input'>): Promise<Intent>;
}

/** How runs are driven. */
export interface SagaSettings {
  readonly workerId: string;
  /** At least twice as long as one call to a participant may take, in milliseconds. */
  readonly leaseMs: number;
  readonly retry: RetryPolicy;
}

/** Told of every change of a run that this replica made. */
export type OnRunChanged = (run: SagaRun) => void;

/** Told when a run came to its end, or an attempt failed that will be repeated. */
export type OnSagaSettled = (run: SagaRun, outcome: SagaRun['state'] | 'RETRY', error?: unknown) => void;

const CANDIDATES = 64;
// How long a participant is left alone that only has other work to do first.
const QUEUED_PAUSE_MS = 1_000;

/**
 * Makes AdvanceRuns. What comes next is the domain's to say (`nextMove`); this asks the participants, with no
 * transaction open, and writes what came of it in one statement, so that whoever comes next goes on from there.
 */
export function makeAdvanceRuns(
  sagas: SagaRepository,
  workflows: readonly Workflow[],
  participants: readonly StepParticipant[],
  settings: SagaSettings,
  onChanged: OnRunChanged,
  onSettled: OnSagaSettled,
): AdvanceRuns {
  const { workerId, leaseMs, retry } = settings;
  // For what takes many calls: after so long the run is given up, so that others get their turn.
  const callBudgetMs = leaseMs / 3;

  const participantNamed = (name: string): StepParticipant => {
    const participant = participants.find((candidate) => candidate.name === name);
    if (!participant) throw participantUnknown(name);
    return participant;
  };

  const workflowOf = (run: SagaRun): Workflow => {
    const name = run.workflow;
    const workflow = workflows.find((candidate) => candidate.name === name);
    if (!workflow) throw stepUnknown(name, run.currentStep ?? '');
    return workflow;
  };

  const plan = async (workflow: Workflow, name: string, context: StepContext): Promise<PlannedStep> => {
    const step = workflow.steps.find((candidate) => candidate.name === name);
    if (!step) throw stepUnknown(workflow.name, name);
    const uses = step.lookUp?.(context);
    const found = uses && (await sagas.findEffect(context.tenantId, uses.type, uses.id));
    return { step: name, action: step.act({ ...context, found }), uses };
  };

  const callOf = ({ tenantId, actor, runId }: SagaRun, step: SagaStep): ParticipantCall => ({
    tenantId,
    actor,
    operationId: runId,
    step: step.name,
    runId,
    reason: undefined,
  });

  const askRemote = async (
    run: SagaRun,
    step: SagaStep,
    { remote }: StepAction,
    { renew }: Held,
  ): Promise<JsonObject> => {
    if (!remote) return {};
    const { participant, action, input } = remote;
    // What the intent does not name, a compensation would not find.
    if (!step.participants.includes(participant)) throw participantUnknown(participant);
    for (const startedAt = performance.now(); performance.now() - startedAt < callBudgetMs; ) {
      await renew();
      const { progress, output } = await participantNamed(participant).execute(callOf(run, step), action, input);
      crashPoint(`run.step.after-call:${step.name}`);
      if (progress === 'COMPLETE') return output;
    }
    throw participantUnavailable(participant);
  };

  /** Reads back part by part what a participant holds of a step; in another process it begins anew. */
  const readBack = async (
    participant: StepParticipant,
    call: ParticipantCall,
    { renew, signal }: Held,
  ): Promise<readonly ResourceCount[]> => {
    let left: readonly ResourceCount[] = [];
    const places = new Set<string>();
    for (let cursor: Cursor | undefined, isFirst = true; isFirst || cursor; isFirst = false) {
      await renew();
      const part = await participant.verifyStep(call, cursor);
      left = addBounded(left, part.counts);
      cursor = part.cursor;
      assertGoesOn(participant.name, places, cursor);
      if (cursor && signal.aborted) throw new Unfinished();
    }
    return left;
  };

  /** Has every participant remove what it holds of a step, and reads back that it is gone. */
  const compensateRemote = async (run: SagaRun, step: SagaStep, held: Held): Promise<readonly Removal[]> => {
    const removals: Removal[] = [];
    const startedAt = performance.now();
    for (const name of step.participants) {
      const participant = participantNamed(name);
      const call = callOf(run, step);
      // The rules for a participant's answers are those of every deletion.
      let part: DeletionStep = pendingStep(name);
      for (let calls = 0; part.state !== 'COMPLETE'; calls += 1) {
        if (part.lastError) throw new PartFailed(part.lastError, needsPerson(part.failedItems));
        if (part.state === 'VERIFYING') {
          part = afterReadBack(part, await readBack(participant, call, held));
          continue;
        }
        if (calls > 0 && performance.now() - startedAt > callBudgetMs) throw new Unfinished();
        await held.renew();
        const answer = await participant.compensate(call);
        crashPoint(`run.step.after-compensate-call:${step.name}`);
        const isStalled = answer.progress === 'PARTIAL' && calls > 0 && !hasMoved(part.counts, answer.counts);
        part = afterAnswer('PURGE', part, answer);
        if (isStalled && answer.isQueued && !part.lastError) throw new Unfinished(QUEUED_PAUSE_MS);
        if (isStalled && !part.lastError) throw participantUnavailable(name);
      }
      removals.push({ participant: name, counts: part.counts });
    }
    return removals;
  };

  const drive = async (claim: SagaClaim, signal: AbortSignal): Promise<void> => {
    let { run, version } = claim;
    let renewedAt = performance.now();
    // What the next step will do is known with its intent.
    let planned: PlannedStep | undefined;
    // Why the step under way fails whatever happens, once that is known.
    let cause: string | undefined;

    const write = async (after: SagaRun, rows?: SagaWrite['rows'], hold?: Hold): Promise<void> => {
      const isOld = performance.now() - renewedAt > leaseMs / 3;
      const held: Hold = hold ?? (isOld ? { kind: 'renew', leaseMs } : { kind: 'keep' });
      const removed = await sagas.write({ ...claim, run, version }, { after, hold: held, ...(rows ? { rows } : {}) });
      if (isOld) renewedAt = performance.now();
      version += 1;
      const withRemoved = (step: SagaStep): SagaStep => {
        const told = removed[step.name];
        return told ? { ...step, ...told } : step;
      };
      run = rows?.kind === 'remove' ? { ...after, steps: after.steps.map(withRemoved) } : after;
      onChanged(run);
    };

    const renew = async (): Promise<void> => {
      if (performance.now() - renewedAt > leaseMs / 3) await write(run);
    };

    const act = async (step: SagaStep): Promise<void> => {
      crashPoint(`run.step.before-action:${step.name}`);
      cause = undefined;
      const workflow = workflowOf(run);
      const { action, uses } = planned?.step === step.name ? planned : await plan(workflow, step.name, contextOf(run));
      planned = undefined;
      ({ cause } = action);
      const outcome = action.finish(await askRemote(run, step, action, { renew, signal }));
      const rows = { kind: 'make', step: step.name, effects: outcome.effects, uses } as const;
      await write(await afterOutcome(workflow, step, outcome), rows);
      crashPoint(`run.step.after-outcome:${step.name}`);
    };

    const afterOutcome = async (workflow: Workflow, step: SagaStep, outcome: StepOutcome): Promise<SagaRun> => {
      if (outcome.failure !== undefined) return { ...run, ...afterFailedAction(run, step, outcome.failure) };
      const context = contextOf(run, step, outcome.output);
      const steps = run.declaration?.steps ?? [];
      const next = steps[steps.findIndex(({ name }) => name === step.name) + 1];
      if (!next)
        return { ...run, ...afterAction(run, step, outcome.output, { output: workflow.output(context.outputs) }) };
      const prepared = await prepare(workflow, next.name, context);
      const { intent } = prepared;
      planned = prepared.planned;
      return { ...run, ...afterAction(run, step, outcome.output, { intent }) };
    };

    const compensate = async (steps: readonly [SagaStep, ...SagaStep[]]): Promise<void> => {
      for (const { name } of steps) crashPoint(`run.step.before-compensation:${name}`);
      const removals = await compensateRemote(run, steps[0], { renew, signal });
      const after = { ...run, ...afterCompensation(run, steps, removals) };
      await write(after, { kind: 'remove', steps: steps.map(({ name }) => name) });
      for (const { name } of steps) crashPoint(`run.step.after-compensation:${name}`);
    };

    /** Why a step would have failed in any case, where the workflow can tell without doing it. */
    const foreseenCause = async ({ name }: SagaStep): Promise<string | undefined> => {
      try {
        return (await plan(workflowOf(run), name, contextOf(run))).action.cause;
      } catch (error) {
        if (error instanceof DomainError) return undefined;
        throw error;
      }
    };

    /** An attempt has failed: it is repeated later, or it was the last one. While its participant is away, none is. */
    const giveWay = async (step: SagaStep, error: unknown): Promise<void> => {
      if (await isAway(error, participants)) {
        const after = { ...run, ...whileAway(run, step, toSentence(error)) };
        const hold: Hold = { kind: 'release', pauseMs: waitingMs(retry) };
        await giveUpClaim(() => write(after, undefined, hold), leaseMs, signal);
        return onSettled(run, 'RETRY', error);
      }
      const isRefused = error instanceof PartFailed && error.needsPerson;
      const isFinal = isRefused || (run.state === 'RUNNING' && isRefusal(error));
      const isLast = isFinal || run.attempts + 1 >= retry.maxAttempts;
      const after = { ...run, ...afterAttempt(run, step, toSentence(error), isLast, cause) };
      const wasRunning = run.state === 'RUNNING';
      const hold: Hold = isLast ? { kind: 'keep' } : { kind: 'release', pauseMs: backoffMs(run.attempts + 1, retry) };
      await giveUpClaim(() => write(after, undefined, hold), leaseMs, signal);
      if (!isLast) onSettled(run, 'RETRY', error);
      else if (wasRunning) await go();
      else onSettled(run, run.state, error);
    };

    const go = async (): Promise<void> => {
      for (;;) {
        const move = nextMove(run);
        if (move.kind === 'none') return onSettled(run, run.state);
        if (move.kind === 'end') {
          await write({ ...run, ...end(run) });
          continue;
        }
        if (signal.aborted) return void (await write(run, undefined, { kind: 'release', pauseMs: 0 }));
        try {
          await (move.kind === 'act' ? act(move.step) : compensate(move.steps));
        } catch (error) {
          if (hasReason(error, 'LEASE_LOST')) throw error;
          if (error instanceof Unfinished) {
            const attempts = signal.aborted ? run.attempts : 0;
            return void (await write({ ...run, attempts }, undefined, { kind: 'release', pauseMs: error.pauseMs }));
          }
          return giveWay(stepOf(move), error);
        }
      }
    };

    try {
      const move = nextMove(run);
      const isStep = move.kind === 'act' || move.kind === 'compensate';
      // The loss of the worker before this one is counted already.
      if (isStep && claim.isAfterLoss && run.attempts >= retry.maxAttempts) {
        run = { ...run, attempts: run.attempts - 1 };
        if (move.kind === 'act') cause = await foreseenCause(move.step);
        return await giveWay(stepOf(move), workerLost());
      }
      await go();
    } catch (error) {
      // Another worker has it, or it was cancelled: whatever this one knew is stale.
      const isStale = hasReason(error, 'LEASE_LOST');
      if (!isStale && !isUnavailable(error)) throw error;
      // Or a write was committed whose answer was lost, or never made: then this worker holds the run still.
      await giveUpClaim(() => sagas.endLease(claim, isStale ? 0 : retry.baseMs), leaseMs, signal);
      if (!isStale) throw error;
    }
  };

  const prepare = async (workflow: Workflow, name: string, context: StepContext): Promise<Prepared> => {
    try {
      const planned = await plan(workflow, name, context);
      const { remote } = planned.action;
      return { intent: { name, participants: remote ? [remote.participant] : [] }, planned, refusal: undefined };
    } catch (error) {
      // The step says so itself, once it is its turn: until then nobody is asked.
      if (error instanceof DomainError)
        return { intent: { name, participants: [] }, planned: undefined, refusal: error };
      throw error;
    }
  };

  return {
    due: makeTakeDue({
      findDue: () => sagas.findDue(CANDIDATES),
      claim: (key) => sagas.claim(key, workerId, leaseMs),
      async drive(claim, signal) {
        crashPoint('run.step.after-claim');
        await drive(claim, signal);
      },
    }),
    held: drive,
    async firstIntent(workflow, run) {
      const name = workflow.steps[0]?.name ?? '';
      const { intent, refusal } = await prepare(workflow, name, { ...run, outputs: {}, found: undefined });
      if (hasReason(refusal, 'RUN_DELETED')) throw refusal;
      return intent;
    },
  };
}

/** A worker's hold on a run while it calls participants. */
interface Held {
  /** Must come before every call: prolongs the lease where that is not fresh; LEASE_LOST. */
  readonly renew: () => Promise<void>;
  readonly signal: AbortSignal;
}

/** A step whose action is known, and the row that it looked up for it. */
interface PlannedStep {
  readonly step: string;
  readonly action: StepAction;
  readonly uses: EffectKey | undefined;
}

/** A step about to begin: planned, or refused when its turn comes. */
interface Prepared {
  readonly intent: Intent;
  readonly planned: PlannedStep | undefined;
  readonly refusal: DomainError | undefined;
}

/** The step that stands for a move when an attempt of it fails. */
const stepOf = (move: Extract<SagaMove, { kind: 'act' | 'compensate' }>): SagaStep =>
  move.kind === 'act' ? move.step : move.steps[0];

/** What a step may know: what it was given, and what those before it left. */
function contextOf(run: SagaRun, done?: SagaStep, output?: JsonObject): StepContext {
  const { tenantId, runId, input = {}, steps } = run;
  const outputs: Record<string, JsonObject> = {};
  for (const step of steps) if (step.output) outputs[step.name] = step.output;
  if (done && output) outputs[done.name] = output;
  return { tenantId, runId, input, outputs, found: undefined };
}

/** A participant that is at it, and needs more calls than one worker makes in a row. */
class Unfinished extends Error {
  readonly pauseMs: number;
  constructor(pauseMs = 0) {
    super();
    this.pauseMs = pauseMs;
  }
}

/** A participant that answered, and did not do it. */
class PartFailed extends Error {
  /** Whether another attempt would come to the same. */
  readonly needsPerson: boolean;
  constructor(message: string, isForPerson: boolean) {
    super(message);
    this.needsPerson = isForPerson;
  }
}

// What no repetition can change.
const REFUSALS: ReadonlySet<string> = new Set([
  'invalid-argument',
  'failed-precondition',
  'not-found',
  'unimplemented',
]);

const isRefusal = (error: unknown): boolean => error instanceof DomainError && REFUSALS.has(error.kind);

function toSentence(error: unknown): string {
  if (error instanceof PartFailed) return error.message;
  return error instanceof DomainError ? `${error.reason}: ${error.message}` : 'INTERNAL: see the log.';
}
