import { ActionIcon, Group, Select, Stack, Table, Text, TextInput, Title } from '@mantine/core';
import { useDebouncedCallback } from '@mantine/hooks';
import { IconChevronLeft, IconChevronRight } from '@tabler/icons-react';
import { keepPreviousData, useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { type Execution, ExecutionState } from '#gen/lethe/run/v1/run_pb.ts';
import type { BarDay } from '../parts/bars.ts';
import { BarsByDay } from '../parts/bars-by-day.tsx';
import { dayAfter, daysUpTo, startOfDay, today } from '../parts/days.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatDay, formatSpan, toTimestamp } from '../parts/format.ts';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { NeedsTenant } from '../parts/needs-tenant.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { StateBadge } from '../parts/state-badge.tsx';
import { runs } from '../rpc.ts';
import { PolicyCard } from './policy-card.tsx';

/** What the address says about this page. */
export interface ExecutionsSearch {
  readonly workflow?: string | undefined;
  readonly status?: string | undefined;
  readonly state?: ExecutionState | undefined;
  /** The last of the days that are counted, YYYY-MM-DD in UTC. Undefined: today. */
  readonly last?: string | undefined;
}

type SearchProps = Pick<PageProps<ExecutionsSearch>, 'search' | 'onSearch'>;

const STATES = [
  { state: ExecutionState.ENDED, label: 'Ended', color: 'blue' },
  { state: ExecutionState.RUNNING, label: 'Running', color: 'teal' },
  { state: ExecutionState.QUEUED, label: 'Queued', color: 'gray' },
] as const;
/** The most that one call counts. */
const DAYS = 31;
const SERIES = STATES.map(({ state, label, color }) => ({
  key: String(state),
  label,
  color: `var(--mantine-color-${color}-6)`,
}));

/** The tenant's execution history: its policy, how many there were by day, and each of them. */
export function ExecutionsPage({ search, onSearch }: PageProps<ExecutionsSearch>) {
  return (
    <>
      <PageHeader title="Executions" description="The history of what was executed, and how long it is kept." />
      <NeedsTenant>
        <Stack>
          <PolicyCard />
          <ExecutionsByDay search={search} onSearch={onSearch} />
          <ExecutionList search={search} onSearch={onSearch} />
        </Stack>
      </NeedsTenant>
    </>
  );
}

function ExecutionsByDay({ search, onSearch }: SearchProps) {
  const { last, workflow = '' } = search;
  const days = daysUpTo(last ?? today(), DAYS);
  const [first = '', lastDay = ''] = [days[0], days.at(-1)];
  const query = useQuery({
    queryKey: ['executions-by-day', first, lastDay, workflow],
    queryFn: async ({ signal }) =>
      (await runs.countExecutions({ firstDay: first, lastDay, workflow }, { signal })).counts,
    placeholderData: keepPreviousData,
  });
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  const counts = new Map<string, Record<string, number>>(days.map((day) => [day, {}]));
  for (const { day, state, count } of query.data ?? []) {
    const of = counts.get(day);
    if (of) of[String(state)] = Number(count);
  }
  const byDay: BarDay[] = [...counts].map(([day, of]) => ({ day, counts: of }));
  const goTo = (day: string) => onSearch({ ...search, last: day >= today() ? undefined : day });
  return (
    <BarsByDay
      title="Executions by day"
      description={`${formatDay(first)} to ${formatDay(lastDay)}, in UTC${workflow && `, of ${workflow}`}`}
      days={byDay}
      series={SERIES}
      empty={query.isPending ? <LoadingRows /> : <EmptyNote>There was none in these {DAYS} days.</EmptyNote>}
      actions={
        <Group gap={4}>
          <ActionIcon
            variant="default"
            aria-label={`The ${DAYS} days before`}
            onClick={() => goTo(dayAfter(first, -1))}
          >
            <IconChevronLeft size={16} aria-hidden />
          </ActionIcon>
          <ActionIcon
            variant="default"
            aria-label={`The ${DAYS} days after`}
            disabled={last === undefined}
            onClick={() => goTo(dayAfter(lastDay, DAYS))}
          >
            <IconChevronRight size={16} aria-hidden />
          </ActionIcon>
        </Group>
      }
    />
  );
}

function ExecutionList({ search, onSearch }: SearchProps) {
  const { workflow = '', status = '', state } = search;
  const query = useInfiniteQuery({
    queryKey: ['executions', workflow, status, state, search.last],
    queryFn: ({ signal, pageParam }) =>
      runs.listExecutions(
        {
          pageSize: 50,
          pageToken: pageParam,
          workflow,
          status,
          state: state ?? ExecutionState.UNSPECIFIED,
          // The list goes on from the days that the chart shows.
          ...(search.last ? { beforeTime: toTimestamp(startOfDay(dayAfter(search.last, 1))) } : {}),
        },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const rows = query.data?.pages.flatMap((page) => page.executions) ?? [];
  return (
    <section aria-labelledby="executions">
      <Title order={2} size="h4" id="executions" mb="sm">
        {search.last ? `Executions up to ${formatDay(search.last)}` : 'Latest executions'}
      </Title>
      <Group mb="sm">
        <Filter
          label="Workflow"
          value={workflow}
          onChange={(value) => onSearch({ ...search, workflow: value || undefined })}
        />
        <Filter
          label="Status"
          value={status}
          onChange={(value) => onSearch({ ...search, status: value || undefined })}
        />
        <Select
          aria-label="State"
          placeholder="Any state"
          clearable
          w={140}
          value={state === undefined ? null : String(state)}
          onChange={(value) => onSearch({ ...search, state: value ? (Number(value) as ExecutionState) : undefined })}
          data={STATES.map((one) => ({ value: String(one.state), label: one.label }))}
        />
      </Group>
      {query.isError ? (
        <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
      ) : query.isPending ? (
        <LoadingRows />
      ) : rows.length === 0 && !query.hasNextPage ? (
        <EmptyNote>
          {workflow || status || state !== undefined
            ? 'No execution matches the filters.'
            : 'No execution has been recorded.'}
        </EmptyNote>
      ) : (
        <>
          <Table.ScrollContainer minWidth={620} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
            <Table highlightOnHover aria-labelledby="executions">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th scope="col">Workflow</Table.Th>
                  <Table.Th scope="col">State</Table.Th>
                  <Table.Th scope="col">Status</Table.Th>
                  <Table.Th scope="col">Began</Table.Th>
                  <Table.Th scope="col" ta="right">
                    Took
                  </Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {rows.map((execution) => (
                  <ExecutionRow key={`${execution.id} ${execution.createTime?.seconds}`} execution={execution} />
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
          <MorePages query={query} shown={rows.length} />
        </>
      )}
    </section>
  );
}

function ExecutionRow({ execution }: { readonly execution: Execution }) {
  const { workflow, state, status, startTime, finishTime, createTime } = execution;
  const word = STATES.find((one) => one.state === state);
  return (
    <Table.Tr>
      <Table.Td style={{ overflowWrap: 'anywhere' }}>{workflow}</Table.Td>
      <Table.Td>
        <StateBadge label={word?.label ?? 'Unknown'} color={word?.color ?? 'gray.6'} />
      </Table.Td>
      <Table.Td>{status || <Text c="dimmed">–</Text>}</Table.Td>
      <Table.Td>
        {startTime ? (
          <RelativeTime time={startTime} />
        ) : (
          <Text span size="sm" c="dimmed">
            never, created <RelativeTime time={createTime} />
          </Text>
        )}
      </Table.Td>
      <Table.Td ta="right" className="numbers">
        {startTime && finishTime ? formatSpan(startTime, finishTime) : '–'}
      </Table.Td>
    </Table.Tr>
  );
}

interface FilterProps {
  readonly label: string;
  readonly value: string;
  readonly onChange: (value: string) => void;
}

/** A filter by whole words, which asks once the typing pauses. */
function Filter({ label, value, onChange }: FilterProps) {
  const [text, setText] = useState(value);
  const changeSoon = useDebouncedCallback(onChange, 300);
  return (
    <TextInput
      aria-label={label}
      placeholder={label}
      w={180}
      value={text}
      onChange={(event) => {
        setText(event.currentTarget.value);
        changeSoon(event.currentTarget.value.trim());
      }}
    />
  );
}
