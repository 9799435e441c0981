import { ConnectError } from '@connectrpc/connect';
import { Alert, Button, Group, List, Loader, Modal, Stack, Table, Text, Textarea } from '@mantine/core';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { PurgeItemState, PurgeSubjectState, type RetentionPurgeItem } from '#gen/lethe/retention/v1/retention_pb.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatCount, plural } from '../parts/format.ts';
import { retention } from '../rpc.ts';
import { usePurge } from './purge-query.ts';
import { hasEnded, subjectLabel } from './retention-words.tsx';

interface PurgeNowDialogProps {
  readonly tenantId: string;
  readonly onClose: () => void;
  readonly onStarted: (purgeId: string) => void;
}

/** Counts what a purge of the tenant would take, and asks before it is taken. */
export function PurgeNowDialog({ tenantId, onClose, onStarted }: PurgeNowDialogProps) {
  const queries = useQueryClient();
  const [reason, setReason] = useState('');
  const [requestId] = useState(() => crypto.randomUUID());
  const count = useMutation({
    mutationFn: async () =>
      (await retention.purgeNow({ tenantId, validateOnly: true, reason: 'count before a purge' })).purge?.id,
  });
  const counted = usePurge(count.data);
  const { mutate: startCounting } = count;
  useEffect(() => startCounting(), [startCounting]);
  const start = useMutation({
    mutationFn: async () => (await retention.purgeNow({ tenantId, requestId, reason })).purge?.id ?? '',
    onSuccess: async (purgeId) => {
      await queries.invalidateQueries({ queryKey: ['purges'] });
      onStarted(purgeId);
    },
  });
  const error = start.error ?? count.error ?? counted.error;
  const running = runningPurgeOf(error);
  const isCounted = counted.data !== undefined && hasEnded(counted.data.purge);
  const subjects = counted.data?.items.flatMap((item) => item.subjects) ?? [];
  const expiring = subjects.filter(({ state }) => state !== PurgeSubjectState.KEPT);
  const uncounted = counted.data?.items.flatMap(uncountedOf) ?? [];
  const total = expiring.reduce((sum, { expiredCount }) => sum + (expiredCount ?? 0n), 0n);
  return (
    <Modal opened onClose={onClose} title={`Purge ${tenantId} now?`} size="lg">
      <Stack>
        {running ? (
          <Alert color="blue" variant="light" title="A purge of this tenant is running already">
            <Button size="xs" onClick={() => onStarted(running)}>
              Show it
            </Button>
          </Alert>
        ) : error ? (
          <ErrorAlert error={error} />
        ) : !isCounted ? (
          <Group role="status">
            <Loader size="sm" aria-hidden />
            <Text size="sm">
              {counted.data?.purge.stop?.isStopped
                ? 'Purges are stopped; counting waits until they are resumed.'
                : 'Counting what would go…'}
            </Text>
          </Group>
        ) : total === 0n && uncounted.length > 0 ? (
          <Uncounted title="What would go could not be counted" uncounted={uncounted} />
        ) : total === 0n ? (
          <Text size="sm">Nothing has expired: a purge would take nothing now.</Text>
        ) : (
          <>
            <Text size="sm">
              This permanently deletes {plural(total, 'row')} that the retention windows no longer keep, and what hangs
              on them.
            </Text>
            <Table aria-label="What would go">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th scope="col">Subject</Table.Th>
                  <Table.Th scope="col" ta="right">
                    Rows that would go
                  </Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {expiring.map(({ subject, expiredCount }) => (
                  <Table.Tr key={subject}>
                    <Table.Th scope="row" fw={400}>
                      {subjectLabel(subject)}
                    </Table.Th>
                    <Table.Td ta="right" className="numbers">
                      {expiredCount === undefined ? 'not counted' : formatCount(expiredCount)}
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
            {uncounted.length > 0 && (
              <Uncounted title="Some of it could not be counted, and is not in these numbers" uncounted={uncounted} />
            )}
            <Textarea
              label="Reason"
              description="For the receipt and the audit."
              maxLength={500}
              autosize
              value={reason}
              onChange={(event) => setReason(event.currentTarget.value)}
            />
          </>
        )}
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose} data-autofocus>
            Cancel
          </Button>
          <Button
            color="red"
            disabled={!isCounted || total === 0n || Boolean(error)}
            loading={start.isPending}
            onClick={() => start.mutate()}
          >
            {isCounted && total > 0n ? `Purge ${plural(total, 'row')}` : 'Purge'}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}

/** What of a tenant was not counted, and why. */
function uncountedOf({ state, error, subjects }: RetentionPurgeItem): readonly string[] {
  const found = subjects
    .filter(
      (subject) =>
        subject.state !== PurgeSubjectState.KEPT && (subject.error !== '' || subject.expiredCount === undefined),
    )
    .map((subject) => `${subjectLabel(subject.subject)}: ${subject.error || 'not counted'}`);
  if (found.length > 0) return found;
  if (state === PurgeItemState.SKIPPED) return ['It was left to a purge that was running already.'];
  return error === '' ? [] : [error];
}

function Uncounted({ title, uncounted }: { readonly title: string; readonly uncounted: readonly string[] }) {
  return (
    <Alert color="orange" variant="light" role="alert" title={title}>
      <List size="sm" className="wrap-anywhere">
        {uncounted.map((text) => (
          <List.Item key={text}>{text}</List.Item>
        ))}
      </List>
    </Alert>
  );
}

/** The purge that is running where the error says that one is. */
function runningPurgeOf(error: unknown): string | undefined {
  const info = error ? ConnectError.from(error).findDetails(ErrorInfoSchema)[0] : undefined;
  return info?.reason === 'OPERATION_IN_PROGRESS' ? info.metadata['operation_id'] : undefined;
}
