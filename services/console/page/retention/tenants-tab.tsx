import { Alert, Anchor, Stack, Table, Text, Title } from '@mantine/core';
import { useInfiniteQuery } from '@tanstack/react-query';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { retention } from '../rpc.ts';
import { subjectLabel } from './retention-words.tsx';

interface TenantsTabProps {
  /** Shows what is kept of this tenant. */
  readonly onTenant: (tenantId: string) => void;
}

/** Every tenant with its plan, and those that have data and none. For platform operators. */
export function TenantsTab({ onTenant }: TenantsTabProps) {
  const plans = useInfiniteQuery({
    queryKey: ['tenant-plans'],
    queryFn: ({ signal, pageParam }) => retention.listTenantPlans({ pageSize: 50, pageToken: pageParam }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const unplanned = useInfiniteQuery({
    queryKey: ['unplanned-tenants'],
    queryFn: ({ signal, pageParam }) =>
      retention.listUnplannedTenants({ pageSize: 50, pageToken: pageParam }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const rows = plans.data?.pages.flatMap((page) => page.tenantPlans) ?? [];
  const without = unplanned.data?.pages.flatMap((page) => page.tenants) ?? [];
  return (
    <Stack gap="lg">
      {plans.isError ? (
        <ErrorAlert error={plans.error} onRetry={() => plans.refetch()} />
      ) : plans.isPending ? (
        <LoadingRows />
      ) : rows.length === 0 ? (
        <EmptyNote>No tenant has a plan.</EmptyNote>
      ) : (
        <>
          <Table.ScrollContainer minWidth={520} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
            <Table highlightOnHover aria-label="Tenants with a plan">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th scope="col">Tenant</Table.Th>
                  <Table.Th scope="col">Plan</Table.Th>
                  <Table.Th scope="col">Since</Table.Th>
                  <Table.Th scope="col">Set by</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {rows.map(({ tenantId, planName, effectiveTime, actor, reason }) => (
                  <Table.Tr key={tenantId}>
                    <Table.Td>
                      <TenantLink tenantId={tenantId} onTenant={onTenant} />
                    </Table.Td>
                    <Table.Td>{planName || 'No plan'}</Table.Td>
                    <Table.Td>
                      <RelativeTime time={effectiveTime} />
                    </Table.Td>
                    <Table.Td>
                      {actor}
                      {reason && (
                        <Text size="xs" c="dimmed">
                          {reason}
                        </Text>
                      )}
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
          <MorePages query={plans} shown={rows.length} />
        </>
      )}
      <section aria-labelledby="unplanned">
        <Title order={2} size="h4" id="unplanned" mb="sm">
          Data without a plan
        </Title>
        {unplanned.isError ? (
          <ErrorAlert error={unplanned.error} onRetry={() => unplanned.refetch()} />
        ) : unplanned.isPending ? (
          <LoadingRows rows={2} />
        ) : without.length === 0 ? (
          <EmptyNote>Every tenant that has data has a plan or a policy.</EmptyNote>
        ) : (
          <>
            <Alert color="gray" variant="light" mb="sm">
              These tenants have data and neither a plan nor a policy. Nothing of theirs is ever purged.
            </Alert>
            <Table aria-labelledby="unplanned">
              <Table.Tbody>
                {without.map(({ tenantId, subjects, firstSeenTime }) => (
                  <Table.Tr key={tenantId}>
                    <Table.Td>
                      <TenantLink tenantId={tenantId} onTenant={onTenant} />
                    </Table.Td>
                    <Table.Td>{subjects.map(subjectLabel).join(', ')}</Table.Td>
                    <Table.Td>
                      since <RelativeTime time={firstSeenTime} />
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
            <MorePages query={unplanned} shown={without.length} />
          </>
        )}
      </section>
    </Stack>
  );
}

const TenantLink = ({ tenantId, onTenant }: TenantsTabProps & { readonly tenantId: string }) => (
  <Anchor component="button" type="button" size="sm" fw={500} onClick={() => onTenant(tenantId)}>
    {tenantId}
  </Anchor>
);
