import { Table } from '@mantine/core';
import { useInfiniteQuery } from '@tanstack/react-query';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { incidents } from '../rpc.ts';

/** The tenant's environments. */
export function EnvironmentsPage() {
  const query = useInfiniteQuery({
    queryKey: ['environments'],
    queryFn: ({ signal, pageParam }) => incidents.listEnvironments({ pageToken: pageParam }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const rows = query.data?.pages.flatMap((page) => page.environments) ?? [];
  return (
    <>
      <PageHeader title="Environments" />
      {query.isError ? (
        <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
      ) : query.isPending ? (
        <LoadingRows />
      ) : rows.length === 0 ? (
        <EmptyNote>There are none yet.</EmptyNote>
      ) : (
        <>
          <Table.ScrollContainer minWidth={480} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
            <Table aria-label="Environments">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th scope="col">Name</Table.Th>
                  <Table.Th scope="col">Created</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {rows.map((row) => (
                  <Table.Tr key={row.id}>
                    <Table.Td>{row.displayName}</Table.Td>
                    <Table.Td>
                      <RelativeTime time={row.createTime} />
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
          <MorePages query={query} shown={rows.length} />
        </>
      )}
    </>
  );
}
