import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { REASONS, type ReasonEntry } from '#libs/client/reasons.ts';

const README = fileURLToPath(new URL('../../proto/README.md', import.meta.url));
const MARKED = /(?<=<!-- reasons -->\n).*?(?=<!-- \/reasons -->)/s;

/** The table of all reasons, in Markdown as Biome formats it. */
export function makeReasonTable(): string {
  const rows = Object.entries<ReasonEntry>(REASONS).map(([reason, { code, when, next }]) => [
    reason,
    code === 'RECEIPT' ? 'receipt' : code,
    when,
    next,
  ]);
  const cells = [['reason', 'code', 'when', 'what to do'], ...rows];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  const toLine = (row: readonly string[]) =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const [head = [], ...body] = cells;
  const rule = widths.map((width) => '-'.repeat(width));
  return ['', ...[head, rule, ...body].map(toLine), '', ''].join('\n');
}

/** The table as it stands in proto/README.md; undefined where its marks are missing. */
export const readReasonTable = async (): Promise<string | undefined> =>
  MARKED.exec(await readFile(README, 'utf8'))?.[0];

if (import.meta.main) {
  const text = await readFile(README, 'utf8');
  await writeFile(
    README,
    text.replace(MARKED, () => makeReasonTable()),
  );
}
