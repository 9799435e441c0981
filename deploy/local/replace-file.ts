import { rename, writeFile } from 'node:fs/promises';

/** Replaces a file at once, so that a start which is cut off leaves no half of it; for its owner alone by default. */
export async function replaceFile(path: string, content: string, mode = 0o600): Promise<void> {
  await writeFile(`${path}.new`, content, { mode });
  await rename(`${path}.new`, path);
}
