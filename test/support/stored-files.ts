import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Stack } from '#deploy/local/stack.ts';

/** Where the file store keeps what belongs to an object: its bytes, its media type, and what is being uploaded to it. */
export const AREAS = ['objects', 'meta', 'uploads'] as const;

/** A tenant's part of the file store, or one job's, in all areas or some. */
export interface StorePart {
  readonly tenantId: string;
  readonly jobId?: string;
  readonly areas?: readonly (typeof AREAS)[number][];
}

/**
 * Lists a folder and all that is below it; folders end with a slash. A folder that is removed while this looks counts as
 * gone. Any other error is thrown: a listing that failed is no evidence that nothing is left.
 */
async function treeOf(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (!entries) return [];
  const below = await Promise.all(entries.map((entry) => pathsOf(folder, entry)));
  return [`${folder}/`, ...below.flat()].toSorted();
}

async function pathsOf(folder: string, entry: Dirent): Promise<string[]> {
  const path = join(folder, entry.name);
  if (entry.isDirectory()) return treeOf(path);
  return entry.isFile() ? [path] : [];
}

const isFile = (path: string): boolean => !path.endsWith('/');

/** The files below a folder, in order. */
export const filesBelow = async (folder: string): Promise<string[]> => (await treeOf(folder)).filter(isFile);

/** Everything that a part of a stack's file store holds, folders too, which end with a slash. */
export async function storedPaths(
  stack: Pick<Stack, 'objectFolder'>,
  { tenantId, jobId, areas = AREAS }: StorePart,
): Promise<string[]> {
  const own = join('tenants', tenantId, ...(jobId === undefined ? [] : ['jobs', jobId]));
  const found = await Promise.all(areas.map((area) => treeOf(join(stack.objectFolder, area, own))));
  return found.flat();
}

/** As storedPaths, files alone. */
export const storedFiles = async (stack: Pick<Stack, 'objectFolder'>, part: StorePart): Promise<string[]> =>
  (await storedPaths(stack, part)).filter(isFile);
