import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { readReadmes } from '#test/support/readmes.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const NAME = /\b(?:LETHE|WORKFLOW|RETENTION_JOB)_[A-Z0-9_]+\b/g;

// What no operator sets: tests kill a process at a persisted point by it.
const FOR_TESTS: ReadonlySet<string> = new Set(['LETHE_CRASH_FILE']);
// The manifests of Kubernetes take it, and no program.
const OF_MANIFESTS: ReadonlySet<string> = new Set(['RETENTION_JOB_TIME_ZONE']);

const textsOf = (...patterns: readonly string[]): readonly string[] =>
  globSync(patterns, { cwd: REPOSITORY, exclude: (path) => /(^|\/)(page|dist|node_modules)$/.test(path) })
    .filter((path) => /\.[a-z]+$/.test(path))
    .map((path) => readFileSync(join(REPOSITORY, path), 'utf8'));

/** Every name that stands in quotes, or is taken out of an environment as `{ NAME: name }`. */
function namesIn(texts: readonly string[]): ReadonlySet<string> {
  const found = texts.flatMap((text) => [...text.matchAll(/'([A-Z0-9_]+)'|\b([A-Z0-9_]+): [a-z]\w*[ ,]/g)]);
  return new Set(found.flatMap(([, quoted, taken]) => (quoted ?? taken ?? '').match(NAME) ?? []));
}

const told = async (): Promise<ReadonlySet<string>> => new Set((await readReadmes()).match(NAME));

test('every setting that a service, the console or lethe reads stands in a README', async (t) => {
  const programs = ['{libs,services}/**/!(*.test).ts', 'deploy/*.ts'];
  const read = namesIn(textsOf(...programs));
  t.true(read.size > 80, `${read.size} were found`);
  const known = await told();
  t.deepEqual([...read].filter((name) => !known.has(name) && !FOR_TESTS.has(name)).toSorted(), []);
});

test('every setting that a README names is read', async (t) => {
  const read = namesIn(textsOf('{libs,services,deploy,test}/**/*.ts'));
  t.deepEqual([...(await told())].filter((name) => !read.has(name) && !OF_MANIFESTS.has(name)).toSorted(), []);
});

test('a default in the table of settings is the one in the code', (t) => {
  const table = readFileSync(join(REPOSITORY, 'deploy/README.md'), 'utf8');
  const rows = [...table.matchAll(/^\| (`(?:LETHE|WORKFLOW|RETENTION_JOB)_[^|]+)\|.*\|([^|]+)\|$/gm)];
  const written = new Map(
    rows.flatMap(([, names = '', defaults = '']) => (names.match(NAME) ?? []).map((name) => [name, defaults] as const)),
  );
  const read = textsOf('libs/{service,owner}/*settings.ts', 'services/{run,job,incident,retention}/config.ts').flatMap(
    (text) => [
      ...text.matchAll(/reader\.(?:integer|parsed)\(\s*'(\w+)',(?:(?!reader\.)[^;])*?, (?:'([^']+)'|([\d_]+))\s*\)/g),
    ],
  );
  t.true(read.length > 40, `${read.length} were found`);
  for (const [, name = '', text, digits = ''] of read) {
    const value = text ?? String(Number(digits.replaceAll('_', '')));
    const values = written.get(name)?.replaceAll('`', '').trim() ?? 'no row';
    t.true(values.split(', ').includes(value), `${name} is ${value} in the code, and in the table ${values}`);
  }
});
