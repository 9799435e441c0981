import Table from 'cli-table3';
import stringWidth from 'fast-string-width';
import { wrapAnsi } from 'fast-wrap-ansi';

/** Rows below a heading, laid out when they are printed: only then is the width of the terminal known. */
export interface TextTable {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** What a command prints for people: lines, tables, or several of them below one another. */
export type Text = string | TextTable | readonly Text[];

/** Makes a table. */
export const toTable = (head: readonly string[], rows: readonly (readonly (string | number)[])[]): TextTable => ({
  head,
  rows: rows.map((row) => row.map((cell) => toLine(String(cell)))),
});

/** Makes the table of things of one kind: under each heading, what of a thing stands there. */
export const makeTable =
  <T>(columns: Readonly<Record<string, (thing: T) => string>>) =>
  (things: readonly T[]): TextTable =>
    toTable(
      Object.keys(columns),
      things.map((thing) => Object.values(columns).map((cell) => cell(thing))),
    );

/** A text on one line without control characters: what others wrote must not steer the reader's terminal. */
export const toLine = (text: string): string => text.replace(/\s+/gu, ' ').replace(/\p{Cc}/gu, '\ufffd');

/**
 * Lays a text out in `columns`, or as wide as it is without. A table that is too wide is wrapped within its cells; one
 * that cannot be, since ids are never cut, is shown with one line for each cell.
 */
export function render(text: Text, columns?: number): string {
  if (typeof text === 'string') return text;
  if (isTable(text)) return renderTable(text, columns);
  return text.map((part) => render(part, columns)).join('\n');
}

const isTable = (text: TextTable | readonly Text[]): text is TextTable => 'head' in text;

const GAP = 2;
/** The longest word that is kept whole where nothing says that it is an id. */
const MAX_WORD = 24;
const ID = /^[\w.:-]{1,63}$/;
const INSTANT = /\b(\d{4}-\d\d-\d\d)T(\d\d:)/g;
const BORDERS = [
  ...['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left', 'bottom-right'],
  ...['left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid'],
];
const WITHOUT_LINES = { ...Object.fromEntries(BORDERS.map((name) => [name, ''])), middle: ' '.repeat(GAP) };

function renderTable(table: TextTable, columns: number | undefined): string {
  const { head, rows } = table;
  const cells = [head, ...rows];
  const natural = head.map((_, at) => Math.max(...cells.map((row) => stringWidth(row[at] ?? ''))));
  if (columns === undefined || widthOf(natural) <= columns) return draw(head, rows);
  const least = head.map((_, at) => Math.max(...cells.map((row) => longestWord(row[at] ?? ''))));
  const spare = columns - widthOf(least);
  if (spare < 0) return renderRecords(table, columns);
  const widths = share(natural, least, spare);
  const fitted = (row: readonly string[]) =>
    row.map((cell, at) => wrap(cell, widths[at] ?? 0, (widths[at] ?? 0) < (natural[at] ?? 0)));
  return draw(fitted(head), rows.map(fitted));
}

const widthOf = (widths: readonly number[]): number =>
  widths.reduce((sum, width) => sum + width, 0) + GAP * (widths.length - 1);

function longestWord(cell: string): number {
  const words = breakable(cell).split(' ');
  return Math.max(...words.map((word) => Math.min(stringWidth(word), ID.test(word) ? 63 : MAX_WORD)));
}

/** An instant can be broken between its day and its time. */
const breakable = (cell: string): string => cell.replaceAll(INSTANT, '$1 $2');

/** Gives each column its least width, and what is spare to those that want more, the most modest first. */
function share(natural: readonly number[], least: readonly number[], spare: number): readonly number[] {
  const widths = [...least];
  const wanting = natural
    .map((width, at) => ({ at, wanted: width - (least[at] ?? 0) }))
    .toSorted((one, other) => one.wanted - other.wanted);
  let left = spare;
  for (const [index, { at, wanted }] of wanting.entries()) {
    const given = Math.min(wanted, Math.floor(left / (wanting.length - index)));
    widths[at] = (widths[at] ?? 0) + given;
    left -= given;
  }
  return widths;
}

const wrap = (cell: string, width: number, narrowed: boolean): string =>
  narrowed && width > 0 ? wrapAnsi(breakable(cell), width, { hard: true, trim: true }) : cell;

function draw(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const table = new Table({
    head: [...head],
    chars: WITHOUT_LINES,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  for (const row of rows) table.push([...row]);
  return table.toString().replaceAll(/ +$/gm, '');
}

/** One line for each cell that holds something, an empty line between rows. */
function renderRecords({ head, rows }: TextTable, columns: number): string {
  const label = Math.max(...head.map((cell) => stringWidth(cell))) + GAP;
  const room = Math.max(columns - label, MAX_WORD);
  const record = (row: readonly string[]): string =>
    row
      .flatMap((cell, at) => {
        if (cell === '') return [];
        const isWhole = ID.test(cell);
        const [first = '', ...rest] = isWhole ? [cell] : wrapAnsi(cell, room, { hard: true, trim: true }).split('\n');
        return [`${(head[at] ?? '').padEnd(label)}${first}`, ...rest.map((line) => ' '.repeat(label) + line)];
      })
      .join('\n');
  return rows.length === 0 ? head.join(' '.repeat(GAP)) : rows.map(record).join('\n\n');
}
