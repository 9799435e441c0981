import { Button, Group, Paper, Stack, Table, Text, Title } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { type RetentionWindow, WindowKind } from '#gen/lethe/retention/v1/retention_pb.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatCount } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { retention } from '../rpc.ts';
import { useReasonNot } from '../session.ts';
import { PurgeNowDialog } from './purge-now-dialog.tsx';
import { sourceLabel, subjectLabel, windowLabel } from './retention-words.tsx';
import { TenantPlanDialog } from './tenant-plan-dialog.tsx';

interface WindowsTabProps {
  readonly tenantId: string;
  /** Shows the purge that was set going. */
  readonly onPurge: (purgeId: string) => void;
}

/** How long one tenant's data is kept, subject by subject, where each window comes from, and when it changes. */
export function WindowsTab({ tenantId, onPurge }: WindowsTabProps) {
  const [isPurging, setPurging] = useState(false);
  const query = useQuery({
    queryKey: ['retention-windows', tenantId],
    queryFn: ({ signal }) => retention.resolveRetention({ tenantId }, { signal }),
  });
  const mayPurge = useReasonNot({ role: 'admin', scope: 'retention:purge' });
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  if (query.isPending) return <LoadingRows />;
  const { windows } = query.data;
  return (
    <Stack>
      <TenantPlanCard tenantId={tenantId} />
      <Paper withBorder p="md" component="section" aria-labelledby="windows">
        <Group justify="space-between" mb="sm">
          <Title order={2} size="h4" id="windows">
            What is kept
          </Title>
          <Gated because={mayPurge}>
            <Button color="red" variant="light" onClick={() => setPurging(true)}>
              Purge now…
            </Button>
          </Gated>
        </Group>
        {windows.length === 0 ? (
          <EmptyNote>No service has told of anything that ages.</EmptyNote>
        ) : (
          <Table.ScrollContainer minWidth={560} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
            <Table aria-labelledby="windows">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th scope="col">Subject</Table.Th>
                  <Table.Th scope="col">Kept for</Table.Th>
                  <Table.Th scope="col">Where that comes from</Table.Th>
                  <Table.Th scope="col">Next change</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {windows.map((window) => (
                  <Table.Tr key={window.subjectName}>
                    <Table.Th scope="row" fw={500}>
                      {subjectLabel(window.subjectName)}
                    </Table.Th>
                    <Table.Td>
                      {windowLabel(window.kind, window.retentionDays)}
                      {Boolean(window.minExecutionsToKeep) && (
                        <Text size="xs" c="dimmed">
                          and always the newest {formatCount(window.minExecutionsToKeep ?? 0n)}
                        </Text>
                      )}
                    </Table.Td>
                    <Table.Td>{sourceLabel(window)}</Table.Td>
                    <Table.Td>
                      <NextWindow window={window} />
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        )}
      </Paper>
      {isPurging && (
        <PurgeNowDialog
          tenantId={tenantId}
          onClose={() => setPurging(false)}
          onStarted={(purgeId) => {
            setPurging(false);
            onPurge(purgeId);
          }}
        />
      )}
    </Stack>
  );
}

function NextWindow({ window }: { readonly window: RetentionWindow }) {
  if (window.nextKind === WindowKind.UNSPECIFIED) return <Text c="dimmed">–</Text>;
  return (
    <>
      {windowLabel(window.nextKind, window.nextRetentionDays)}{' '}
      <Text span size="sm" c="dimmed">
        <RelativeTime time={window.changeTime} />
      </Text>
    </>
  );
}

function TenantPlanCard({ tenantId }: { readonly tenantId: string }) {
  const [isChanging, setChanging] = useState(false);
  const query = useQuery({
    queryKey: ['tenant-plan', tenantId],
    // By the list, which answers with nothing where a tenant has no plan; the single read answers with an error.
    queryFn: async ({ signal }) =>
      (await retention.listTenantPlans({ tenantId, pageSize: 1 }, { signal })).tenantPlans[0] ?? null,
  });
  const history = useQuery({
    queryKey: ['tenant-plan-history', tenantId],
    queryFn: async ({ signal }) =>
      (await retention.listTenantPlans({ tenantId, showHistory: true, pageSize: 20 }, { signal })).tenantPlans,
  });
  const mayChange = useReasonNot({ role: 'platform', scope: 'retention:write' });
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  if (query.isPending) return <LoadingRows rows={2} />;
  const plan = query.data;
  const entries = history.data ?? [];
  return (
    <Paper withBorder p="md" component="section" aria-labelledby="tenant-plan">
      <Group justify="space-between">
        <div>
          <Title order={2} size="h4" id="tenant-plan">
            {plan?.planName ? `Plan ${plan.planName}` : 'No plan'}
          </Title>
          <Text size="sm" c="dimmed">
            {plan ? (
              <>
                Set by {plan.actor} <RelativeTime time={plan.createTime} />
                {plan.reason && `: ${plan.reason}`}
              </>
            ) : (
              'Without a plan and a policy of its own, everything of this tenant is kept.'
            )}
          </Text>
        </div>
        <Gated because={mayChange}>
          <Button variant="default" onClick={() => setChanging(true)}>
            Change plan…
          </Button>
        </Gated>
      </Group>
      {history.isError && <ErrorAlert error={history.error} onRetry={() => history.refetch()} />}
      {entries.length > 1 && (
        <Table mt="sm" aria-label="History of plans">
          <Table.Tbody>
            {entries.map((entry) => (
              <Table.Tr key={String(entry.version)}>
                <Table.Td>{entry.planName || 'No plan'}</Table.Td>
                <Table.Td>
                  from <RelativeTime time={entry.effectiveTime} />
                </Table.Td>
                <Table.Td>{entry.actor}</Table.Td>
                <Table.Td style={{ overflowWrap: 'anywhere' }}>{entry.reason}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
      {isChanging && history.data && (
        <TenantPlanDialog
          tenantId={tenantId}
          current={plan ?? undefined}
          newest={entries[0]}
          onClose={() => setChanging(false)}
        />
      )}
    </Paper>
  );
}
