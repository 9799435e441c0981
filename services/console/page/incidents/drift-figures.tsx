import { Paper, SimpleGrid, Skeleton, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { DriftStatus, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatCount, formatDuration, plural } from '../parts/format.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { incidents } from '../rpc.ts';

/** The tenant's figures on drift. They come from what no purge takes, so they are the same before and after one. */
export function DriftFigures() {
  const query = useQuery({
    queryKey: ['drift-dashboard'],
    queryFn: ({ signal }) => incidents.getDriftDashboard({}, { signal }),
  });
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  const { data } = query;
  const environments = (status: DriftStatus) => data?.environments.find((one) => one.status === status)?.count ?? 0n;
  const inState = (state: IncidentState) => data?.incidents.find((one) => one.state === state)?.count ?? 0n;
  const all = data?.environments.reduce((sum, { count }) => sum + count, 0n) ?? 0n;
  return (
    <SimpleGrid cols={{ base: 2, sm: 4 }}>
      <Figure
        label="Open incidents"
        value={data && formatCount(data.openIncidentCount)}
        note={data && `${formatCount(inState(IncidentState.DETECTED))} not acknowledged`}
      />
      <Figure
        label="Mean time to close"
        value={data && (data.meanTimeToClose ? formatDuration(data.meanTimeToClose) : '–')}
        note={data && `${formatCount(inState(IncidentState.CLOSED))} closed`}
      />
      <Figure
        label="Environments in drift"
        value={data && formatCount(environments(DriftStatus.DRIFT))}
        note={data && `of ${formatCount(all)}`}
      />
      <Figure
        label="Last check"
        value={data && (data.lastCheckTime ? <RelativeTime time={data.lastCheckTime} /> : 'Never')}
        note={data && `${plural(environments(DriftStatus.UNKNOWN), 'environment')} unknown`}
      />
    </SimpleGrid>
  );
}

interface FigureProps {
  readonly label: string;
  /** Undefined: it is still loading. */
  readonly value: ReactNode | undefined;
  readonly note: string | undefined;
}

const Figure = ({ label, value, note }: FigureProps) => (
  <Paper withBorder p="md">
    <Text size="xs" c="dimmed">
      {label}
    </Text>
    {value === undefined ? (
      <Skeleton h={28} my={4} w="60%" />
    ) : (
      <Text component="div" fz="xl" fw={600} lh={1.4}>
        {value}
      </Text>
    )}
    <Text size="xs" c="dimmed">
      {note ?? ' '}
    </Text>
  </Paper>
);
