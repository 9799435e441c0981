import { Group, Progress, Stack, Text } from '@mantine/core';
import { type Deletion, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { formatCount } from '../parts/format.ts';
import { DeletionBadge, hasEnded } from './deletion-words.tsx';

/** How far a deletion is with each participant. */
export function DeletionProgress({ deletion }: { readonly deletion: Deletion }) {
  return (
    <Stack gap={6} role="group" aria-label="Progress">
      {deletion.participants.map(({ participant, state, resourceCounts }) => {
        const found = resourceCounts.reduce((sum, count) => sum + count.found - count.passedOn, 0n);
        const gone = resourceCounts.reduce((sum, count) => sum + count.deleted, 0n);
        const isRemoved = hasEnded({ state }) || state === DeletionState.VERIFYING;
        const share = found > 0n ? Math.min(100, (Number(gone) / Number(found)) * 100) : isRemoved ? 100 : 0;
        return (
          <div key={participant}>
            <Group justify="space-between" gap="xs">
              <Group gap="xs">
                <Text size="sm" fw={500}>
                  {participant}
                </Text>
                <DeletionBadge state={state} />
              </Group>
              <Text size="xs" c="dimmed" className="numbers">
                {found > 0n ? `${formatCount(gone)} of ${formatCount(found)}` : isRemoved && 'Nothing to remove'}
              </Text>
            </Group>
            <Progress value={share} size="sm" mt={4} aria-label={`Progress of ${participant}`} />
          </div>
        );
      })}
    </Stack>
  );
}
