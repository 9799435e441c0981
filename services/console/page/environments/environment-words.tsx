import { Text } from '@mantine/core';
import type { Environment } from '#gen/lethe/incident/v1/incident_pb.ts';
import { formatCount } from '../parts/format.ts';
import { RelativeTime } from '../parts/relative-time.tsx';

/** "Checked 5 minutes ago", from the environment's own row, so that it is right without any check left. */
export const LastCheck = ({ environment }: { readonly environment: Environment }) =>
  environment.lastCheckTime ? (
    <Text span size="sm">
      Checked <RelativeTime time={environment.lastCheckTime} />
    </Text>
  ) : (
    <Text span size="sm" c="dimmed">
      Never checked
    </Text>
  );

/** How many workflows differ, and how; a dash where none do. */
export function FlagCounts({
  counts,
}: {
  readonly counts: Pick<Environment, 'modifiedCount' | 'notInGitCount' | 'unknownCount'>;
}) {
  const parts = [
    [counts.modifiedCount, 'modified'],
    [counts.notInGitCount, 'not in git'],
    [counts.unknownCount, 'unknown'],
  ] as const;
  const text = parts
    .filter(([count]) => count > 0)
    .map(([count, what]) => `${formatCount(count)} ${what}`)
    .join(', ');
  return (
    <Text span size="sm" {...(text ? {} : { c: 'dimmed' })}>
      {text || '–'}
    </Text>
  );
}
