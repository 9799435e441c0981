import { readdirSync, readFileSync } from 'node:fs';
import test from 'ava';
import * as lists from '#test/support/crash-points.ts';

const ROOT = new URL('../../', import.meta.url);

const sourcesOf = (folder: string): readonly string[] =>
  readdirSync(new URL(folder, ROOT), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts') && !/(^|\/)(dist|node_modules|page)\//.test(path))
    .map((path) => readFileSync(new URL(`${folder}/${path}`, ROOT), 'utf8'));

/** The points that the sources name, without the service before a bulk deletion's and the step after a run's. */
const points = new Set(
  [...sourcesOf('services'), ...sourcesOf('libs')]
    .filter((text) => text.includes('crashPoint'))
    .flatMap((text) => [...text.matchAll(/(?:crashPoint\(|after(?:Intent|Batch): )['`](?:\$\{name\}\.)?([a-z.-]+)/g)])
    .map(([, point = '']) => point),
);

test('every point at which tests are to kill a process is there', (t) => {
  t.true(points.size > 50, `${points.size}`);
  t.deepEqual(
    Object.values(lists)
      .flat()
      .filter((point) => !points.has(point)),
    [],
  );
});

test('at every point that is there, a test kills a process', (t) => {
  const tests = sourcesOf('test').join('\n');
  t.deepEqual(
    [...points].filter((point) => !new RegExp(`['"\`.]${point.replaceAll('.', '\\.')}['"\`: ]`).test(tests)),
    [],
  );
});
