import { Button, Drawer, Group, Paper, SimpleGrid, Stack, Table, Text, Title } from '@mantine/core';
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import type { Plan } from '#gen/lethe/retention/v1/retention_pb.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { plural } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { retention } from '../rpc.ts';
import { useReasonNot } from '../session.ts';
import { PlanDialog } from './plan-dialog.tsx';
import { planWindowLabel, subjectLabel } from './retention-words.tsx';

/** Every plan with its windows in force. */
export function PlansTab() {
  const [changing, setChanging] = useState<Plan>();
  const [history, setHistory] = useState<string>();
  const query = useQuery({
    queryKey: ['plans'],
    queryFn: async ({ signal }) => (await retention.listPlans({ pageSize: 200 }, { signal })).plans,
  });
  const mayChange = useReasonNot({ role: 'platform', scope: 'retention:write' });
  const mayRead = useReasonNot({ role: 'platform', scope: 'retention:read' });
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  if (query.isPending) return <LoadingRows />;
  if (query.data.length === 0) return <EmptyNote>There is no plan.</EmptyNote>;
  return (
    <>
      <SimpleGrid cols={{ base: 1, lg: 2 }}>
        {query.data.map((plan) => (
          <Paper key={plan.name} withBorder p="md" component="section" aria-label={`Plan ${plan.name}`}>
            <Group justify="space-between" mb="xs">
              <div>
                <Title order={2} size="h4">
                  {plan.name}
                </Title>
                {/* A tenant's own people are not told of others, so that their count is 0. */}
                {mayRead === undefined && (
                  <Text size="xs" c="dimmed">
                    {plural(plan.tenantCount, 'tenant')}
                  </Text>
                )}
              </div>
              <Group gap="xs">
                <Gated because={mayRead}>
                  <Button
                    size="xs"
                    variant="subtle"
                    aria-label={`History of ${plan.name}`}
                    onClick={() => setHistory(plan.name)}
                  >
                    History
                  </Button>
                </Gated>
                <Gated because={mayChange}>
                  <Button
                    size="xs"
                    variant="default"
                    aria-label={`Change ${plan.name}`}
                    onClick={() => setChanging(plan)}
                  >
                    Change…
                  </Button>
                </Gated>
              </Group>
            </Group>
            {plan.windows.length === 0 ? (
              <EmptyNote>Everything is kept.</EmptyNote>
            ) : (
              <Table aria-label={`Windows of ${plan.name}`}>
                <Table.Tbody>
                  {plan.windows.map((window) => (
                    <Table.Tr key={window.subject}>
                      <Table.Th scope="row" fw={400}>
                        {subjectLabel(window.subject)}
                      </Table.Th>
                      <Table.Td ta="right">
                        {planWindowLabel(window)}
                        {window.version > 1n && (
                          <Text size="xs" c="dimmed">
                            changed by {window.actor} <RelativeTime time={window.recordTime} />
                          </Text>
                        )}
                      </Table.Td>
                    </Table.Tr>
                  ))}
                </Table.Tbody>
              </Table>
            )}
          </Paper>
        ))}
      </SimpleGrid>
      {changing && <PlanDialog plan={changing} onClose={() => setChanging(undefined)} />}
      {history && <PlanHistory name={history} onClose={() => setHistory(undefined)} />}
    </>
  );
}

/** Every window that was ever recorded for a plan, with who changed it and why. */
function PlanHistory({ name, onClose }: { readonly name: string; readonly onClose: () => void }) {
  const query = useInfiniteQuery({
    queryKey: ['plan-windows', name],
    queryFn: ({ signal, pageParam }) =>
      retention.listPlanWindows({ name, pageSize: 50, pageToken: pageParam }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const windows = query.data?.pages.flatMap((page) => page.windows) ?? [];
  return (
    <Drawer
      opened
      onClose={onClose}
      position="right"
      size="lg"
      title={`History of ${name}`}
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      {query.isError ? (
        <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
      ) : query.isPending ? (
        <LoadingRows />
      ) : (
        <Stack>
          <Table aria-label={`History of ${name}`}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th scope="col">Subject</Table.Th>
                <Table.Th scope="col">Kept for</Table.Th>
                <Table.Th scope="col">Changed</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {windows.map((window) => (
                <Table.Tr key={`${window.subject} ${window.version}`}>
                  <Table.Td>
                    {subjectLabel(window.subject)}
                    <Text size="xs" c="dimmed">
                      version {String(window.version)}
                    </Text>
                  </Table.Td>
                  <Table.Td>{planWindowLabel(window)}</Table.Td>
                  <Table.Td style={{ overflowWrap: 'anywhere' }}>
                    <RelativeTime time={window.recordTime} /> by {window.actor}
                    {window.reason && (
                      <Text size="xs" c="dimmed">
                        {window.reason}
                      </Text>
                    )}
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
          <MorePages query={query} shown={windows.length} />
        </Stack>
      )}
    </Drawer>
  );
}
