import { Anchor, Group, Select, Table } from '@mantine/core';
import { useInfiniteQuery } from '@tanstack/react-query';
import { DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { DriftBadge, driftStatusLabel } from '../incidents/incident-words.tsx';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { NeedsTenant } from '../parts/needs-tenant.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { incidents } from '../rpc.ts';
import { ChecksDrawer } from './checks-drawer.tsx';
import { FlagCounts, LastCheck } from './environment-words.tsx';

/** What the address says about this page. */
export interface EnvironmentsSearch {
  readonly status?: DriftStatus | undefined;
  /** The environment whose checks are shown. */
  readonly env?: string | undefined;
}

const STATUSES = [DriftStatus.IN_SYNC, DriftStatus.DRIFT, DriftStatus.UNKNOWN] as const;

/** The tenant's environments with their badges, which stay when every check has been purged. */
export const EnvironmentsPage = (props: PageProps<EnvironmentsSearch>) => (
  <>
    <PageHeader title="Environments" description="Whether each environment is as its source says." />
    <NeedsTenant>
      <EnvironmentsOfTenant {...props} />
    </NeedsTenant>
  </>
);

function EnvironmentsOfTenant({ search, onSearch }: PageProps<EnvironmentsSearch>) {
  const { status, env } = search;
  const query = useInfiniteQuery({
    queryKey: ['environments', status],
    queryFn: ({ signal, pageParam }) =>
      incidents.listEnvironments(
        { pageSize: 50, pageToken: pageParam, driftStatus: status ?? DriftStatus.UNSPECIFIED },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const environments = query.data?.pages.flatMap((page) => page.environments) ?? [];
  return (
    <>
      <Group mb="md">
        <Select
          aria-label="Drift status"
          placeholder="Any status"
          clearable
          w={180}
          value={status === undefined ? null : String(status)}
          onChange={(value) => onSearch({ ...search, status: value ? (Number(value) as DriftStatus) : undefined })}
          data={STATUSES.map((value) => ({ value: String(value), label: driftStatusLabel(value) }))}
        />
      </Group>
      {query.isError ? (
        <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
      ) : query.isPending ? (
        <LoadingRows />
      ) : environments.length === 0 ? (
        <EmptyNote>
          {status === undefined ? 'No environment has been created yet.' : 'No environment has this status.'}
        </EmptyNote>
      ) : (
        <>
          <Table.ScrollContainer minWidth={560} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
            <Table highlightOnHover aria-label="Environments">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th scope="col">Environment</Table.Th>
                  <Table.Th scope="col">Status</Table.Th>
                  <Table.Th scope="col">Workflows that differ</Table.Th>
                  <Table.Th scope="col">Last check</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {environments.map((environment) => (
                  <Table.Tr key={environment.id}>
                    <Table.Td>
                      <Anchor
                        component="button"
                        type="button"
                        fw={500}
                        size="sm"
                        onClick={() => onSearch({ ...search, env: environment.id })}
                      >
                        {environment.displayName}
                      </Anchor>
                    </Table.Td>
                    <Table.Td>
                      <DriftBadge status={environment.driftStatus} />
                    </Table.Td>
                    <Table.Td>
                      <FlagCounts counts={environment} />
                    </Table.Td>
                    <Table.Td>
                      <LastCheck environment={environment} />
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
          <MorePages query={query} shown={environments.length} />
        </>
      )}
      {env && <ChecksDrawer environmentId={env} onClose={() => onSearch({ ...search, env: undefined })} />}
    </>
  );
}
