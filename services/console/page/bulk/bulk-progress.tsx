import { Button, Group, Paper, Progress, Stack, Text } from '@mantine/core';
import { IconPlayerStop } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { type BulkDeletion, BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { linkToReceipt } from '../deletions/deletion-client.ts';
import { BulkBadge, isBulkMoving } from '../deletions/deletion-words.tsx';
import { ConfirmDialog } from '../parts/confirm-dialog.tsx';
import { formatCount, plural } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { useEndings } from '../parts/use-endings.ts';
import { useReasonNot } from '../session.ts';
import { type BulkKind, bulkClient } from './bulk-clients.ts';

const IDLE_MS = 5_000;
const MOVING_MS = 1_000;
const MOVING = [BulkDeletionState.RUNNING, BulkDeletionState.SELECTING, BulkDeletionState.CANCELLING] as const;

/** The bulk deletions of a kind that are under way, each with its progress and a way to abort it. */
export function BulkProgress({ kind }: { readonly kind: BulkKind }) {
  const query = useQuery({
    queryKey: ['bulk-deletions', kind, 'moving'],
    queryFn: async ({ signal }) => {
      const answers = await Promise.all(
        MOVING.map((state) => bulkClient(kind).listBulkDeletions({ state, pageSize: 20 }, { signal })),
      );
      return answers.flatMap(({ bulkDeletions }) => bulkDeletions);
    },
    refetchInterval: ({ state }) => (state.data?.length ? MOVING_MS : IDLE_MS),
  });
  useBulkEndings(kind, query.data);
  if (!query.data?.length) return null;
  return (
    <Stack gap="xs" mb="md" role="region" aria-label="Bulk deletions under way">
      {query.data.map((bulk) => (
        <Paper key={bulk.id} withBorder p="sm">
          <BulkRow bulk={bulk} kind={kind} />
        </Paper>
      ))}
    </Stack>
  );
}

/**
 * How often a list of bulk deletions is asked for again: while one of them moves, and else not by itself. All pages that
 * are shown are asked for each time, so the more there are, the rarer.
 */
export const refreshOfBulks = (pages: readonly (readonly BulkDeletion[])[] = []): number | false =>
  pages.some((bulks) => bulks.some(isBulkMoving)) ? MOVING_MS * pages.length : false;

/** Has everything that bulk deletions change asked for again when one of those that are shown has ended. */
export function useBulkEndings(kind: BulkKind, bulks: readonly BulkDeletion[] | undefined): void {
  const queries = useQueryClient();
  const moving = bulks?.filter(isBulkMoving).map(({ id }) => id);
  useEndings(moving, () => {
    for (const key of ['bulk-deletions', 'bulk-items', `${kind}s`, 'deletions', 'receipt']) {
      void queries.invalidateQueries({ queryKey: [key] });
    }
  });
}

/** One bulk deletion with its progress. */
export function BulkRow({ bulk, kind }: { readonly bulk: BulkDeletion; readonly kind: BulkKind }) {
  const queries = useQueryClient();
  const mayAbort = useReasonNot({ role: 'admin', scope: kind === 'run' ? 'workflows:delete' : 'jobs:delete' });
  const [isAsking, setAsking] = useState(false);
  const verb = bulk.mode === DeletionMode.SOFT_DELETE || kind === 'job' ? 'Deletion' : 'Purge';
  return (
    <Stack gap={6}>
      <Group justify="space-between" gap="xs">
        <Group gap="sm">
          <TextLink {...linkToReceipt(bulk.id, `${kind}s`)} fw={500}>
            {verb} of {plural(bulk.counts?.matched ?? 0n, kind)}
          </TextLink>
          <BulkBadge state={bulk.state} />
          <Text size="xs" c="dimmed">
            by {bulk.actor} <RelativeTime time={bulk.createTime} />: {bulk.reason}
          </Text>
        </Group>
        {isBulkMoving(bulk) && bulk.state !== BulkDeletionState.CANCELLING && (
          <Gated because={mayAbort}>
            <Button
              size="xs"
              variant="default"
              leftSection={<IconPlayerStop size={14} aria-hidden />}
              onClick={() => setAsking(true)}
            >
              Abort
            </Button>
          </Gated>
        )}
      </Group>
      <BulkBar bulk={bulk} />
      <ConfirmDialog
        opened={isAsking}
        onClose={() => setAsking(false)}
        title="Abort the bulk deletion?"
        confirmLabel="Abort it"
        color="red"
        reason="optional"
        onConfirm={async (reason) => {
          await bulkClient(kind).cancelBulkDeletion({ bulkDeletionId: bulk.id, reason });
          await queries.invalidateQueries({ queryKey: ['bulk-deletions'] });
        }}
      >
        <Text size="sm">
          No further {kind} is begun. Those under way are finished, and what was deleted stays deleted.
        </Text>
      </ConfirmDialog>
    </Stack>
  );
}

/** How many items stand where, as a bar and in words. */
export function BulkBar({ bulk }: { readonly bulk: BulkDeletion }) {
  const { counts } = bulk;
  if (!counts) return null;
  const parts = [
    [counts.completed, 'complete', 'green'],
    [counts.skipped, 'skipped', 'yellow'],
    [counts.stuck, 'stuck', 'red'],
    [counts.cancelled, 'not begun', 'gray'],
    [counts.underWay, 'under way', 'blue'],
  ] as const;
  const share = (count: bigint) => (counts.matched > 0n ? (Number(count) / Number(counts.matched)) * 100 : 0);
  const waiting = counts.pending - counts.underWay;
  const words = [...parts, [waiting, 'waiting', 'gray'] as const]
    .filter(([count]) => count > 0n)
    .map(([count, what]) => `${formatCount(count)} ${what}`)
    .join(', ');
  return (
    <>
      <Progress.Root size="md" aria-hidden>
        {parts.map(([count, what, color]) => (
          <Progress.Section key={what} value={share(count)} color={color} withAria={false} />
        ))}
      </Progress.Root>
      <Text size="xs" c="dimmed" className="numbers">
        {words || 'Selecting what matches'}
      </Text>
    </>
  );
}
