import { Badge, Group, Text, Timeline } from '@mantine/core';
import {
  IconArrowBackUp,
  IconCheck,
  IconCircleDashed,
  IconPlayerPlay,
  IconRotateClockwise,
  IconX,
} from '@tabler/icons-react';
import type { ComponentType } from 'react';
import { type RunStep, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { entryOf } from '../parts/enum-names.ts';
import { formatSpan, plural, toWords } from '../parts/format.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { StepBadge, stepState } from '../runs/run-words.tsx';

const ICONS: Readonly<Record<StepState, ComponentType<{ size: number }>>> = {
  [StepState.UNSPECIFIED]: IconCircleDashed,
  [StepState.PENDING]: IconCircleDashed,
  [StepState.RUNNING]: IconPlayerPlay,
  [StepState.COMPLETED]: IconCheck,
  [StepState.FAILED]: IconX,
  [StepState.COMPENSATING]: IconRotateClockwise,
  [StepState.COMPENSATED]: IconArrowBackUp,
};

/** A run's steps in the order in which they began: in which services they have effects, and what was undone of them. */
export const RunSteps = ({ steps }: { readonly steps: readonly RunStep[] }) => (
  <Timeline active={steps.length} bulletSize={24} lineWidth={2} role="list">
    {steps.map((step) => {
      const Icon = entryOf(ICONS, step.state);
      const [, color] = stepState(step.state);
      return (
        <Timeline.Item
          key={step.name}
          role="listitem"
          color={color}
          bullet={<Icon size={14} aria-hidden />}
          title={
            <Group gap="xs">
              <Text span fw={600} size="sm" className="mono wrap-anywhere">
                {step.name}
              </Text>
              <StepBadge state={step.state} />
            </Group>
          }
        >
          <Step step={step} />
        </Timeline.Item>
      );
    })}
  </Timeline>
);

function Step({ step }: { readonly step: RunStep }) {
  const { participants, startTime, finishTime, compensateTime, attempts, error, removed } = step;
  const undone = removed.filter(({ deleted }) => deleted > 0n);
  return (
    <>
      <Group gap={6} mt={4}>
        <Text size="xs" c="dimmed">
          Effects in
        </Text>
        {(participants.length > 0 ? participants : ['run']).map((name) => (
          <Badge key={name} size="sm" variant="default" tt="none" fw={500}>
            {name}
          </Badge>
        ))}
        <Text size="xs" c="dimmed">
          {startTime ? <RelativeTime time={startTime} /> : 'not begun'}
          {startTime && finishTime && `, took ${formatSpan(startTime, finishTime)}`}
          {attempts > 0 && `, ${plural(attempts, 'failed attempt')}`}
        </Text>
      </Group>
      {error && (
        <Text size="sm" mt={4} c="var(--mantine-color-error)" className="wrap-anywhere">
          {error}
        </Text>
      )}
      {compensateTime && (
        <Text size="sm" mt={4}>
          {undone.length > 0
            ? `Undone: ${undone.map(({ resourceType, deleted, atLeast }) => `${atLeast ? 'at least ' : ''}${plural(deleted, toWords(resourceType).toLowerCase())}`).join(', ')}`
            : 'Undone; it had left nothing'}{' '}
          <Text span size="xs" c="dimmed">
            <RelativeTime time={compensateTime} />
          </Text>
        </Text>
      )}
    </>
  );
}
