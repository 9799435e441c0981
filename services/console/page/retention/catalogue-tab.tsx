import { Alert, Button, Group, Stack, Table, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { IconAlertTriangle } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { type CatalogueSubject, PurgeSubjectState, SubjectState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatCount, plural } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { ReasonDialog } from '../parts/reason-dialog.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { retention } from '../rpc.ts';
import { useReasonNot } from '../session.ts';
import { SubjectBadge, subjectLabel } from './retention-words.tsx';

const CAN_RETIRE: ReadonlySet<SubjectState> = new Set([SubjectState.OWNER_UNKNOWN, SubjectState.UNLISTED]);
const NIGHTS_LOOKED_AT = 20;

/** What the owners hold that ages: what is purged, what is only counted so far, and what is wrong. */
export function CatalogueTab() {
  const queries = useQueryClient();
  const [asking, setAsking] = useState<{ readonly subject: CatalogueSubject; readonly what: 'confirm' | 'retire' }>();
  const query = useQuery({
    queryKey: ['subjects'],
    queryFn: async ({ signal }) => (await retention.listSubjects({ pageSize: 200 }, { signal })).subjects,
  });
  const isObserving = query.data?.some(({ state }) => state === SubjectState.OBSERVED) ?? false;
  const observed = useQuery({
    queryKey: ['observed-counts'],
    enabled: isObserving,
    queryFn: ({ signal }) => readObserved(signal),
  });
  const mayChange = useReasonNot({ role: 'platform', scope: 'retention:write' });
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  if (query.isPending) return <LoadingRows />;
  if (query.data.length === 0) return <EmptyNote>No owner has listed a subject yet.</EmptyNote>;
  return (
    <Stack>
      <Table.ScrollContainer minWidth={900} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
        <Table aria-label="Subjects of the catalogue">
          <Table.Thead>
            <Table.Tr>
              <Table.Th scope="col">Subject</Table.Th>
              <Table.Th scope="col">State</Table.Th>
              <Table.Th scope="col">Owner</Table.Th>
              <Table.Th scope="col">Age counts from</Table.Th>
              <Table.Th scope="col">Last listed</Table.Th>
              <Table.Th scope="col">
                <Text span size="sm" fw={700}>
                  Actions
                </Text>
              </Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {query.data.map((subject) => (
              <Table.Tr key={subject.name}>
                <Table.Th scope="row" fw={500}>
                  {subjectLabel(subject.name)}
                </Table.Th>
                <Table.Td>
                  <SubjectBadge state={subject.state} />
                  <Standing subject={subject} wouldTake={observed.data?.get(subject.name)} />
                </Table.Td>
                <Table.Td>{subject.owner}</Table.Td>
                <Table.Td>{subject.ageOf}</Table.Td>
                <Table.Td>
                  <RelativeTime time={subject.listTime} />
                </Table.Td>
                <Table.Td>
                  {subject.state === SubjectState.OWNER_CHANGED && (
                    <Gated because={mayChange}>
                      <Button size="xs" variant="light" onClick={() => setAsking({ subject, what: 'confirm' })}>
                        Confirm…
                      </Button>
                    </Gated>
                  )}
                  {CAN_RETIRE.has(subject.state) && (
                    <Gated because={mayChange}>
                      <Button
                        size="xs"
                        variant="light"
                        color="red"
                        onClick={() => setAsking({ subject, what: 'retire' })}
                      >
                        Retire…
                      </Button>
                    </Gated>
                  )}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {observed.isError && <ErrorAlert error={observed.error} onRetry={() => observed.refetch()} />}
      {asking && (
        <ReasonDialog
          opened
          onClose={() => setAsking(undefined)}
          title={asking.what === 'confirm' ? `Confirm ${asking.subject.name}?` : `Retire ${asking.subject.name}?`}
          confirmLabel={asking.what === 'confirm' ? 'Confirm' : 'Retire'}
          color={asking.what === 'confirm' ? 'blue' : 'red'}
          onConfirm={async (reason) => {
            const request = { name: asking.subject.name, reason };
            await (asking.what === 'confirm' ? retention.confirmSubject(request) : retention.retireSubject(request));
            await queries.invalidateQueries({ queryKey: ['subjects'] });
            notifications.show({
              message: asking.what === 'confirm' ? 'The subject was confirmed.' : 'The subject was retired.',
            });
          }}
        >
          <Text size="sm">
            {asking.what === 'confirm'
              ? `Its owner ${asking.subject.owner} now tells of another data set. Once confirmed, the next purge takes what has expired there.`
              : 'Its rows, wherever they are, are not touched. Tenants are no longer reported as partial for it.'}
          </Text>
        </ReasonDialog>
      )}
    </Stack>
  );
}

interface StandingProps {
  readonly subject: CatalogueSubject;
  /** Undefined: not known. */
  readonly wouldTake: ObservedCount | undefined;
}

function Standing({ subject, wouldTake }: StandingProps) {
  if (subject.state === SubjectState.OBSERVED) {
    return (
      <Text size="xs" c="dimmed" mt={4}>
        {wouldTake
          ? `Would have taken ${plural(wouldTake.rows, 'row')} of ${plural(wouldTake.tenants, 'tenant')} in the last night. `
          : 'Not counted by a purge yet. '}
        Purged after{' '}
        {subject.observeNightsLeft === 1 ? 'one more night' : `${formatCount(subject.observeNightsLeft)} more nights`}.
      </Text>
    );
  }
  if (subject.state === SubjectState.RETIRED) {
    return (
      <Text size="xs" c="dimmed" mt={4}>
        By {subject.retiredBy} <RelativeTime time={subject.retireTime} />: {subject.retireReason}
      </Text>
    );
  }
  if (!subject.problem) return null;
  return (
    <Alert color="orange" variant="light" p="xs" mt={4} icon={<IconAlertTriangle size={16} aria-hidden />}>
      <Group gap={4}>
        <Text size="xs">{subject.problem}</Text>
      </Group>
    </Alert>
  );
}

interface ObservedCount {
  readonly rows: bigint;
  readonly tenants: number;
}

/** What observed subjects would have lost in the newest purge that counted them, over its first 200 tenants. */
async function readObserved(signal: AbortSignal): Promise<ReadonlyMap<string, ObservedCount>> {
  const counts = new Map<string, ObservedCount>();
  const { purges } = await retention.listPurges({ pageSize: NIGHTS_LOOKED_AT }, { signal });
  for (const { id } of purges) {
    const { items } = await retention.getPurge({ purgeId: id, pageSize: 200 }, { signal });
    const found = new Map<string, ObservedCount>();
    for (const { subject, state, expiredCount } of items.flatMap((item) => item.subjects)) {
      if (state !== PurgeSubjectState.OBSERVED) continue;
      const { rows, tenants } = found.get(subject) ?? { rows: 0n, tenants: 0 };
      found.set(subject, { rows: rows + (expiredCount ?? 0n), tenants: tenants + 1 });
    }
    for (const [subject, count] of found) if (!counts.has(subject)) counts.set(subject, count);
    if (counts.size > 0) break;
  }
  return counts;
}
