import { Box, Group, Stack, Table, Text, Title } from '@mantine/core';
import { IconCircleCheck } from '@tabler/icons-react';
import { useInfiniteQuery, useQueries } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { type OldestWork, type ParkedWork, ParkedWorkKind, WorkKind } from '#gen/lethe/status/v1/status_service_pb.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { entryOf, nameOf } from '../parts/enum-names.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatMs, plural, toMs, toWords } from '../parts/format.ts';
import { IdText } from '../parts/id-text.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { StateBadge } from '../parts/state-badge.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { SERVICES, type ServiceName, statusOf } from '../rpc.ts';
import { useReasonNot, useSession } from '../session.ts';
import { OVERDUE_AFTER } from './overdue-after.ts';
import { linkToParked, linkToWork, type WorkPage } from './work-links.ts';

const REFRESH_MS = 10_000;
const PAGE_SIZE = 50;

/** What is not done: the oldest work of each kind, and what goes on only when a person wants it to. */
export function OverduePage() {
  const because = useReasonNot({ role: 'admin', scope: 'status:read' });
  const isPlatform = useSession().role === 'platform';
  return (
    <>
      <PageHeader
        title="Overdue"
        description={`The oldest work that is not done, and what waits for a person, ${
          isPlatform ? 'over all tenants' : 'of your tenant'
        }.`}
      />
      {because === undefined ? (
        <Stack gap="xl">
          <Oldest />
          <Parked />
        </Stack>
      ) : (
        <EmptyNote>{because}</EmptyNote>
      )}
    </>
  );
}

interface Aged {
  readonly service: ServiceName;
  readonly work: OldestWork;
  /** By the clock of the service's database. */
  readonly ageSeconds: number;
}

const isOverdue = ({ work: { kind }, ageSeconds }: Aged): boolean => ageSeconds > entryOf(OVERDUE_AFTER, kind);

// A service that does not answer is told beside what the others answered: an empty list would look like good news.
function Oldest() {
  const queries = useQueries({
    queries: SERVICES.map((service) => ({
      queryKey: ['oldest-work', service],
      queryFn: async ({ signal }: { signal: AbortSignal }): Promise<readonly Aged[]> => {
        const { items, databaseTime } = await statusOf(service).listOldestWork({}, { signal });
        const now = databaseTime ? toMs(databaseTime) : 0;
        return items.map((work) => ({
          service,
          work,
          ageSeconds: work.createTime ? Math.max(0, (now - toMs(work.createTime)) / 1_000) : 0,
        }));
      },
      refetchInterval: REFRESH_MS,
    })),
  });
  const rows = queries.flatMap(({ data }) => data ?? []).toSorted((a, b) => b.ageSeconds - a.ageSeconds);
  const isPending = queries.some((query) => query.isPending);
  return (
    <Box component="section" aria-label="Oldest work">
      <Title order={2} size="h4" mb="xs">
        Oldest work
      </Title>
      {queries.map((query, index) => (
        <Silent key={SERVICES[index]} service={SERVICES[index] ?? 'run'} query={query} />
      ))}
      {isPending && <LoadingRows rows={2} />}
      {!isPending && rows.length === 0 && queries.every(({ isError }) => !isError) && (
        <AllWell>All work is done.</AllWell>
      )}
      {rows.length > 0 && (
        <WorkTable label="Oldest work of each kind" columns={['What', 'Age', 'Tenant', 'Id']}>
          {rows.map(({ service, work, ageSeconds }) => (
            <Table.Tr key={`${service} ${work.kind}`}>
              <Table.Td>
                {toWords(nameOf(WorkKind, work.kind))} <Service name={service} />
              </Table.Td>
              <Table.Td>
                <Group gap="xs" wrap="nowrap">
                  <span className="numbers">{formatMs(ageSeconds * 1_000)}</span>
                  {isOverdue({ service, work, ageSeconds }) && <StateBadge label="Overdue" color="red" />}
                </Group>
              </Table.Td>
              <Table.Td>{work.tenantId}</Table.Td>
              <Table.Td>
                <WorkId tenantId={work.tenantId} id={work.id} page={linkToWork(service, work.kind, work.id)} />
              </Table.Td>
            </Table.Tr>
          ))}
        </WorkTable>
      )}
    </Box>
  );
}

const Parked = () => (
  <Box component="section" aria-label="Waits for a person">
    <Title order={2} size="h4" mb="xs">
      Waits for a person
    </Title>
    <Stack gap="sm">
      {SERVICES.map((service) => (
        <ParkedIn key={service} service={service} />
      ))}
    </Stack>
  </Box>
);

function ParkedIn({ service }: { readonly service: ServiceName }) {
  const query = useInfiniteQuery({
    queryKey: ['parked-work', service],
    queryFn: ({ signal, pageParam: pageToken }) =>
      statusOf(service).listParkedWork({ pageSize: PAGE_SIZE, pageToken }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
    refetchInterval: REFRESH_MS,
  });
  const rows = query.data?.pages.flatMap((page) => page.items) ?? [];
  if (query.isPending) return <LoadingRows rows={1} />;
  if (query.isError) return <Silent service={service} query={query} />;
  if (rows.length === 0) {
    return (
      <AllWell>
        Nothing <Service name={service} />
      </AllWell>
    );
  }
  return (
    <div>
      <WorkTable label={`Parked in ${service}`} columns={['What', 'Why', 'Since', 'Tenant', 'Id']}>
        {rows.map((work) => (
          <ParkedRow key={`${work.tenantId} ${work.id} ${work.targetId}`} service={service} work={work} />
        ))}
      </WorkTable>
      <MorePages query={query} shown={rows.length} />
    </div>
  );
}

const ParkedRow = ({ service, work }: { readonly service: ServiceName; readonly work: ParkedWork }) => (
  <Table.Tr>
    <Table.Td>
      {toWords(nameOf(ParkedWorkKind, work.kind))} <Service name={service} />
    </Table.Td>
    <Table.Td>
      <Text size="sm" className="mono wrap-anywhere">
        {work.reason || work.state}
      </Text>
      {work.attemptCount > 0 && (
        <Text size="xs" c="dimmed">
          after {plural(work.attemptCount, 'attempt')}
        </Text>
      )}
    </Table.Td>
    <Table.Td>
      <RelativeTime time={work.parkTime} />
    </Table.Td>
    <Table.Td>{work.tenantId || '–'}</Table.Td>
    <Table.Td>
      <WorkId tenantId={work.tenantId} id={work.id} page={linkToParked(service, work.kind, work.id)} />
    </Table.Td>
  </Table.Tr>
);

const Service = ({ name }: { readonly name: ServiceName }) => (
  <Text span size="xs" c="dimmed">
    in {name}
  </Text>
);

const AllWell = ({ children }: { readonly children: ReactNode }) => (
  <Group gap="xs" py={4}>
    <IconCircleCheck size={18} color="var(--mantine-color-green-7)" aria-hidden />
    <Text size="sm">{children}</Text>
  </Group>
);

interface WorkTableProps {
  readonly label: string;
  readonly columns: readonly string[];
  readonly children: ReactNode;
}

const WorkTable = ({ label, columns, children }: WorkTableProps) => (
  <Table.ScrollContainer minWidth={680} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
    <Table aria-label={label}>
      <Table.Thead>
        <Table.Tr>
          {columns.map((column) => (
            <Table.Th key={column} scope="col">
              {column}
            </Table.Th>
          ))}
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>{children}</Table.Tbody>
    </Table>
  </Table.ScrollContainer>
);

interface WorkIdProps {
  readonly tenantId: string;
  readonly id: string;
  readonly page: WorkPage;
}

/** An id, as a link for those who may see the page: what belongs to a tenant is shown to that tenant alone. */
function WorkId({ tenantId, id, page }: WorkIdProps) {
  const { tenant } = useSession();
  if (tenantId !== tenant && page.to !== '/retention') return <IdText id={id} />;
  return (
    <TextLink {...page} className="mono wrap-anywhere">
      {id}
    </TextLink>
  );
}

interface SilentProps {
  readonly service: ServiceName;
  readonly query: { readonly isError: boolean; readonly error: unknown; refetch(): unknown };
}

/** Says that a service did not answer; nothing where it did. */
const Silent = ({ service, query: { isError, error, refetch } }: SilentProps) =>
  isError && <ErrorAlert title={`Not known of ${service}`} error={error} onRetry={refetch} />;
