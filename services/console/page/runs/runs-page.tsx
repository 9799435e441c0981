import { ActionIcon, Tabs, Tooltip } from '@mantine/core';
import { IconTrash } from '@tabler/icons-react';
import { useInfiniteQuery } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { type Run, RunState, RunView } from '#gen/lethe/run/v1/run_pb.ts';
import { BulkProgress } from '../bulk/bulk-progress.tsx';
import { MatchFilters } from '../bulk/match-filters.tsx';
import { EmptyNote } from '../parts/empty-note.tsx';
import { constantOf, nameOf } from '../parts/enum-names.ts';
import { FilterText } from '../parts/filter-fields.tsx';
import { formatSpan } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { ListBody } from '../parts/list-body.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { type Column, VirtualTable } from '../parts/virtual-table.tsx';
import { runs } from '../rpc.ts';
import { useReasonNot } from '../session.ts';
import { DeletedRuns } from './deleted-runs.tsx';
import { RunName } from './run-name.tsx';
import { isTerminal, RUN_STATES, RunBadge, runStateLabel, runTitle } from './run-words.tsx';
import { createdBetween, type RunsSearch, toRunFilter } from './runs-search.ts';
import { useRunActions } from './use-run-actions.tsx';

const PAGE_SIZE = 100;
const STATES = RUN_STATES.map((state) => ({ value: nameOf(RunState, state), label: runStateLabel(state) }));
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The tenant's runs: those there are, and those that were deleted and can come back. */
export function RunsPage({ search, onSearch }: PageProps<RunsSearch>) {
  const navigate = useNavigate();
  const mayDelete = useReasonNot({ role: 'admin', scope: 'workflows:delete' });
  const tab = search.tab === 'deleted' ? 'deleted' : 'runs';
  return (
    <>
      <PageHeader
        title="Runs"
        description="Workflow runs, newest first."
        actions={
          <FilterText
            label="Find a run by its id"
            placeholder="Run id"
            value=""
            width={320}
            onChange={(id) => {
              if (UUID.test(id)) void navigate({ to: '/runs/$id', params: { id: id.toLowerCase() } });
            }}
          />
        }
      />
      <BulkProgress kind="run" />
      <Tabs
        value={tab}
        onChange={(value) => onSearch(value === 'deleted' ? { tab: 'deleted' } : {})}
        keepMounted={false}
      >
        <Tabs.List mb="sm">
          <Tabs.Tab value="runs">Runs</Tabs.Tab>
          {mayDelete === undefined ? (
            <Tabs.Tab value="deleted">Recently deleted</Tabs.Tab>
          ) : (
            <Tooltip label={mayDelete}>
              <Tabs.Tab value="deleted" aria-disabled onClick={(event) => event.preventDefault()} c="dimmed">
                Recently deleted
              </Tabs.Tab>
            </Tooltip>
          )}
        </Tabs.List>
        <Tabs.Panel value="runs">
          <Listed search={search} onSearch={onSearch} mayDelete={mayDelete} />
        </Tabs.Panel>
        <Tabs.Panel value="deleted">{mayDelete === undefined && <DeletedRuns />}</Tabs.Panel>
      </Tabs>
    </>
  );
}

type ListedProps = Pick<PageProps<RunsSearch>, 'search' | 'onSearch'> & { readonly mayDelete: string | undefined };

function Listed({ search, onSearch, mayDelete }: ListedProps) {
  const { softDelete } = useRunActions();
  const [gone, setGone] = useState<ReadonlySet<string>>(new Set());
  const filter = toRunFilter(search);
  const state = constantOf(RunState, search.state);
  const query = useInfiniteQuery({
    queryKey: ['runs', search],
    queryFn: ({ signal, pageParam }) =>
      runs.listRuns(
        {
          pageSize: PAGE_SIZE,
          pageToken: pageParam,
          view: RunView.BASIC,
          ...createdBetween(search),
          ...(state !== undefined && { state }),
          ...(search.workflow && { workflow: search.workflow }),
        },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const rows = (query.data?.pages.flatMap((page) => page.runs) ?? []).filter(({ id }) => !gone.has(id));
  const remove = async (run: Run) => {
    setGone((before) => new Set(before).add(run.id));
    try {
      await softDelete(run);
    } finally {
      // The list is up to date by now: a run that is there again was not deleted, or came back.
      setGone((before) => new Set([...before].filter((id) => id !== run.id)));
    }
  };
  const columns: readonly Column<Run>[] = [
    { key: 'run', title: 'Run', cell: (run) => <RunName run={run} /> },
    { key: 'state', title: 'State', width: 150, cell: (run) => <RunBadge state={run.state} /> },
    {
      key: 'created',
      title: 'Created',
      width: 140,
      visibleFrom: 'xs',
      cell: ({ createTime }) => <RelativeTime time={createTime} />,
    },
    {
      key: 'took',
      title: 'Took',
      width: 110,
      align: 'right',
      visibleFrom: 'sm',
      cell: ({ createTime, finishTime }) => (createTime && finishTime ? formatSpan(createTime, finishTime) : '–'),
    },
    {
      key: 'actions',
      title: '',
      width: 52,
      align: 'right',
      cell: (run) => (
        <Gated because={mayDelete ?? (isTerminal(run) ? undefined : 'It is still going on; cancel it first.')}>
          <ActionIcon
            variant="subtle"
            color="gray"
            aria-label={`Delete ${runTitle(run)} ${run.id}`}
            title="Delete"
            onClick={() => void remove(run)}
          >
            <IconTrash size={17} aria-hidden />
          </ActionIcon>
        </Gated>
      ),
    },
  ];
  return (
    <>
      <MatchFilters search={search} onSearch={onSearch} states={STATES} matching={filter && { kind: 'run', filter }}>
        <FilterText
          label="Workflow"
          placeholder="Any workflow"
          value={search.workflow ?? ''}
          onChange={(workflow) => onSearch({ ...search, workflow: workflow || undefined })}
        />
      </MatchFilters>
      <ListBody
        query={query}
        shown={rows.length}
        empty={
          <EmptyNote>
            {filter
              ? 'No run matches the filter.'
              : 'There are no runs yet. They appear here once something starts one.'}
          </EmptyNote>
        }
      >
        <VirtualTable label="Runs" rows={rows} rowKey={({ id }) => id} columns={columns} />
      </ListBody>
    </>
  );
}
