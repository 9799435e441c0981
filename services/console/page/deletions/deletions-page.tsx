import { Box, Group, Paper, Select, Stack, Tabs, Text, Title } from '@mantine/core';
import { IconCircleCheck } from '@tabler/icons-react';
import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query';
import { type Deletion, DeletionMode, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type BulkKind, bulkClient } from '../bulk/bulk-clients.ts';
import { BulkRow, refreshOfBulks, useBulkEndings } from '../bulk/bulk-progress.tsx';
import { EmptyNote } from '../parts/empty-note.tsx';
import { constantOf, nameOf } from '../parts/enum-names.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatSpan, plural } from '../parts/format.ts';
import { ListBody } from '../parts/list-body.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { useEndings } from '../parts/use-endings.ts';
import { type Column, VirtualTable } from '../parts/virtual-table.tsx';
import { linkToDeletion } from './deletion-client.ts';
import { DeletionProgress } from './deletion-progress.tsx';
import { DeletionBadge, deletionTitle, isMoving, modeLabel, UNFINISHED } from './deletion-words.tsx';
import { Obstacles } from './obstacles.tsx';
import { RedriveButton } from './redrive-button.tsx';
import { CHANGED_BY_DELETIONS } from './use-live-deletion.ts';

/** What the address says about the list of deletions. */
export interface DeletionsSearch {
  readonly tab?: 'jobs' | 'bulk' | undefined;
  /** The name of a mode, e.g. `PURGE`. */
  readonly mode?: string | undefined;
}

const PAGE_SIZE = 100;
const MOST_UNFINISHED = 50;
const IDLE_MS = 5_000;
const MOVING_MS = 2_000;
const MODES = [DeletionMode.PURGE, DeletionMode.SOFT_DELETE, DeletionMode.UNDELETE, DeletionMode.COMPENSATION] as const;

/** The tenant's deletions: first those that have not ended, with what blocks them, then all, newest first. */
export function DeletionsPage({ search, onSearch }: PageProps<DeletionsSearch>) {
  const tab = search.tab ?? 'runs';
  return (
    <>
      <PageHeader title="Deletions" description="What was ended, by whom and why, and what is left to do." />
      <Unfinished />
      <Title order={2} size="h4" mb="xs">
        All deletions
      </Title>
      <Tabs
        value={tab}
        onChange={(value) => onSearch({ tab: value === 'jobs' || value === 'bulk' ? value : undefined })}
        keepMounted={false}
      >
        <Tabs.List mb="sm">
          <Tabs.Tab value="runs">Of runs</Tabs.Tab>
          <Tabs.Tab value="jobs">Of jobs</Tabs.Tab>
          <Tabs.Tab value="bulk">Bulk</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="runs">
          <Select
            aria-label="Mode"
            placeholder="Any mode"
            clearable
            w={{ base: '100%', xs: 180 }}
            mb="sm"
            value={search.mode ?? null}
            onChange={(mode) => onSearch({ ...search, mode: mode ?? undefined })}
            data={MODES.map((mode) => ({ value: nameOf(DeletionMode, mode), label: modeLabel(mode) }))}
          />
          <Listed kind="run" mode={constantOf(DeletionMode, search.mode) ?? DeletionMode.UNSPECIFIED} />
        </Tabs.Panel>
        <Tabs.Panel value="jobs">
          <Listed kind="job" mode={DeletionMode.UNSPECIFIED} />
        </Tabs.Panel>
        <Tabs.Panel value="bulk">
          <Bulk kind="run" />
          <Bulk kind="job" />
        </Tabs.Panel>
      </Tabs>
    </>
  );
}

// Stuck ones first: they wait for a person.
function Unfinished() {
  const queries = useQueryClient();
  const query = useQuery({
    queryKey: ['deletions', 'unfinished'],
    queryFn: async ({ signal }) => {
      const page = { pageSize: MOST_UNFINISHED };
      const answers = await Promise.all(
        UNFINISHED.flatMap((state) => [
          bulkClient('run').listDeletions({ ...page, state }, { signal }),
          bulkClient('job').listDeletions({ ...page, state }, { signal }),
        ]),
      );
      return {
        deletions: answers.flatMap(({ deletions }) => deletions),
        hasMore: answers.some(({ nextPageToken }) => nextPageToken !== ''),
      };
    },
    refetchInterval: ({ state }) => (state.data?.deletions.some(isMoving) ? MOVING_MS : IDLE_MS),
  });
  const moving = query.data?.deletions.filter(isMoving).map(({ id }) => id);
  useEndings(moving, () => {
    for (const key of CHANGED_BY_DELETIONS) void queries.invalidateQueries({ queryKey: [key] });
  });
  return (
    <Box component="section" aria-label="Unfinished" mb="xl">
      <Title order={2} size="h4" mb="xs">
        Unfinished
      </Title>
      {query.isPending && <LoadingRows rows={2} />}
      {query.isError && !query.data && <ErrorAlert error={query.error} onRetry={() => query.refetch()} />}
      {query.data?.deletions.length === 0 && (
        <Group gap="xs" py="xs">
          <IconCircleCheck size={18} color="var(--mantine-color-green-7)" aria-hidden />
          <Text size="sm">Everything that was begun has ended.</Text>
        </Group>
      )}
      <Stack gap="sm">
        {query.data?.deletions.map((deletion) => (
          <UnfinishedRow key={deletion.id} deletion={deletion} />
        ))}
      </Stack>
      {query.data?.hasMore && (
        <Text size="sm" c="dimmed" mt="xs">
          There are more; the newest {MOST_UNFINISHED} of each state are shown.
        </Text>
      )}
    </Box>
  );
}

function UnfinishedRow({ deletion }: { readonly deletion: Deletion }) {
  const isStuck = deletion.state === DeletionState.STUCK;
  return (
    <Paper withBorder p="sm">
      <Group justify="space-between" align="flex-start" gap="sm" mb="xs">
        <div>
          <Group gap="sm">
            <TextLink {...linkToDeletion(deletion)} fw={600}>
              {deletionTitle(deletion)}
            </TextLink>
            <DeletionBadge state={deletion.state} />
          </Group>
          <Text size="xs" c="dimmed" className="wrap-anywhere">
            <span className="mono">{deletion.targetId}</span> · by {deletion.actor}{' '}
            <RelativeTime time={deletion.createTime} />
            {deletion.reason && ` · ${deletion.reason}`}
          </Text>
          {isStuck && (
            <Text size="xs" c="dimmed">
              Stuck since <RelativeTime time={deletion.updateTime} />
              {deletion.attempts > 0 && `, after ${plural(deletion.attempts, 'attempt')}`}
            </Text>
          )}
        </div>
        {isStuck && <RedriveButton deletion={deletion} />}
      </Group>
      <Obstacles deletion={deletion} />
      {!isStuck && <DeletionProgress deletion={deletion} />}
    </Paper>
  );
}

const COLUMNS: readonly Column<Deletion>[] = [
  {
    key: 'what',
    title: 'Deletion',
    cell: (deletion) => (
      <Box miw={0}>
        <TextLink {...linkToDeletion(deletion)} fw={500} truncate display="block">
          {deletionTitle(deletion)}
        </TextLink>
        <Text size="xs" c="dimmed" truncate>
          <span className="mono">…{deletion.targetId.slice(-12)}</span>
          {deletion.reason && ` · ${deletion.reason}`}
        </Text>
      </Box>
    ),
  },
  { key: 'state', title: 'State', width: 140, cell: ({ state }) => <DeletionBadge state={state} /> },
  {
    key: 'who',
    title: 'By',
    width: 180,
    visibleFrom: 'sm',
    cell: ({ actor }) => (
      <Text size="sm" truncate title={actor}>
        {actor || 'Lethe'}
      </Text>
    ),
  },
  {
    key: 'when',
    title: 'Ordered',
    width: 140,
    visibleFrom: 'xs',
    cell: ({ createTime }) => <RelativeTime time={createTime} />,
  },
  {
    key: 'took',
    title: 'Took',
    width: 100,
    align: 'right',
    visibleFrom: 'md',
    cell: ({ createTime, finishTime }) => (createTime && finishTime ? formatSpan(createTime, finishTime) : '–'),
  },
];

function Listed({ kind, mode }: { readonly kind: BulkKind; readonly mode: DeletionMode }) {
  const query = useInfiniteQuery({
    queryKey: ['deletions', kind, mode],
    queryFn: ({ signal, pageParam: pageToken }) =>
      bulkClient(kind).listDeletions({ pageSize: PAGE_SIZE, pageToken, mode }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const rows = query.data?.pages.flatMap((page) => page.deletions) ?? [];
  return (
    <ListBody query={query} shown={rows.length} empty={<EmptyNote>Nothing was deleted yet.</EmptyNote>}>
      <VirtualTable label={`Deletions of ${kind}s`} rows={rows} rowKey={({ id }) => id} columns={COLUMNS} />
    </ListBody>
  );
}

function Bulk({ kind }: { readonly kind: BulkKind }) {
  const query = useInfiniteQuery({
    queryKey: ['bulk-deletions', kind, 'all'],
    queryFn: ({ signal, pageParam }) => bulkClient(kind).listBulkDeletions({ pageToken: pageParam }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
    refetchInterval: ({ state }) => refreshOfBulks(state.data?.pages.map((page) => page.bulkDeletions)),
  });
  const rows = query.data?.pages.flatMap((page) => page.bulkDeletions) ?? [];
  useBulkEndings(kind, rows);
  return (
    <ListBody
      query={query}
      shown={rows.length}
      empty={<EmptyNote>No bulk deletion of {kind}s was ordered yet.</EmptyNote>}
    >
      <Stack gap="xs">
        {rows.map((bulk) => (
          <Paper key={bulk.id} withBorder p="sm">
            <BulkRow bulk={bulk} kind={kind} />
          </Paper>
        ))}
      </Stack>
    </ListBody>
  );
}
