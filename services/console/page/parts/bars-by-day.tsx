import { Box, Group, Paper, SegmentedControl, Skeleton, Table, Text, VisuallyHidden } from '@mantine/core';
import { lazy, type ReactNode, Suspense, useId, useState } from 'react';
import type { BarDay, BarSeries } from './bars.ts';
import { formatCount, formatDay } from './format.ts';

interface BarsByDayProps {
  readonly title: string;
  readonly description?: ReactNode;
  readonly days: readonly BarDay[];
  readonly series: readonly BarSeries[];
  /** Shown instead of the chart where no day has a count. */
  readonly empty: ReactNode;
  readonly actions?: ReactNode;
}

// Recharts is as large as everything else together, so it is loaded with the first chart.
const BarsChart = lazy(() => import('./bars-chart.tsx'));
const CHART_HEIGHT = 240;

/** Counts by day as stacked bars, or as a table with the same numbers for those who do not see the bars. */
export function BarsByDay({ title, description, days, series, empty, actions }: BarsByDayProps) {
  const [view, setView] = useState<string>('chart');
  const titleId = useId();
  const total = (counts: BarDay['counts']) => series.reduce((sum, { key }) => sum + (counts[key] ?? 0), 0);
  const all = days.reduce((sum, { counts }) => sum + total(counts), 0);
  const sums = series.map(({ key, label }) => {
    const count = days.reduce((sum, { counts }) => sum + (counts[key] ?? 0), 0);
    return `${label} ${formatCount(count)}`;
  });
  return (
    <Paper withBorder p="md" component="section" aria-labelledby={titleId}>
      <Group justify="space-between" mb="sm" gap="xs">
        <Box>
          <Text id={titleId} fw={600}>
            {title}
          </Text>
          {description && (
            <Text size="sm" c="dimmed">
              {description}
            </Text>
          )}
        </Box>
        <Group gap="xs">
          {actions}
          <SegmentedControl
            size="xs"
            aria-label={`How to show: ${title}`}
            value={view}
            onChange={setView}
            data={[
              { value: 'chart', label: 'Chart' },
              { value: 'table', label: 'Table' },
            ]}
          />
        </Group>
      </Group>
      {all === 0 ? (
        empty
      ) : view === 'chart' ? (
        <figure style={{ margin: 0 }}>
          <VisuallyHidden component="figcaption">
            {`${title}, ${days.length} days: ${sums.join(', ')}. Choose Table for the count of each day.`}
          </VisuallyHidden>
          <Box aria-hidden h={CHART_HEIGHT}>
            <Suspense fallback={<Skeleton h={CHART_HEIGHT} />}>
              <BarsChart days={days} series={series} height={CHART_HEIGHT} />
            </Suspense>
          </Box>
          <Group gap="md" mt="xs" justify="center" aria-hidden>
            {series.map(({ key, label, color }) => (
              <Group key={key} gap={6} wrap="nowrap">
                <Box w={10} h={10} style={{ borderRadius: 2, background: color }} />
                <Text size="xs">{label}</Text>
              </Group>
            ))}
          </Group>
        </figure>
      ) : (
        <Table.ScrollContainer minWidth={320} maxHeight={320} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
          <Table stickyHeader aria-labelledby={titleId}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th scope="col">Day (UTC)</Table.Th>
                {series.map(({ key, label }) => (
                  <Table.Th key={key} scope="col" ta="right">
                    {label}
                  </Table.Th>
                ))}
                <Table.Th scope="col" ta="right">
                  All
                </Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {days.toReversed().map(({ day, counts }) => (
                <Table.Tr key={day}>
                  <Table.Th scope="row" fw={400}>
                    {formatDay(day)}
                  </Table.Th>
                  {series.map(({ key }) => (
                    <Table.Td key={key} ta="right" className="numbers">
                      {formatCount(counts[key] ?? 0)}
                    </Table.Td>
                  ))}
                  <Table.Td ta="right" className="numbers">
                    {formatCount(total(counts))}
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
    </Paper>
  );
}
