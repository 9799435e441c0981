import { Anchor, Group, Select, Table, Text } from '@mantine/core';
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { IncidentState, PayloadState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { NeedsTenant } from '../parts/needs-tenant.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { incidents } from '../rpc.ts';
import { DriftFigures } from './drift-figures.tsx';
import { INCIDENT_STATES, IncidentBadge, incidentStateLabel } from './incident-words.tsx';

/** What the address says about this page. */
export interface IncidentsSearch {
  readonly state?: IncidentState | undefined;
  readonly environment?: string | undefined;
}

const DETAILS: Readonly<Record<number, string>> = {
  [PayloadState.PRESENT]: 'Kept',
  [PayloadState.PURGED]: 'Purged',
  [PayloadState.ABSENT]: 'None',
};

/** The tenant's incidents, newest first, under the figures on drift. */
export const IncidentsPage = (props: PageProps<IncidentsSearch>) => (
  <>
    <PageHeader title="Incidents" description="Drift that somebody has to look at, and what became of it." />
    <NeedsTenant>
      <IncidentsOfTenant {...props} />
    </NeedsTenant>
  </>
);

function IncidentsOfTenant({ search, onSearch }: PageProps<IncidentsSearch>) {
  const { state, environment } = search;
  const environments = useQuery({
    queryKey: ['environment-names'],
    queryFn: async ({ signal }) => (await incidents.listEnvironments({ pageSize: 200 }, { signal })).environments,
  });
  const names = new Map(environments.data?.map(({ id, displayName }) => [id, displayName]));
  // A filter that a link brought is shown also where the environment is beyond the first page of names.
  if (environment && !names.has(environment)) names.set(environment, environment);
  const query = useInfiniteQuery({
    queryKey: ['incidents', state, environment],
    queryFn: ({ signal, pageParam }) =>
      incidents.listIncidents(
        {
          pageSize: 50,
          pageToken: pageParam,
          state: state ?? IncidentState.UNSPECIFIED,
          environmentId: environment ?? '',
        },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const rows = query.data?.pages.flatMap((page) => page.incidents) ?? [];
  return (
    <>
      <DriftFigures />
      <Group mb="md" mt="lg">
        <Select
          aria-label="Status"
          placeholder="Any status"
          clearable
          w={180}
          value={state === undefined ? null : String(state)}
          onChange={(value) => onSearch({ ...search, state: value ? (Number(value) as IncidentState) : undefined })}
          data={INCIDENT_STATES.map((value) => ({ value: String(value), label: incidentStateLabel(value) }))}
        />
        <Select
          aria-label="Environment"
          placeholder="Any environment"
          clearable
          searchable
          w={220}
          value={environment ?? null}
          onChange={(value) => onSearch({ ...search, environment: value ?? undefined })}
          data={[...names].map(([value, label]) => ({ value, label }))}
        />
      </Group>
      {query.isError ? (
        <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
      ) : query.isPending ? (
        <LoadingRows />
      ) : rows.length === 0 ? (
        <EmptyNote>
          {state === undefined && !environment
            ? 'No incident has been opened yet.'
            : 'No incident matches the filters.'}
        </EmptyNote>
      ) : (
        <>
          <Table.ScrollContainer minWidth={640} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
            <Table highlightOnHover aria-label="Incidents">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th scope="col">Incident</Table.Th>
                  <Table.Th scope="col">Status</Table.Th>
                  <Table.Th scope="col">Environment</Table.Th>
                  <Table.Th scope="col">Details</Table.Th>
                  <Table.Th scope="col">Opened</Table.Th>
                  <Table.Th scope="col">Closed</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {rows.map((incident) => (
                  <Table.Tr key={incident.id}>
                    <Table.Td>
                      <Anchor
                        size="sm"
                        fw={500}
                        renderRoot={(props) => <Link {...props} to="/incidents/$id" params={{ id: incident.id }} />}
                      >
                        {incident.title}
                      </Anchor>
                    </Table.Td>
                    <Table.Td>
                      <IncidentBadge incident={incident} />
                    </Table.Td>
                    <Table.Td>{names.get(incident.environmentId) ?? incident.environmentId}</Table.Td>
                    <Table.Td>
                      <Text span size="sm" {...(incident.payloadState === PayloadState.PRESENT ? {} : { c: 'dimmed' })}>
                        {DETAILS[incident.payloadState] ?? '–'}
                      </Text>
                    </Table.Td>
                    <Table.Td>
                      <RelativeTime time={incident.createTime} />
                    </Table.Td>
                    <Table.Td>{incident.closeTime ? <RelativeTime time={incident.closeTime} /> : '–'}</Table.Td>
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
