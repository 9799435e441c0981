import type { JsonObject } from '@bufbuild/protobuf';
import type { Principal } from '#libs/kernel/caller.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';

/** Which step acts, and for whom. */
export interface StepOrder {
  readonly tenantId: string;
  readonly runId: string;
  readonly step: string;
  readonly caller: Principal;
  /** Aborted once nobody waits for the answer. */
  readonly signal: AbortSignal;
}

/** What a step's action has come to: `output` for later steps, and the effects that exist now. */
export interface ActionOutcome {
  readonly output: JsonObject;
  readonly counts: readonly ResourceCount[];
}

/** Something that a step can have done. */
export interface Action<Input = unknown> {
  /** Must answer the whole input, or throw FIELD_INVALID naming each bad field as `input.<name>`. */
  parse(input: JsonObject | undefined): Input;
  /** Must throw FIELD_INVALID for what an input, complete or not, names and is not there. Absent: it names nothing. */
  check?(tenantId: string, input: JsonObject | undefined): Promise<void>;
  /**
   * Must do it once, however often it is asked for; undefined: not done yet, to be asked for again. STEP_COMPENSATED,
   * RUN_DELETED, REQUEST_ID_REUSED, ACTION_REFUSED.
   */
  execute(order: StepOrder, input: Input): Promise<ActionOutcome | undefined>;
}
