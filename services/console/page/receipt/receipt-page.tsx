import { Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../router.tsx';
import { runs } from '../rpc.ts';

/** One deletion's receipt. */
export function ReceiptPage({ id }: PageProps) {
  const query = useQuery({
    queryKey: ['deletion', id],
    queryFn: async ({ signal }) => (await runs.getDeletion({ deletionId: id }, { signal })).deletion ?? null,
  });
  return (
    <>
      <PageHeader title="Receipt" back={{ to: '/deletions', label: 'Deletions' }} />
      {query.isError && <ErrorAlert error={query.error} onRetry={() => query.refetch()} />}
      {query.isPending && <LoadingRows />}
      {query.data && <Text className="mono">{query.data.id}</Text>}
    </>
  );
}
