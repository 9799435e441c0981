import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { newId } from '#libs/kernel/id.ts';
import { templateFolder } from './template-folder.ts';

/** A template of one source, which is copied into it, and how often it was made. */
async function makeTemplate(t: ExecutionContext) {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-template-'));
  const source = join(folder, 'source.ts');
  await writeFile(source, 'first');
  const made: string[] = [];
  const broken: Error[] = [];
  const paths = new Set<string>();
  t.teardown(() => Promise.all([folder, ...paths].map((path) => rm(path, { recursive: true, force: true }))));
  const template = {
    name: `test-${newId()}`,
    sources: [relative(join(import.meta.dirname, '../..'), source)],
    async make(path: string) {
      const content = await readFile(source, 'utf8');
      made.push(content);
      await writeFile(join(path, 'copy'), content);
      const error = broken.shift();
      if (error) throw error;
    },
  };
  const use = async () => {
    const path = await templateFolder(template);
    paths.add(path);
    return readFile(join(path, 'copy'), 'utf8');
  };
  return { source, made, broken, use };
}

test('however many ask for a template at once, it is made once', async (t) => {
  const { made, use } = await makeTemplate(t);
  t.deepEqual(await Promise.all([use(), use(), use()]), ['first', 'first', 'first']);
  t.is(await use(), 'first');
  t.deepEqual(made, ['first']);
});

test('who has changed a source, or what it imports, gets another template', async (t) => {
  const { source, made, use } = await makeTemplate(t);
  await use();
  for (const [index, statement] of [
    "import { a } from './a.ts';",
    'export * from "./a.ts";',
    "import './a.ts';",
    "await import('./a.ts');",
  ].entries()) {
    await writeFile(source.replace('source.ts', 'a.ts'), '');
    await writeFile(source, statement);
    t.is(await use(), statement);
    await writeFile(source.replace('source.ts', 'a.ts'), 'changed');
    t.is(await use(), statement);
    t.is(made.length, 3 + 2 * index);
  }
});

test('a template that is half made is not used, and the next that asks makes it whole', async (t) => {
  const { made, broken, use } = await makeTemplate(t);
  broken.push(new Error('the disk is full'));
  await t.throwsAsync(use, { message: 'the disk is full' });
  t.is(await use(), 'first');
  t.is(made.length, 2);
});
