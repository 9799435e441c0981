import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { access, chmod, mkdtemp, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const PREFIX = 'lethe-template-';
const UNUSED_MS = 86_400_000;

/** A folder that is the same for every test that begins with it. */
export interface TemplateFolder {
  readonly name: string;
  /** Modules below the repository that decide what is in it, with all that they import of it. */
  readonly sources: readonly string[];
  /** Fills an empty folder. */
  make(folder: string): Promise<void>;
}

/**
 * Fills a folder with a copy of the template. A template is made once a day on a machine and kept in its folder for
 * temporary files, under a hash of its sources and of the installed packages: whoever changes a source gets another one.
 */
export async function copyTemplate(template: TemplateFolder, folder: string): Promise<void> {
  const path = join(tmpdir(), `${PREFIX}${template.name}-${await hashOf(template.sources)}`);
  if (!(await exists(path))) await makeOnce(template, path);
  const now = new Date();
  await utimes(path, now, now);
  await run('cp', ['-a', `${path}/.`, folder]);
}

async function makeOnce(template: TemplateFolder, path: string): Promise<void> {
  const fresh = await mkdtemp(`${path}.`);
  try {
    await chmod(fresh, 0o755);
    await template.make(fresh);
    // Another process may have been faster; its folder is as good.
    await rename(fresh, path).catch(() => undefined);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
  await removeUnused();
}

/** Templates of sources that have changed since, and what a killed process has left half made. */
async function removeUnused(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    if (!name.startsWith(PREFIX)) continue;
    const path = join(tmpdir(), name);
    const usedAt = (await stat(path).catch(() => undefined))?.mtimeMs ?? Date.now();
    if (Date.now() - usedAt > UNUSED_MS) await rm(path, { recursive: true, force: true });
  }
}

/** Of the sources, all that they import of the repository, and the versions of everything else. */
async function hashOf(sources: readonly string[]): Promise<string> {
  const files = new Map<string, string>();
  const add = async (path: string): Promise<void> => {
    if (files.has(path)) return;
    files.set(path, '');
    const content = await readFile(path, 'utf8');
    files.set(path, content);
    for (const [, specifier = ''] of content.matchAll(/\bfrom '([#.][^']+)'/g)) {
      await add(specifier.startsWith('#') ? join(REPOSITORY, specifier.slice(1)) : join(dirname(path), specifier));
    }
  };
  for (const source of sources) await add(join(REPOSITORY, source));
  files.set(join(REPOSITORY, 'package-lock.json'), await readFile(join(REPOSITORY, 'package-lock.json'), 'utf8'));
  // Some migrations make partitions for the months around the day on which they run.
  const hash = createHash('sha256').update(Temporal.Now.plainDateISO('UTC').toString());
  for (const [path, content] of [...files].toSorted()) hash.update(`${relative(REPOSITORY, path)}\0${content}\0`);
  return hash.digest('hex').slice(0, 16);
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
