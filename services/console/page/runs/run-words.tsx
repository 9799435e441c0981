import type { MantineColor } from '@mantine/core';
import { type Run, RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { entryOf } from '../parts/enum-names.ts';
import { StateBadge } from '../parts/state-badge.tsx';

const STATES: Readonly<Record<RunState, readonly [label: string, color: MantineColor]>> = {
  [RunState.UNSPECIFIED]: ['Unknown', 'gray'],
  [RunState.RUNNING]: ['Running', 'blue'],
  [RunState.COMPENSATING]: ['Compensating', 'orange'],
  [RunState.COMPLETED]: ['Completed', 'green'],
  [RunState.COMPENSATED]: ['Compensated', 'grape'],
  [RunState.FAILED]: ['Failed', 'red'],
  [RunState.CANCELLED]: ['Cancelled', 'gray'],
};

const STEPS: Readonly<Record<StepState, readonly [label: string, color: MantineColor]>> = {
  [StepState.UNSPECIFIED]: ['Unknown', 'gray'],
  [StepState.PENDING]: ['Not begun', 'gray'],
  [StepState.RUNNING]: ['Running', 'blue'],
  [StepState.COMPLETED]: ['Done', 'green'],
  [StepState.FAILED]: ['Failed', 'red'],
  [StepState.COMPENSATING]: ['Compensating', 'orange'],
  [StepState.COMPENSATED]: ['Compensated', 'grape'],
};

const ACTIVE: ReadonlySet<RunState> = new Set([RunState.RUNNING, RunState.COMPENSATING]);

/** The states that a list can be narrowed to. */
export const RUN_STATES = [
  RunState.RUNNING,
  RunState.COMPENSATING,
  RunState.COMPLETED,
  RunState.COMPENSATED,
  RunState.FAILED,
  RunState.CANCELLED,
] as const;

/** A run's state in words. */
export const runStateLabel = (state: RunState): string => entryOf(STATES, state)[0];

/** A step's state in words, and its colour. */
export const stepState = (state: StepState): readonly [label: string, color: MantineColor] => entryOf(STEPS, state);

/** Whether nothing more happens to a run by itself. */
export const isTerminal = ({ state }: Pick<Run, 'state'>): boolean => !ACTIVE.has(state);

/** What a run is called: its name for people, else its workflow. */
export const runTitle = ({ displayName, workflow }: Pick<Run, 'displayName' | 'workflow'>): string =>
  displayName || workflow;

/** Where a run stands. */
export function RunBadge({ state }: { readonly state: RunState }) {
  const [label, color] = entryOf(STATES, state);
  return <StateBadge label={label} color={color} isActive={ACTIVE.has(state)} />;
}

/** Where a step stands. */
export function StepBadge({ state }: { readonly state: StepState }) {
  const [label, color] = entryOf(STEPS, state);
  return <StateBadge label={label} color={color} />;
}
