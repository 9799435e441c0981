import { ActionIcon, Box, Button, Group, Text } from '@mantine/core';
import { IconArrowBackUp, IconFlame } from '@tabler/icons-react';
import { useInfiniteQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { type Run, RunView } from '#gen/lethe/run/v1/run_pb.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { Gated } from '../parts/gated.tsx';
import { ListBody } from '../parts/list-body.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { type Column, VirtualTable } from '../parts/virtual-table.tsx';
import { runs } from '../rpc.ts';
import { PurgeDialog } from '../run/purge-dialog.tsx';
import { useReasonNot } from '../session.ts';
import { RunName } from './run-name.tsx';
import { runTitle } from './run-words.tsx';
import { useRunActions } from './use-run-actions.tsx';

const PAGE_SIZE = 100;

/** The runs that are hidden at the moment, the last one deleted first, with a way back and a way out. */
export function DeletedRuns() {
  const { undelete } = useRunActions();
  const mayDelete = useReasonNot({ role: 'admin', scope: 'workflows:delete' });
  const [purging, setPurging] = useState<Run>();
  const query = useInfiniteQuery({
    queryKey: ['deleted-runs'],
    queryFn: ({ signal, pageParam }) =>
      runs.listRuns({ pageSize: PAGE_SIZE, pageToken: pageParam, deletedOnly: true, view: RunView.BASIC }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const rows = query.data?.pages.flatMap((page) => page.runs) ?? [];
  const columns: readonly Column<Run>[] = [
    { key: 'run', title: 'Run', cell: (run) => <RunName run={run} /> },
    {
      key: 'deleted',
      title: 'Deleted',
      visibleFrom: 'sm',
      cell: ({ deleteTime, deletedBy, deleteReason }) => (
        <Box miw={0}>
          <Text size="sm" truncate>
            <RelativeTime time={deleteTime} /> by {deletedBy}
          </Text>
          {deleteReason && (
            <Text size="xs" c="dimmed" truncate>
              {deleteReason}
            </Text>
          )}
        </Box>
      ),
    },
    {
      key: 'actions',
      title: '',
      width: 184,
      align: 'right',
      cell: (run) => (
        <Group gap={4} justify="flex-end" wrap="nowrap">
          <Gated because={mayDelete}>
            <Button
              size="xs"
              variant="default"
              leftSection={<IconArrowBackUp size={14} aria-hidden />}
              aria-label={`Undelete ${runTitle(run)} ${run.id}`}
              onClick={() => void undelete(run)}
            >
              Undelete
            </Button>
          </Gated>
          <Gated because={mayDelete}>
            <ActionIcon
              variant="subtle"
              color="red"
              size="md"
              title="Purge for good"
              aria-label={`Purge ${runTitle(run)} ${run.id}`}
              onClick={() => setPurging(run)}
            >
              <IconFlame size={17} aria-hidden />
            </ActionIcon>
          </Gated>
        </Group>
      ),
    },
  ];
  return (
    <>
      <Text size="sm" c="dimmed" mb="sm">
        Hidden with their jobs. They stay until somebody undeletes or purges them: Lethe purges no run by itself.
      </Text>
      <ListBody query={query} shown={rows.length} empty={<EmptyNote>No run is deleted at the moment.</EmptyNote>}>
        <VirtualTable label="Recently deleted runs" rows={rows} rowKey={({ id }) => id} columns={columns} />
      </ListBody>
      {purging && <PurgeDialog run={purging} onClose={() => setPurging(undefined)} />}
    </>
  );
}
