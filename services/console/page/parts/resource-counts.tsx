import { Table, Text } from '@mantine/core';
import type { ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { formatBytes, formatCount, toWords } from './format.ts';

interface ResourceCountsProps {
  /** Whose counts these are, for screen readers. */
  readonly label: string;
  readonly counts: readonly ResourceCount[];
  /** `preview`: what is there and would go. `receipt`: what went and what is left. */
  readonly kind: 'preview' | 'receipt';
}

/** Counts per type of resource, as a service told them. `≥` where a count is a lower bound. */
export function ResourceCounts({ label, counts, kind }: ResourceCountsProps) {
  const hasPassedOn = counts.some(({ passedOn }) => passedOn > 0n);
  const columns = [
    ['Found', ({ found, atLeast }: ResourceCount) => `${atLeast ? '≥ ' : ''}${formatCount(found)}`],
    ...(kind === 'receipt'
      ? ([
          ['Deleted', ({ deleted, atLeast }: ResourceCount) => `${atLeast ? '≥ ' : ''}${formatCount(deleted)}`],
        ] as const)
      : []),
    [kind === 'receipt' ? 'Left' : 'Would go', ({ left }: ResourceCount) => formatCount(left)],
    ...(hasPassedOn ? ([['Passed on', ({ passedOn }: ResourceCount) => formatCount(passedOn)]] as const) : []),
    ['Bytes', ({ bytes }: ResourceCount) => (bytes > 0n ? formatBytes(bytes) : '–')],
  ] as const;
  if (counts.length === 0) {
    return (
      <Text size="sm" c="dimmed">
        It holds nothing.
      </Text>
    );
  }
  return (
    <Table.ScrollContainer minWidth={320} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
      <Table aria-label={label} verticalSpacing={4} horizontalSpacing={8}>
        <Table.Thead>
          <Table.Tr>
            <Table.Th scope="col">What</Table.Th>
            {columns.map(([title]) => (
              <Table.Th key={title} scope="col" ta="right">
                {title}
              </Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {counts.map((count) => (
            <Table.Tr key={count.resourceType}>
              <Table.Th scope="row" fw={400}>
                {toWords(count.resourceType)}
              </Table.Th>
              {columns.map(([title, tell]) => (
                <Table.Td key={title} ta="right" className="numbers">
                  {title === 'Left' && count.left > 0n ? (
                    <Text span size="sm" fw={600} c="var(--mantine-color-error)">
                      {tell(count)}
                    </Text>
                  ) : (
                    tell(count)
                  )}
                </Table.Td>
              ))}
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}
