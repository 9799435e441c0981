import { Alert, Anchor, Button, Group, Stack, Table, Text } from '@mantine/core';
import { IconHourglass } from '@tabler/icons-react';
import type { RetentionPurge } from '#gen/lethe/retention/v1/retention_pb.ts';
import { PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { BarDay } from '../parts/bars.ts';
import { BarsByDay } from '../parts/bars-by-day.tsx';
import { dayOf, daysUpTo, today } from '../parts/days.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatCount, plural } from '../parts/format.ts';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { MorePages } from '../parts/more-pages.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { usePurges } from './purge-query.ts';
import { PurgeBadge, subjectLabel, triggerLabel } from './retention-words.tsx';

interface PurgesTabProps {
  /** Empty: all that the caller may see. */
  readonly tenantId: string;
  readonly onPurge: (purgeId: string) => void;
}

const NIGHTS = 30;
const COLORS = ['blue', 'teal', 'orange', 'grape', 'cyan', 'pink', 'lime'].map(
  (color) => `var(--mantine-color-${color}-6)`,
);

const isHeld = ({ state, heldTenantCount }: RetentionPurge): boolean =>
  state === PurgeState.HELD || heldTenantCount > 0;

const removedBy = ({ resourceCounts }: RetentionPurge): bigint =>
  resourceCounts.reduce((sum, { deleted }) => sum + deleted, 0n);

/** Purges, newest first: what waits for a decision, what went by night, and each of them. */
export function PurgesTab({ tenantId, onPurge }: PurgesTabProps) {
  const query = usePurges(tenantId);
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  if (query.isPending) return <LoadingRows />;
  const purges = query.data.pages.flatMap((page) => page.purges);
  if (purges.length === 0) return <EmptyNote>No purge has been run yet.</EmptyNote>;
  return (
    <Stack>
      {purges.filter(isHeld).map((purge) => (
        <HeldPurge key={purge.id} purge={purge} onPurge={onPurge} />
      ))}
      <RowsByNight purges={purges} />
      <Table.ScrollContainer minWidth={680} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
        <Table highlightOnHover aria-label="Purges">
          <Table.Thead>
            <Table.Tr>
              <Table.Th scope="col">Begun</Table.Th>
              <Table.Th scope="col">State</Table.Th>
              <Table.Th scope="col">Set going by</Table.Th>
              <Table.Th scope="col" ta="right">
                Tenants
              </Table.Th>
              <Table.Th scope="col" ta="right">
                Rows removed
              </Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {purges.map((purge) => (
              <Table.Tr key={purge.id}>
                <Table.Td>
                  <Anchor component="button" type="button" size="sm" fw={500} onClick={() => onPurge(purge.id)}>
                    <RelativeTime time={purge.createTime} />
                  </Anchor>
                </Table.Td>
                <Table.Td>
                  <PurgeBadge purge={purge} />
                </Table.Td>
                <Table.Td>
                  {triggerLabel(purge.trigger)} by {purge.actor}
                  {purge.reason && (
                    <Text size="xs" c="dimmed" truncate maw={260}>
                      {purge.reason}
                    </Text>
                  )}
                </Table.Td>
                <Table.Td ta="right" className="numbers">
                  {formatCount(purge.tenantCount)}
                </Table.Td>
                <Table.Td ta="right" className="numbers">
                  {purge.validateOnly ? <Text c="dimmed">counted only</Text> : formatCount(removedBy(purge))}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      <MorePages query={query} shown={purges.length} />
    </Stack>
  );
}

function HeldPurge({ purge, onPurge }: { readonly purge: RetentionPurge; readonly onPurge: (id: string) => void }) {
  return (
    <Alert
      color="violet"
      variant="light"
      icon={<IconHourglass size={18} aria-hidden />}
      title="Held until somebody approves it"
    >
      <Group justify="space-between">
        <Text size="sm">
          {purge.state === PurgeState.HELD
            ? `The purge of ${plural(purge.tenantCount, 'tenant')} was not begun`
            : `${plural(purge.heldTenantCount, 'tenant')} would lose more than the ceiling lets`}
          , <RelativeTime time={purge.createTime} />.
        </Text>
        <Button size="xs" variant="white" onClick={() => onPurge(purge.id)}>
          Look at it
        </Button>
      </Group>
    </Alert>
  );
}

/** Rows that purges removed in the last 30 nights, by what they were. */
function RowsByNight({ purges }: { readonly purges: readonly RetentionPurge[] }) {
  const counts = new Map<string, Record<string, number>>(daysUpTo(today(), NIGHTS).map((day) => [day, {}]));
  const types = new Set<string>();
  for (const purge of purges) {
    const day = purge.createTime && counts.get(dayOf(purge.createTime));
    if (!day || purge.validateOnly) continue;
    for (const { resourceType, deleted } of purge.resourceCounts) {
      if (deleted === 0n) continue;
      types.add(resourceType);
      day[resourceType] = (day[resourceType] ?? 0) + Number(deleted);
    }
  }
  const days: BarDay[] = [...counts].map(([day, of]) => ({ day, counts: of }));
  const series = [...types].toSorted().map((type, index) => ({
    key: type,
    label: subjectLabel(type),
    color: COLORS[index % COLORS.length] ?? '',
  }));
  return (
    <BarsByDay
      title="Rows removed by night"
      description={`The last ${NIGHTS} days, by the purges below.`}
      days={days}
      series={series}
      empty={<EmptyNote>Nothing was removed in the last {NIGHTS} days.</EmptyNote>}
    />
  );
}
