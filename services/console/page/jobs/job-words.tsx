import type { MantineColor } from '@mantine/core';
import { JobState, TaskState } from '#gen/lethe/job/v1/job_pb.ts';
import { entryOf } from '../parts/enum-names.ts';
import { StateBadge } from '../parts/state-badge.tsx';

const STATES: Readonly<Record<JobState, readonly [label: string, color: MantineColor]>> = {
  [JobState.UNSPECIFIED]: ['Unknown', 'gray'],
  [JobState.PENDING]: ['Waiting', 'gray'],
  [JobState.RUNNING]: ['Running', 'blue'],
  [JobState.CANCELLING]: ['Cancelling', 'orange'],
  [JobState.CANCELLED]: ['Cancelled', 'gray'],
  [JobState.COMPLETED]: ['Completed', 'green'],
  [JobState.FAILED]: ['Failed', 'red'],
};

const TASKS: Readonly<Record<TaskState, readonly [label: string, color: MantineColor]>> = {
  [TaskState.UNSPECIFIED]: ['Unknown', 'gray'],
  [TaskState.PENDING]: ['Not begun', 'gray'],
  [TaskState.RUNNING]: ['Running', 'blue'],
  [TaskState.COMPLETED]: ['Done', 'green'],
  [TaskState.FAILED]: ['Failed', 'red'],
  [TaskState.CANCELLED]: ['Cancelled', 'gray'],
};

const DELETABLE: ReadonlySet<JobState> = new Set([JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]);
const CANCELLABLE: ReadonlySet<JobState> = new Set([JobState.PENDING, JobState.RUNNING]);

/** The states that a list can be narrowed to. */
export const JOB_STATES = [
  JobState.PENDING,
  JobState.RUNNING,
  JobState.CANCELLING,
  JobState.COMPLETED,
  JobState.FAILED,
  JobState.CANCELLED,
] as const;

/** A job's state in words. */
export const jobStateLabel = (state: JobState): string => entryOf(STATES, state)[0];

/** Whether a job can be deleted: it is COMPLETED, FAILED or CANCELLED. */
export const isDeletable = ({ state }: { readonly state: JobState }): boolean => DELETABLE.has(state);

/** Whether a job can be cancelled. */
export const isCancellable = ({ state }: { readonly state: JobState }): boolean => CANCELLABLE.has(state);

/** Where a job stands. */
export function JobBadge({ state }: { readonly state: JobState }) {
  const [label, color] = entryOf(STATES, state);
  return <StateBadge label={label} color={color} isActive={state === JobState.RUNNING} />;
}

/** Where a task stands. */
export function TaskBadge({ state }: { readonly state: TaskState }) {
  const [label, color] = entryOf(TASKS, state);
  return <StateBadge label={label} color={color} />;
}
