import { globSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** The README and those of the rooms below it, one after another in the order of their paths, the README first. */
export async function readReadmes(): Promise<string> {
  const paths = globSync('{services,libs,deploy,proto}/**/README.md', { cwd: REPOSITORY }).toSorted();
  const texts = await Promise.all(['README.md', ...paths].map((path) => readFile(join(REPOSITORY, path), 'utf8')));
  return texts.join('\n');
}
