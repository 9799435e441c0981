import { Button, List, SegmentedControl, Stack, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { IconTrashX } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ConfirmDialog } from '../parts/confirm-dialog.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatCount, plural } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { useReasonNot } from '../session.ts';
import { type BulkFilter, orderBulk, previewBulk } from './bulk-clients.ts';
import { conditionsOf } from './filter-words.ts';
import { LeftAlone } from './left-alone.tsx';

interface BulkButtonProps {
  readonly matching: BulkFilter;
  /** What is offered first. */
  readonly firstMode: DeletionMode;
}

const REFRESH_MS = 15_000;
const SCOPES = { run: 'workflows:delete', job: 'jobs:delete' } as const;

/** "All N matching": counts on the server what the filter of a list matches, and offers to delete all of it at once. */
export function BulkButton({ matching, firstMode }: BulkButtonProps) {
  const { kind } = matching;
  const mayDelete = useReasonNot({ role: 'admin', scope: SCOPES[kind] });
  const [isAsking, setAsking] = useState(false);
  const [mode, setMode] = useState<DeletionMode>(firstMode);
  const preview = useQuery({
    queryKey: ['bulk-preview', kind, toKey(matching), mode],
    queryFn: ({ signal }) => previewBulk(matching, mode, signal),
    enabled: mayDelete === undefined,
    refetchInterval: isAsking ? false : REFRESH_MS,
  });
  const matched = preview.data?.matched;
  const label = matched === undefined ? 'All matching…' : `All ${formatCount(matched)} matching…`;
  return (
    <>
      <Gated because={mayDelete}>
        <Button
          variant="light"
          color="red"
          leftSection={<IconTrashX size={16} aria-hidden />}
          disabled={matched === 0n}
          onClick={() => setAsking(true)}
        >
          {label}
        </Button>
      </Gated>
      {isAsking && (
        <BulkDialog
          matching={matching}
          mode={mode}
          onMode={setMode}
          preview={preview}
          onClose={() => setAsking(false)}
        />
      )}
    </>
  );
}

interface BulkDialogProps {
  readonly matching: BulkFilter;
  readonly mode: DeletionMode;
  readonly onMode: (mode: DeletionMode) => void;
  readonly preview: {
    readonly data: Awaited<ReturnType<typeof previewBulk>> | undefined;
    readonly error: unknown;
    refetch(): unknown;
  };
  readonly onClose: () => void;
}

function BulkDialog({ matching, mode, onMode, preview, onClose }: BulkDialogProps) {
  const queries = useQueryClient();
  const { kind } = matching;
  const { data, error } = preview;
  // The same order again after an answer that was lost; another one after the number has changed.
  const [requestId] = useState(() => crypto.randomUUID());
  const isSoft = kind === 'run' && mode === DeletionMode.SOFT_DELETE;
  const matched = data?.matched ?? 0n;
  const skipped = data?.skipCounts.reduce((sum, { count }) => sum + count, 0n) ?? 0n;
  const taken = matched - skipped;
  const verb = isSoft ? 'Delete' : kind === 'run' ? 'Purge' : 'Delete';
  const order = async (reason: string) => {
    await orderBulk(matching, { mode, reason, expectedCount: matched, requestId });
    notifications.show({
      message: `${plural(taken, kind)} ${taken === 1n ? 'is' : 'are'} being deleted, a few at a time.`,
    });
    await Promise.all(['bulk-deletions', `${kind}s`].map((key) => queries.invalidateQueries({ queryKey: [key] })));
  };
  return (
    <ConfirmDialog
      opened
      onClose={onClose}
      title={`${verb} all matching ${kind}s?`}
      confirmLabel={`${verb} ${plural(taken, kind)}`}
      color="red"
      isFinal={!isSoft}
      reason="required"
      blockedBecause={blockerOf(data, matched, taken)}
      onConfirm={order}
    >
      {kind === 'run' && (
        <SegmentedControl
          aria-label="What happens to the runs"
          value={String(mode)}
          onChange={(value) => onMode(Number(value) as DeletionMode)}
          data={[
            { value: String(DeletionMode.SOFT_DELETE), label: 'Delete for now' },
            { value: String(DeletionMode.PURGE), label: 'Purge for good' },
          ]}
        />
      )}
      {error ? (
        <ErrorAlert error={error} onRetry={preview.refetch} />
      ) : data ? (
        <Stack gap={4}>
          <Text fw={600}>
            {plural(matched, kind)} {matched === 1n ? 'matches' : 'match'} the filter.
          </Text>
          <List size="sm" aria-label="The filter" className="wrap-anywhere">
            {conditionsOf(matching).map((condition) => (
              <List.Item key={condition}>{condition}</List.Item>
            ))}
          </List>
          <Text size="sm">{consequenceOf(kind, isSoft)}</Text>
          {skipped > 0n && (
            <>
              <Text size="sm">{plural(skipped, kind)} would be left alone:</Text>
              <LeftAlone kind={kind} skips={data.skipCounts} />
            </>
          )}
          <Text size="xs" c="dimmed">
            What is created from now on is not touched. It can be aborted at any time; what was deleted by then stays
            deleted.
          </Text>
        </Stack>
      ) : (
        <LoadingRows rows={2} />
      )}
    </ConfirmDialog>
  );
}

function consequenceOf(kind: BulkFilter['kind'], isSoft: boolean): string {
  if (kind === 'job') return 'Each job goes with its transcript: all its objects and every version of them.';
  if (isSoft) return 'Each run is hidden with its jobs, and can be undeleted until it is purged.';
  return 'Each run goes for good from every service: its steps, jobs with all objects, and incident payloads.';
}

function blockerOf(data: BulkDialogProps['preview']['data'], matched: bigint, taken: bigint): string | undefined {
  if (!data) return 'The server is counting what matches.';
  if (data.exceedsCeiling) return 'More than 100,000 match. Narrow the filter, for example by the time of creation.';
  if (matched === 0n) return 'Nothing matches the filter any more.';
  return taken === 0n ? 'None of them can be deleted now.' : undefined;
}

// A key of plain values: the filter's instants have bigints.
const toKey = ({ filter }: BulkFilter): string =>
  JSON.stringify(filter, (_key, value) => (typeof value === 'bigint' ? String(value) : value));
