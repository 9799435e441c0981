import { Box, type MantineBreakpoint, Table } from '@mantine/core';
import { measureElement, useWindowVirtualizer } from '@tanstack/react-virtual';
import { type ReactNode, useEffect, useRef, useState } from 'react';

/** A column of a VirtualTable. */
export interface Column<Row> {
  readonly key: string;
  /** What its head says; empty text for a column of buttons, which then needs `label`. */
  readonly title: ReactNode;
  readonly cell: (row: Row) => ReactNode;
  readonly width?: number | string;
  readonly align?: 'right';
  /** Not shown below this width of the window. */
  readonly visibleFrom?: MantineBreakpoint;
}

interface VirtualTableProps<Row> {
  readonly label: string;
  readonly rows: readonly Row[];
  readonly rowKey: (row: Row) => string;
  readonly columns: readonly Column<Row>[];
  readonly minWidth?: number;
}

const FIRST_ROW_HEIGHT = 50;
const OVERSCAN = 12;

/**
 * A table that holds only the rows near the window in the document, so that it stays quick with as many thousand rows as
 * somebody cares to load.
 */
export function VirtualTable<Row>({ label, rows, rowKey, columns, minWidth = 0 }: VirtualTableProps<Row>) {
  const body = useRef<HTMLDivElement>(null);
  const [scrollMargin, setScrollMargin] = useState(0);
  // Rows that were not seen yet are taken to be as high as the last one that was: with a fixed guess, the end of a long list
  // would move away under the pointer while it is scrolled to.
  const rowHeight = useRef(FIRST_ROW_HEIGHT);
  const rowCount = rows.length;
  // What is above the table may have grown or shrunk with what it shows.
  useEffect(() => {
    if (rowCount > 0 && body.current) setScrollMargin(body.current.getBoundingClientRect().top + window.scrollY);
  }, [rowCount]);
  const virtualizer = useWindowVirtualizer({
    count: rowCount,
    estimateSize: () => rowHeight.current,
    measureElement(element, entry, instance) {
      rowHeight.current = measureElement(element, entry, instance);
      return rowHeight.current;
    },
    overscan: OVERSCAN,
    scrollMargin,
    getItemKey: (index) => rowKey(rows[index] as Row),
  });
  const items = virtualizer.getVirtualItems();
  const before = (items[0]?.start ?? scrollMargin) - scrollMargin;
  const after = virtualizer.getTotalSize() - ((items.at(-1)?.end ?? scrollMargin) - scrollMargin);
  return (
    <Box ref={body} style={{ overflowX: minWidth > 0 ? 'auto' : undefined }} {...(minWidth > 0 && { tabIndex: 0 })}>
      <Table
        highlightOnHover
        aria-label={label}
        aria-rowcount={rowCount + 1}
        style={{ tableLayout: 'fixed' }}
        {...(minWidth > 0 && { miw: minWidth })}
      >
        <Table.Thead>
          <Table.Tr>
            {columns.map(({ key, title, width, align, visibleFrom }) => (
              <Table.Th
                key={key}
                scope="col"
                {...(width !== undefined && { w: width })}
                {...(align && { ta: align })}
                {...(visibleFrom && { visibleFrom })}
              >
                {title}
              </Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {before > 0 && <Spacer height={before} columns={columns.length} />}
          {items.map(({ index, key }) => {
            const row = rows[index] as Row;
            return (
              <Table.Tr
                key={key as string}
                data-index={index}
                ref={virtualizer.measureElement}
                aria-rowindex={index + 2}
              >
                {columns.map((column) => (
                  <Table.Td
                    key={column.key}
                    {...(column.align && { ta: column.align })}
                    {...(column.visibleFrom && { visibleFrom: column.visibleFrom })}
                  >
                    {column.cell(row)}
                  </Table.Td>
                ))}
              </Table.Tr>
            );
          })}
          {after > 0 && <Spacer height={after} columns={columns.length} />}
        </Table.Tbody>
      </Table>
    </Box>
  );
}

const Spacer = ({ height, columns }: { readonly height: number; readonly columns: number }) => (
  // biome-ignore lint/a11y/noAriaHiddenOnFocusable: nothing in this row can be focused.
  <tr aria-hidden="true">
    <td colSpan={columns} style={{ height, padding: 0, border: 0 }} />
  </tr>
);
