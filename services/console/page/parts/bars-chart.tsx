import { Paper, Text } from '@mantine/core';
import { Bar, BarChart, CartesianGrid, ResponsiveContainer, Tooltip, XAxis, YAxis } from 'recharts';
import type { BarDay, BarSeries } from './bars.ts';
import { formatCount, formatDay, formatShortCount, formatShortDay } from './format.ts';

interface BarsChartProps {
  readonly days: readonly BarDay[];
  readonly series: readonly BarSeries[];
  readonly height: number;
}

const AXIS = { fill: 'var(--mantine-color-dimmed)', fontSize: 12 };

/** The bars of BarsByDay. A module of its own with a default export, as `lazy` wants it. */
// biome-ignore lint/style/noDefaultExport: React.lazy takes a module's default export.
export default function BarsChart({ days, series, height }: BarsChartProps) {
  const data = days.map(({ day, counts }) => ({ day, ...counts }));
  return (
    <ResponsiveContainer width="100%" height={height}>
      <BarChart data={data} margin={{ top: 4, right: 4, bottom: 0, left: 0 }} accessibilityLayer={false}>
        <CartesianGrid vertical={false} stroke="var(--mantine-color-default-border)" />
        <XAxis
          dataKey="day"
          tickFormatter={formatShortDay}
          tick={AXIS}
          tickLine={false}
          axisLine={false}
          minTickGap={24}
        />
        <YAxis
          tickFormatter={formatShortCount}
          tick={AXIS}
          tickLine={false}
          axisLine={false}
          width={44}
          allowDecimals={false}
        />
        <Tooltip
          cursor={{ fill: 'var(--mantine-color-default-hover)' }}
          isAnimationActive={false}
          content={({ active, label, payload }) =>
            active && payload.length > 0 ? (
              <Paper withBorder shadow="sm" p="xs">
                <Text size="xs" fw={600}>
                  {formatDay(String(label))}
                </Text>
                {payload.map((entry) => (
                  <Text key={String(entry.dataKey)} size="xs">
                    {String(entry.name)}: {formatCount(Number(entry.value ?? 0))}
                  </Text>
                ))}
              </Paper>
            ) : null
          }
        />
        {series.map(({ key, label, color }) => (
          <Bar
            key={key}
            dataKey={key}
            name={label}
            stackId="all"
            fill={color}
            isAnimationActive={false}
            maxBarSize={36}
          />
        ))}
      </BarChart>
    </ResponsiveContainer>
  );
}
