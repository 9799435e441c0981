import type { Answer } from '../domain/deletion.ts';
import type { JsonObject, Run } from '../domain/run.ts';
import type { Saga, SagaStep } from '../domain/saga.ts';
import type { Declaration, Effects } from '../domain/workflow.ts';
import type { Cursor, Participant, ParticipantCall, ReadBack } from './deletion-ports.ts';

/** What a participant's action has come to. */
export interface Executed {
  readonly progress: 'PARTIAL' | 'COMPLETE';
  readonly output: JsonObject;
}

/**
 * What a participant does for single steps of a run. The key of a call is (run, step), for the action and for its
 * compensation alike. As of every participant: DEPENDENCY_UNAVAILABLE when it does not answer in time, and what it
 * refused otherwise.
 */
export interface StepParticipant extends Pick<Participant, 'name' | 'isReachable'> {
  /**
   * Must throw what `execute` could only refuse, FIELD_INVALID with the field in the action's input, and do nothing.
   * What is missing in the input, or what the participant cannot check, passes.
   */
  check(call: Omit<ParticipantCall, 'step' | 'operationId'>, action: string, input: JsonObject): Promise<void>;
  /** Must do the action once; STEP_COMPENSATED, REQUEST_ID_REUSED, ACTION_REFUSED. */
  execute(call: ParticipantCall, action: string, input: JsonObject): Promise<Executed>;
  /** Must remove the step's effects, and refuse its action from now on. */
  compensate(call: ParticipantCall): Promise<Answer>;
  /**
   * Must answer what is left of the step's effects, read back from the stores. An answer with a cursor is of a part, and
   * the next call goes on from it.
   */
  verifyStep(call: ParticipantCall, cursor?: Cursor): Promise<ReadBack>;
  /** Must answer whether anything of this type is left of the step, by the participant's rows alone. */
  holds(call: ParticipantCall, resourceType: string, timeoutMs: number): Promise<boolean>;
}

/** Which run of whom. */
export interface RunKey {
  readonly tenantId: string;
  readonly runId: string;
}

/** A run as workers know it. */
export interface SagaRun extends RunKey, Saga {
  readonly workflow: string;
  /** What it began with; undefined for a run that its caller drives. */
  readonly declaration: Declaration | undefined;
  /** On whose behalf it goes on: who started it, or who said that it failed or is cancelled. */
  readonly actor: string;
  /** Whose credential said so. */
  readonly subject: string;
  /** The entry of the trust file by whose key the subject came; for the audit. */
  readonly trustEntry: string | undefined;
}

/** A worker's hold on a run. Its token guards every write: who has lost the run writes nothing any more. */
export interface SagaClaim {
  readonly run: SagaRun;
  readonly token: number;
  /** The run's version as this worker knows it: each of its writes makes the next. */
  readonly version: number;
  /** Whether the worker before this one vanished without a word. */
  readonly isAfterLoss: boolean;
}

/** A run to begin; its saga has the intent of its first step. */
export interface NewSaga {
  readonly run: SagaRun;
  readonly displayName: string;
  /** Undefined: the caller did not say under which id it would repeat this. */
  readonly request: { readonly id: string; readonly fingerprint: string } | undefined;
}

/** How a worker holds a run after a write: as before, for so long from now, or no longer. */
export type Hold =
  | { readonly kind: 'keep' }
  | { readonly kind: 'renew'; readonly leaseMs: number }
  | { readonly kind: 'release'; readonly pauseMs: number };

/** What the compensation of one step has removed in all, as its step has it from then on. */
export type Removed = Pick<SagaStep, 'removed' | 'removals'>;

/** Which row of an effect. */
export interface EffectKey {
  readonly type: string;
  readonly id: string;
}

/** One write of a worker: the run as it becomes, and what happens to the rows of the steps under way. */
export interface SagaWrite {
  readonly after: SagaRun;
  readonly rows?:
    | {
        readonly kind: 'make';
        readonly step: string;
        readonly effects: Effects;
        /** The row that the step looked up, whoever's it is. */
        readonly uses: EffectKey | undefined;
      }
    | { readonly kind: 'remove'; readonly steps: readonly string[] };
  readonly hold: Hold;
}

/** What a caller changes of a run, and why. */
export interface SagaOrder extends RunKey {
  readonly action: 'cancel' | 'retry' | 'fail';
  readonly actor: string;
  readonly subject: string;
  readonly trustEntry: string | undefined;
  readonly reason: string | undefined;
}

/**
 * The runs as sagas. What a worker does to one is one statement: effects, the step's outcome, the next step's intent
 * and the lease are committed together or not at all.
 */
export interface SagaRepository {
  /** Must keep what runs begin with, before the first of them. */
  keepDeclaration(declaration: Declaration): Promise<void>;
  /**
   * Must commit the run with its first step: held as long as `hold` says, or due at once. A request id that is known
   * must change nothing and answer its run, without a claim; REQUEST_ID_REUSED, RUN_NOT_FOUND when that run is hidden
   * or gone.
   */
  begin(
    saga: NewSaga,
    hold: { readonly owner: string; readonly leaseMs: number } | undefined,
  ): Promise<{ readonly run: Run; readonly claim: SagaClaim | undefined }>;
  /** Must answer runs that are due so that tenants take turns: first those whose runs have fewest workers. */
  findDue(limit: number): Promise<readonly RunKey[]>;
  /** Must give the run to this worker with a new token, unless it is not due. */
  claim(key: RunKey, owner: string, leaseMs: number): Promise<SagaClaim | undefined>;
  /**
   * Must write all of it at once, and answer by step what its compensation has removed in all. What the run or a step no
   * longer has, input or output, must be gone from its row. LEASE_LOST, with nothing written, when the token is not the
   * last one, or the version is not the claim's: a write whose answer was lost may have been committed. A compensation
   * that ends, well or parked, must leave a row in the audit; one that ends well must also leave its receipt, a COMPLETE
   * deletion. Both must say on whose behalf it went on, and by which key that subject came. RUN_DELETED, with nothing written, when the row that the step uses belongs to a hidden run; a soft delete
   * that has the run's lock must be waited for.
   */
  write(claim: SagaClaim, write: SagaWrite): Promise<Readonly<Record<string, Removed>>>;
  /**
   * Must make the run due in `pauseMs`, as after a holder that vanished; must change nothing where the token is not the
   * last one, or the run was given up.
   */
  endLease(claim: SagaClaim, pauseMs: number): Promise<void>;
  /** Must answer the run that this request id began; undefined for an unknown request id, otherwise as `begin`. */
  findBegun(tenantId: string, request: { readonly id: string; readonly fingerprint: string }): Promise<Run | undefined>;
  /** Must answer the row of a type, whoever made it; undefined for none, RUN_DELETED when its run is hidden. */
  findEffect(tenantId: string, type: string, id: string): Promise<JsonObject | undefined>;
  /**
   * Must run `change` under the run's lock. What it returns must be committed with a row in the audit, taken from
   * whoever holds the run, and due at once where it is to go on; the very same saga changes nothing. A compensation that
   * begins by it must go on, and be told of, on behalf of whoever ordered it; a retry changes nothing about that, and is
   * refused with OPERATION_IN_PROGRESS while a purge of the run is not over. Undefined for an unknown or hidden run.
   */
  order(order: SagaOrder, change: (run: Run, saga: Saga) => Saga): Promise<Run | undefined>;
  /** Must answer how old the oldest run of all tenants is that workers go on with, in seconds; 0 where there is none. */
  oldestUnfinishedSeconds(): Promise<number>;
  /** Must answer how many runs of all tenants are parked. */
  parkedCount(): Promise<number>;
}
