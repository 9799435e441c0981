import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import anyTest, { type TestFn } from 'ava';

const ROOT = new URL('../../', import.meta.url);
const SEEDS = ['000', '001', '002', '003', '004'] as const;

/** One row of test/SEEDS.md: what a seed asks for, and the test that holds it true. */
interface Demand {
  readonly seed: string;
  readonly sentence: string;
  readonly file: string;
  readonly title: string;
}

const test = anyTest as TestFn<{ demands: readonly Demand[] }>;

const read = (path: string): Promise<string> => readFile(fileURLToPath(new URL(path, ROOT)), 'utf8');

/** The rows of all tables under a heading that begins with a seed's number; one demand for each test of a row. */
function parseDemands(markdown: string): readonly Demand[] {
  const demands: Demand[] = [];
  let seed = '';
  for (const line of markdown.split('\n')) {
    if (line.startsWith('## ')) seed = /^## (\d{3}):/.exec(line)?.[1] ?? '';
    if (seed === '' || !line.startsWith('|') || /^\| (-+|the seed asks) /.test(line)) continue;
    const [, sentence = '', tests = ''] = line.split('|').map((cell) => cell.trim());
    for (const one of tests.split(/<br>/)) {
      const [, file = '', title = ''] = /^`([^`]+)`: (.+)$/.exec(one.trim()) ?? [];
      demands.push({ seed, sentence, file, title });
    }
  }
  return demands;
}

/** Whether the source has a test of that title that runs. */
function hasTest(source: string, title: string): boolean {
  const at = [title, title.replaceAll("'", "\\'")].map((text) => source.indexOf(text)).find((index) => index >= 0);
  if (at === undefined) return false;
  const before = source.slice(Math.max(0, at - 200), at);
  return !/\b(skip|failing|todo)\(\s*['"`]$/.test(before);
}

test.before(async (t) => {
  t.context.demands = parseDemands(await read('test/SEEDS.md'));
});

for (const seed of SEEDS) {
  test(`every sentence of seed ${seed} that is listed has a test that runs`, async (t) => {
    const demands = t.context.demands.filter((demand) => demand.seed === seed);
    t.true(demands.length >= 10);
    for (const { sentence, file, title } of demands) {
      t.not(file, '', `"${sentence}" names no test`);
      const source = await read(file).catch(() => '');
      t.true(hasTest(source, title), `"${sentence}": ${file} has no test "${title}"`);
    }
  });
}

test('a title that is not there, or is switched off, is noticed', (t) => {
  t.true(hasTest("test('a run goes', (t) => {", 'a run goes'));
  t.true(hasTest("test('another tenant\\'s run', (t) => {", "another tenant's run"));
  t.false(hasTest("test.skip('a run goes', (t) => {", 'a run goes'));
  t.false(hasTest("test('a run goes', (t) => {", 'a job goes'));
});
