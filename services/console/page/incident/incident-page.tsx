import { Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../router.tsx';
import { incidents } from '../rpc.ts';

/** One incident. */
export function IncidentPage({ id }: PageProps) {
  const query = useQuery({
    queryKey: ['incident', id],
    queryFn: async ({ signal }) => (await incidents.getIncident({ incidentId: id }, { signal })).incident ?? null,
  });
  return (
    <>
      <PageHeader title={query.data?.title ?? 'Incident'} back={{ to: '/incidents', label: 'Incidents' }} />
      {query.isError && <ErrorAlert error={query.error} onRetry={() => query.refetch()} />}
      {query.isPending && <LoadingRows />}
      {query.data && <Text className="mono">{query.data.id}</Text>}
    </>
  );
}
