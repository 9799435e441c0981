import { Alert, Table, Text } from '@mantine/core';
import { IconAlertTriangle } from '@tabler/icons-react';
import type { PurgeForecast } from '#gen/lethe/retention/v1/retention_pb.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { formatCount, plural } from '../parts/format.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { subjectLabel } from './retention-words.tsx';

/** What the next purge would take if the change were saved, beside what it would take as things stand. */
export function ForecastTable({ forecasts }: { readonly forecasts: readonly PurgeForecast[] }) {
  if (forecasts.length === 0) return <EmptyNote>This change concerns no subject that is purged.</EmptyNote>;
  const uncounted = Math.max(...forecasts.map(({ uncountedTenantCount }) => uncountedTenantCount));
  return (
    <>
      <Table.ScrollContainer minWidth={440} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
        <Table aria-label="What the next purge would take">
          <Table.Thead>
            <Table.Tr>
              <Table.Th scope="col">Subject</Table.Th>
              <Table.Th scope="col" ta="right">
                Would go
              </Table.Th>
              <Table.Th scope="col" ta="right">
                As things stand
              </Table.Th>
              <Table.Th scope="col">From</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {forecasts.map((forecast) => (
              <Table.Tr key={forecast.subject}>
                <Table.Th scope="row" fw={400}>
                  {subjectLabel(forecast.subject)}
                  <Text size="xs" c="dimmed">
                    {plural(forecast.tenantCount, 'tenant')} counted
                  </Text>
                </Table.Th>
                <Table.Td ta="right" fw={600} className="numbers">
                  {formatCount(forecast.expiredCount)}
                </Table.Td>
                <Table.Td ta="right" className="numbers">
                  {formatCount(forecast.currentExpiredCount)}
                </Table.Td>
                <Table.Td>
                  {forecast.effectTime ? <RelativeTime time={forecast.effectTime} /> : 'the next purge'}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {uncounted > 0 && (
        <Alert color="orange" variant="light" icon={<IconAlertTriangle size={18} aria-hidden />} mt="sm">
          {plural(uncounted, 'tenant')} could not be counted in time, so more may go than is shown.
        </Alert>
      )}
    </>
  );
}
