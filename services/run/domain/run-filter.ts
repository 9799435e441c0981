import type { RunState } from './run.ts';

/** Which runs a bulk deletion is about. It is kept as JSON, so instants are texts. */
export interface RunFilter {
  /** Empty: in any state. */
  readonly states: readonly RunState[];
  readonly workflow?: string;
  readonly minCreatedAt?: string;
  readonly maxCreatedAt?: string;
  /** Also those that are hidden. */
  readonly showDeleted: boolean;
}

/** Whether the filter has any condition; without one it would match every run. */
export const hasCondition = ({ states, workflow, minCreatedAt, maxCreatedAt }: RunFilter): boolean =>
  states.length > 0 || workflow !== undefined || minCreatedAt !== undefined || maxCreatedAt !== undefined;
