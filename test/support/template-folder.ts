import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { access, chmod, mkdtemp, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { holdName } from '#deploy/local/hold-name.ts';

const run = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const PREFIX = 'lethe-template-';
const UNUSED_MS = 86_400_000;

/** A folder that is the same for every test that uses it. */
export interface TemplateFolder {
  readonly name: string;
  /** Modules below the repository that decide what is in it, with all that they import of it. */
  readonly sources: readonly string[];
  /** What else decides. */
  readonly variant?: string;
  /** Fills an empty folder. */
  make(folder: string): Promise<void>;
}

/**
 * A template's folder, which nobody may write to. It is made once a day on a machine and kept in its folder for temporary
 * files, under a hash of its sources and of the installed packages: whoever changes a source gets another one.
 */
export async function templateFolder(template: TemplateFolder): Promise<string> {
  const path = join(tmpdir(), `${PREFIX}${template.name}-${await hashOf(template)}`);
  while (!(await exists(path))) {
    const release = await holdName(basename(path));
    // Another process makes it.
    if (!release) await delay(25);
    else await make(template, path).finally(release);
  }
  const now = new Date();
  await utimes(path, now, now);
  return path;
}

/** Fills a folder with a copy of the template. */
export async function copyTemplate(template: TemplateFolder, folder: string): Promise<void> {
  await run('cp', ['-a', `${await templateFolder(template)}/.`, folder]);
}

/** It has its name when it is whole: one that is half made by a killed process is never found. */
async function make(template: TemplateFolder, path: string): Promise<void> {
  if (await exists(path)) return;
  const fresh = await mkdtemp(`${path}.`);
  try {
    await chmod(fresh, 0o755);
    await template.make(fresh);
    await rename(fresh, path);
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
async function hashOf({ sources, variant = '' }: TemplateFolder): Promise<string> {
  const files = new Map<string, string>();
  const add = async (path: string): Promise<void> => {
    if (files.has(path)) return;
    files.set(path, '');
    const content = await readFile(path, 'utf8');
    files.set(path, content);
    for (const [, specifier = ''] of content.matchAll(/\b(?:from |import\(|import )["']([#.][^"']+)["']/g)) {
      await add(specifier.startsWith('#') ? join(REPOSITORY, specifier.slice(1)) : join(dirname(path), specifier));
    }
  };
  for (const source of sources) await add(join(REPOSITORY, source));
  files.set(join(REPOSITORY, 'package-lock.json'), await readFile(join(REPOSITORY, 'package-lock.json'), 'utf8'));
  // Some migrations make partitions for the months around the day on which they run.
  const hash = createHash('sha256').update(`${Temporal.Now.plainDateISO('UTC')}\0${variant}\0`);
  for (const [path, content] of [...files].toSorted()) hash.update(`${relative(REPOSITORY, path)}\0${content}\0`);
  return hash.digest('hex').slice(0, 16);
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
