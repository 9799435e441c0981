import { Stack, Text } from '@mantine/core';
import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { plural } from '../parts/format.ts';
import { obstaclesOf } from './stuck-advice.ts';

/** What blocks a deletion, how often it was tried, and what to do. Nothing where nothing blocks it. */
export function Obstacles({ deletion }: { readonly deletion: Deletion }) {
  const obstacles = obstaclesOf(deletion);
  if (obstacles.length === 0) return null;
  return (
    <Stack gap={6}>
      {obstacles.map(({ participant, reason, message, attempts, advice }) => (
        <div key={participant}>
          <Text size="sm" className="wrap-anywhere">
            {participant && <strong>{participant}: </strong>}
            {message}
          </Text>
          <Text size="xs" c="dimmed">
            {reason && <span className="mono">{reason}</span>}
            {attempts > 0 && ` · ${plural(attempts, 'failed attempt')}`}
          </Text>
          <Text size="sm" fw={500}>
            {advice}
          </Text>
        </div>
      ))}
    </Stack>
  );
}
