import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

/** A table in Markdown as Biome formats it, with an empty line before and after; the first row is its head. */
export function toMarkdownTable(rows: readonly (readonly string[])[]): string {
  const [head = [], ...body] = rows;
  const widths = head.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const toLine = (row: readonly string[]) =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const rule = widths.map((width) => '-'.repeat(width));
  return ['', ...[head, rule, ...body].map(toLine), '', ''].join('\n');
}

const pathOf = (readme: string): string => fileURLToPath(new URL(`../../${readme}`, import.meta.url));
const marked = (mark: string): RegExp => new RegExp(`(?<=<!-- ${mark} -->\\n).*?(?=<!-- /${mark} -->)`, 's');

/** What stands between `<!-- mark -->` and `<!-- /mark -->` in a README; undefined where they are missing. */
export const readMarked = async (readme: string, mark: string): Promise<string | undefined> =>
  marked(mark).exec(await readFile(pathOf(readme), 'utf8'))?.[0];

/** Puts a text between the marks. */
export async function writeMarked(readme: string, mark: string, text: string): Promise<void> {
  const before = await readFile(pathOf(readme), 'utf8');
  await writeFile(
    pathOf(readme),
    before.replace(marked(mark), () => text),
  );
}
