import { Alert, Box, Code, DataList, Group, Paper, Select, Stack, Text, Title } from '@mantine/core';
import { IconAlertTriangle } from '@tabler/icons-react';
import { useInfiniteQuery } from '@tanstack/react-query';
import { useState } from 'react';
import {
  type BulkDeletion,
  type BulkDeletionItem,
  BulkDeletionItemState,
} from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { type BulkKind, bulkClient } from '../bulk/bulk-clients.ts';
import { BulkRow, useBulkEndings } from '../bulk/bulk-progress.tsx';
import { LeftAlone, leftAlone } from '../bulk/left-alone.tsx';
import { linkToReceipt } from '../deletions/deletion-client.ts';
import { BulkBadge, ITEM_STATES, ItemBadge, isBulkMoving, modeLabel } from '../deletions/deletion-words.tsx';
import { splitError } from '../deletions/stuck-advice.ts';
import { adviceOf } from '../parts/advice.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { formatInstant } from '../parts/format.ts';
import { IdText } from '../parts/id-text.tsx';
import { ListBody } from '../parts/list-body.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { type Column, VirtualTable } from '../parts/virtual-table.tsx';

interface BulkReceiptProps {
  readonly bulk: BulkDeletion;
  readonly kind: BulkKind;
}

const PAGE_SIZE = 200;
const REFRESH_MS = 3_000;

/** The receipt of a bulk deletion: what it was asked, how far it is, and a line per item. */
export function BulkReceipt({ bulk, kind }: BulkReceiptProps) {
  useBulkEndings(kind, [bulk]);
  return (
    <>
      <PageHeader
        title={`${modeLabel(bulk.mode)} of all matching ${kind}s`}
        back={{ to: '/deletions', label: 'Deletions' }}
        badge={<BulkBadge state={bulk.state} />}
        description={<IdText id={bulk.id} />}
      />
      <Stack>
        <Paper withBorder p="md">
          <BulkRow bulk={bulk} kind={kind} />
          {bulk.lastError && (
            <Alert color="orange" variant="light" mt="sm" icon={<IconAlertTriangle aria-hidden />}>
              {splitError(bulk.lastError).message} {adviceOf(splitError(bulk.lastError).reason)}
            </Alert>
          )}
        </Paper>
        <Paper withBorder p="md" component="section" aria-label="About">
          <DataList gap={6} labelWidth={110}>
            {[
              ['Ordered by', bulk.actor],
              ['Reason', bulk.reason],
              ['Ordered', bulk.createTime ? formatInstant(bulk.createTime) : '–'],
              ['Ended', bulk.finishTime ? formatInstant(bulk.finishTime) : 'Not yet'],
              ...(bulk.cancelledBy ? [['Aborted by', bulk.cancelledBy] as const] : []),
            ].map(([label, value]) => (
              <DataList.Item key={label}>
                <DataList.ItemLabel>{label}</DataList.ItemLabel>
                <DataList.ItemValue className="wrap-anywhere">{value}</DataList.ItemValue>
              </DataList.Item>
            ))}
            <DataList.Item>
              <DataList.ItemLabel>Filter</DataList.ItemLabel>
              <DataList.ItemValue>
                <Code className="wrap-anywhere">{JSON.stringify(bulk.filter ?? {})}</Code>
              </DataList.ItemValue>
            </DataList.Item>
          </DataList>
          {bulk.skipCounts.length > 0 && (
            <>
              <Text size="sm" fw={600} mt="sm">
                Why some were left alone
              </Text>
              <LeftAlone kind={kind} skips={bulk.skipCounts} />
            </>
          )}
        </Paper>
        <Items bulk={bulk} kind={kind} />
      </Stack>
    </>
  );
}

function Items({ bulk, kind }: BulkReceiptProps) {
  const [state, setState] = useState<string | null>(null);
  const query = useInfiniteQuery({
    queryKey: ['bulk-items', bulk.id, state, isBulkMoving(bulk)],
    queryFn: ({ signal, pageParam }) =>
      bulkClient(kind).listBulkDeletionItems(
        {
          bulkDeletionId: bulk.id,
          pageSize: PAGE_SIZE,
          pageToken: pageParam,
          state: state ? (Number(state) as BulkDeletionItemState) : BulkDeletionItemState.UNSPECIFIED,
        },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
    refetchInterval: isBulkMoving(bulk) ? REFRESH_MS : false,
  });
  const rows = query.data?.pages.flatMap((page) => page.items) ?? [];
  const columns: readonly Column<BulkDeletionItem>[] = [
    {
      key: 'target',
      title: kind === 'run' ? 'Run' : 'Job',
      cell: ({ targetId, skipReason, lastError }) => (
        <Box miw={0}>
          <Text size="sm" className="mono" truncate title={targetId}>
            {targetId}
          </Text>
          {(skipReason || lastError) && (
            <Text size="xs" c="dimmed" truncate title={lastError}>
              {splitError(lastError).message || leftAlone(kind, skipReason, 1n)}
            </Text>
          )}
        </Box>
      ),
    },
    { key: 'state', title: 'State', width: 140, cell: (item) => <ItemBadge state={item.state} /> },
    {
      key: 'receipt',
      title: 'Receipt',
      width: 90,
      cell: ({ deletionId }) =>
        deletionId ? (
          <TextLink {...linkToReceipt(deletionId, kind)} aria-label={`Receipt ${deletionId}`}>
            Receipt
          </TextLink>
        ) : (
          '–'
        ),
    },
  ];
  return (
    <section aria-label="Items">
      <Group justify="space-between" mb="xs">
        <Title order={2} size="h5">
          Items
        </Title>
        <Select
          aria-label="State of the items"
          placeholder="In any state"
          clearable
          w={180}
          value={state}
          onChange={setState}
          data={ITEM_STATES}
        />
      </Group>
      <ListBody query={query} shown={rows.length} empty={<EmptyNote>No item is in this state.</EmptyNote>}>
        <VirtualTable label="Items" rows={rows} rowKey={({ targetId }) => targetId} columns={columns} />
      </ListBody>
    </section>
  );
}
