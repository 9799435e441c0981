import { Alert, DataList, Group, Paper, Stack, Table, Text, Title } from '@mantine/core';
import { IconAlertTriangle, IconCircleCheck } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { type Deletion, DeletionMode, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { findReceipt, linkToReceipt } from '../deletions/deletion-client.ts';
import { DeletionProgress } from '../deletions/deletion-progress.tsx';
import { DeletionBadge, deletionTitle, isBulkMoving, isMoving } from '../deletions/deletion-words.tsx';
import { Obstacles } from '../deletions/obstacles.tsx';
import { RedriveButton } from '../deletions/redrive-button.tsx';
import { useLiveDeletion } from '../deletions/use-live-deletion.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatBytes, formatInstant, formatSpan, plural } from '../parts/format.ts';
import { IdText } from '../parts/id-text.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { ResourceCounts } from '../parts/resource-counts.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { BulkReceipt } from './bulk-receipt.tsx';

const BULK_POLL_MS = 1_000;
const BACK = { to: '/deletions', label: 'Deletions' } as const;

/** What the address says about a receipt. */
export interface ReceiptSearch {
  /** One of ReceiptOf, where the page that led here knew it. */
  readonly of?: string | undefined;
}

/** The receipt of one deletion or of a bulk deletion, found whichever service has it. */
export function ReceiptPage({ id, search }: PageProps<ReceiptSearch>) {
  const query = useQuery({
    queryKey: ['receipt', id],
    queryFn: ({ signal }) => findReceipt(id, search.of, signal),
    refetchInterval: ({ state: { data } }) =>
      data && 'bulk' in data && isBulkMoving(data.bulk) ? BULK_POLL_MS : false,
  });
  if (query.isError || !query.data) {
    return (
      <>
        <PageHeader title="Receipt" back={BACK} description={<IdText id={id} />} />
        {query.isError ? <ErrorAlert error={query.error} onRetry={() => query.refetch()} /> : <LoadingRows rows={8} />}
      </>
    );
  }
  if ('bulk' in query.data) return <BulkReceipt bulk={query.data.bulk} kind={query.data.kind} />;
  return <DeletionReceipt deletion={query.data.deletion} />;
}

function DeletionReceipt({ deletion: given }: { readonly deletion: Deletion }) {
  const deletion = useLiveDeletion(given);
  const isStuck = deletion.state === DeletionState.STUCK;
  return (
    <>
      <PageHeader
        title={deletionTitle(deletion)}
        back={BACK}
        badge={<DeletionBadge state={deletion.state} />}
        description={<IdText id={deletion.id} />}
        actions={isStuck && <RedriveButton deletion={deletion} />}
      />
      <Outcome deletion={deletion} />
      <Stack>
        <Paper withBorder p="md" component="section" aria-label="About">
          <Facts deletion={deletion} />
        </Paper>
        {isMoving(deletion) && (
          <Paper withBorder p="md" component="section" aria-label="Progress">
            <Title order={2} size="h5" mb="sm">
              Progress
            </Title>
            <DeletionProgress deletion={deletion} />
          </Paper>
        )}
        {deletion.participants.map((participant) => (
          <Paper
            key={participant.participant}
            withBorder
            p="md"
            component="section"
            aria-label={participant.participant}
          >
            <Group justify="space-between" mb="xs" gap="xs">
              <Group gap="sm">
                <Title order={2} size="h5">
                  {participant.participant}
                </Title>
                <DeletionBadge state={participant.state} />
              </Group>
              <Text size="xs" c="dimmed">
                {participant.verifyTime ? (
                  <>
                    Read back as gone <RelativeTime time={participant.verifyTime} />
                  </>
                ) : deletion.mode === DeletionMode.PURGE ? (
                  'Not read back yet'
                ) : null}
              </Text>
            </Group>
            <ResourceCounts
              label={`Counts of ${participant.participant}`}
              counts={participant.resourceCounts}
              kind="receipt"
            />
            {participant.failedItems.length > 0 && (
              <Table aria-label={`What ${participant.participant} could not remove`} mt="xs" verticalSpacing={4}>
                <Table.Thead>
                  <Table.Tr>
                    <Table.Th scope="col">Could not be removed</Table.Th>
                    <Table.Th scope="col">Why</Table.Th>
                  </Table.Tr>
                </Table.Thead>
                <Table.Tbody>
                  {participant.failedItems.map(({ key, code, message }) => (
                    <Table.Tr key={key}>
                      <Table.Td className="mono wrap-anywhere">{key}</Table.Td>
                      <Table.Td>
                        {message} <span className="mono">{code}</span>
                      </Table.Td>
                    </Table.Tr>
                  ))}
                </Table.Tbody>
              </Table>
            )}
          </Paper>
        ))}
      </Stack>
    </>
  );
}

// The receipt in one sentence.
function Outcome({ deletion }: { readonly deletion: Deletion }) {
  const counts = deletion.participants.flatMap(({ resourceCounts }) => resourceCounts);
  const sum = (key: 'deleted' | 'left' | 'passedOn' | 'bytes') => counts.reduce((all, count) => all + count[key], 0n);
  if (deletion.state === DeletionState.STUCK) {
    return (
      <Alert color="red" variant="light" mb="md" icon={<IconAlertTriangle aria-hidden />} title="Something may be left">
        <Obstacles deletion={deletion} />
      </Alert>
    );
  }
  if (deletion.state !== DeletionState.COMPLETE) return null;
  const verb =
    deletion.mode === DeletionMode.SOFT_DELETE
      ? 'hidden'
      : deletion.mode === DeletionMode.UNDELETE
        ? 'brought back'
        : 'removed';
  const isPurge = deletion.mode === DeletionMode.PURGE;
  return (
    <Alert
      color="green"
      variant="light"
      mb="md"
      icon={<IconCircleCheck aria-hidden />}
      title={isPurge ? 'Gone from every store, and read back as gone' : 'Complete'}
    >
      {plural(sum('deleted'), 'thing')} {sum('deleted') === 1n ? 'was' : 'were'} {verb}
      {isPurge && sum('bytes') > 0n && ` (${formatBytes(sum('bytes'))})`},{' '}
      {sum('left') === 0n ? 'nothing' : plural(sum('left'), 'thing')} {sum('left') > 1n ? 'are' : 'is'} left
      {sum('passedOn') > 0n && `, ${plural(sum('passedOn'), 'thing')} that others share stayed with them`}.
    </Alert>
  );
}

function Facts({ deletion }: { readonly deletion: Deletion }) {
  const { createTime, finishTime, targetType, targetId } = deletion;
  const rows: readonly (readonly [string, ReactNode])[] = [
    [
      targetType === 'job' ? 'Job' : 'Run',
      targetType === 'run' ? (
        <TextLink key="t" to="/runs/$id" params={{ id: targetId }} className="mono wrap-anywhere">
          {targetId}
        </TextLink>
      ) : (
        <span key="t" className="mono wrap-anywhere">
          {targetId}
        </span>
      ),
    ],
    ...(deletion.runId
      ? ([
          [
            'Of the run',
            <TextLink key="r" to="/runs/$id" params={{ id: deletion.runId }} className="mono wrap-anywhere">
              {deletion.runId}
            </TextLink>,
          ],
        ] as const)
      : []),
    ['Ordered by', deletion.actor || 'Lethe'],
    ['Reason', deletion.reason || 'None was given'],
    ['Ordered', createTime ? formatInstant(createTime) : '–'],
    ['Ended', finishTime ? formatInstant(finishTime) : 'Not yet'],
    ...(createTime && finishTime ? ([['Took', formatSpan(createTime, finishTime)]] as const) : []),
    ...(deletion.force ? ([['Age guard', 'Overridden']] as const) : []),
    ...(deletion.bulkDeletionId
      ? ([
          [
            'Part of',
            <TextLink key="b" {...linkToReceipt(deletion.bulkDeletionId, targetType === 'job' ? 'jobs' : 'runs')}>
              A bulk deletion
            </TextLink>,
          ],
        ] as const)
      : []),
  ];
  return (
    <DataList gap={6} labelWidth={110}>
      {rows.map(([label, value]) => (
        <DataList.Item key={label}>
          <DataList.ItemLabel>{label}</DataList.ItemLabel>
          <DataList.ItemValue className="wrap-anywhere">{value}</DataList.ItemValue>
        </DataList.Item>
      ))}
    </DataList>
  );
}
