import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import test from 'ava';

interface Manifest {
  readonly engines?: { readonly node?: string };
}

const here = (path: string): URL => new URL(path, import.meta.url);
const nodeOf = async (path: string | URL): Promise<string | undefined> =>
  (JSON.parse(await readFile(path, 'utf8')) as Manifest).engines?.node;

test('the package takes the versions of Node that its narrowest dependency takes, and its README says which', async (t) => {
  const { resolve } = createRequire(import.meta.url);
  const narrowest = await nodeOf(resolve('@inquirer/prompts/package.json'));
  t.is(await nodeOf(here('package.json')), narrowest);
  const [first = ''] =
    (await readFile(here('README.md'), 'utf8')).match(/The client of Lethe for Node [^\n]*\n[^\n]*/) ?? [];
  const oldest = [...(narrowest ?? '').matchAll(/\d+(?:\.\d+)*/g)].map(([version]) => version.replace(/(\.0)+$/, ''));
  t.true(oldest.length > 0);
  for (const version of oldest) t.true(first.includes(version), `${version} in: ${first}`);
});
