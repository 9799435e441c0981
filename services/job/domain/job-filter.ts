import type { JobState } from './job.ts';

/** Which jobs a bulk deletion is about. It is kept as JSON, so instants are texts. */
export interface JobFilter {
  /** Empty: in any state. */
  readonly states: readonly JobState[];
  readonly runId?: string;
  readonly minCreatedAt?: string;
  readonly maxCreatedAt?: string;
}

/** Whether the filter has any condition; without one it would match every job. */
export const hasCondition = ({ states, runId, minCreatedAt, maxCreatedAt }: JobFilter): boolean =>
  states.length > 0 || runId !== undefined || minCreatedAt !== undefined || maxCreatedAt !== undefined;
