import { Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../router.tsx';
import { runs } from '../rpc.ts';

/** One run. */
export function RunPage({ id }: PageProps) {
  const query = useQuery({
    queryKey: ['run', id],
    queryFn: async ({ signal }) => (await runs.getRun({ runId: id }, { signal })).run ?? null,
  });
  return (
    <>
      <PageHeader title={query.data?.displayName ?? 'Run'} back={{ to: '/runs', label: 'Runs' }} />
      {query.isError && <ErrorAlert error={query.error} onRetry={() => query.refetch()} />}
      {query.isPending && <LoadingRows />}
      {query.data && <Text className="mono">{query.data.id}</Text>}
    </>
  );
}
