import { Accordion, Anchor, Drawer, Group, Stack, Table, Text } from '@mantine/core';
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import type { DriftCheck } from '#gen/lethe/incident/v1/incident_pb.ts';
import { DriftBadge, FlagBadge } from '../incidents/incident-words.tsx';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { incidents } from '../rpc.ts';
import { FlagCounts, LastCheck } from './environment-words.tsx';

/** One environment and the checks of it that are still kept, newest first. */
export function ChecksDrawer({
  environmentId,
  onClose,
}: {
  readonly environmentId: string;
  readonly onClose: () => void;
}) {
  const [open, setOpen] = useState<string | null>(null);
  const environment = useQuery({
    queryKey: ['environment', environmentId],
    queryFn: async ({ signal }) => (await incidents.getEnvironment({ environmentId }, { signal })).environment,
  });
  const query = useInfiniteQuery({
    queryKey: ['drift-checks', environmentId],
    queryFn: ({ signal, pageParam }) =>
      incidents.listDriftChecks({ environmentId, pageSize: 20, pageToken: pageParam }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const checks = query.data?.pages.flatMap((page) => page.driftChecks) ?? [];
  return (
    <Drawer
      opened
      onClose={onClose}
      position="right"
      size="lg"
      title={environment.data?.displayName ?? 'Environment'}
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      <Stack>
        {environment.isError ? (
          <ErrorAlert error={environment.error} onRetry={() => environment.refetch()} />
        ) : (
          environment.data && (
            <Group gap="sm">
              <DriftBadge status={environment.data.driftStatus} />
              <LastCheck environment={environment.data} />
              <Anchor
                size="sm"
                renderRoot={(props) => <Link {...props} to="/incidents" search={{ environment: environmentId }} />}
              >
                Its incidents
              </Anchor>
            </Group>
          )
        )}
        {query.isError ? (
          <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
        ) : query.isPending ? (
          <LoadingRows />
        ) : checks.length === 0 ? (
          <EmptyNote>
            {environment.data?.lastCheckTime
              ? 'No check is kept any more: they were purged per retention policy. The status above is the environment’s own and stays.'
              : 'It has not been checked yet.'}
          </EmptyNote>
        ) : (
          <>
            <Accordion value={open} onChange={setOpen} order={3} variant="separated">
              {checks.map((check) => (
                <Accordion.Item key={check.id} value={check.id}>
                  <Accordion.Control>
                    <Group gap="sm">
                      <DriftBadge status={check.status} />
                      <Text span size="sm">
                        <RelativeTime time={check.checkTime} />
                      </Text>
                      <FlagCounts counts={check} />
                    </Group>
                  </Accordion.Control>
                  <Accordion.Panel>{open === check.id && <FlaggedWorkflows check={check} />}</Accordion.Panel>
                </Accordion.Item>
              ))}
            </Accordion>
            <MorePages query={query} shown={checks.length} />
          </>
        )}
      </Stack>
    </Drawer>
  );
}

function FlaggedWorkflows({ check }: { readonly check: DriftCheck }) {
  const query = useQuery({
    queryKey: ['drift-check', check.id],
    queryFn: async ({ signal }) =>
      (await incidents.getDriftCheck({ driftCheckId: check.id }, { signal })).driftCheck?.workflows ?? [],
  });
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  if (query.isPending) return <LoadingRows rows={2} />;
  if (query.data.length === 0) return <EmptyNote>It flagged no workflow.</EmptyNote>;
  return (
    <Table aria-label="Workflows that differ">
      <Table.Tbody>
        {query.data.map(({ workflow, flag }) => (
          <Table.Tr key={workflow}>
            <Table.Td style={{ overflowWrap: 'anywhere' }}>{workflow}</Table.Td>
            <Table.Td w={130}>
              <FlagBadge flag={flag} />
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}
