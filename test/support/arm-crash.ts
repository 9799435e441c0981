import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';

/**
 * Arms a crash point in the processes whose LETHE_CRASH_FILE this is: the first one that reaches the point dies. What it
 * resolves to answers whether one has.
 */
export async function armCrash(crashFile: string, point: string): Promise<() => Promise<boolean>> {
  await rm(`${crashFile}.struck`, { force: true });
  await writeFile(crashFile, point);
  return async () => existsSync(`${crashFile}.struck`);
}

/**
 * How an owner of this repository is made to die, for the suite of owners; at all points, or between batches alone, which
 * is the one that depends on the subject.
 */
export const crashesOf = (crashFile: () => string, points: 'all' | 'between batches' = 'all') => ({
  armCrash: () => armCrash(crashFile(), 'owner.purge.after-batch'),
  ...(points === 'all' && {
    armCrashAfterIntent: () => armCrash(crashFile(), 'owner.purge.after-intent'),
    armCrashAfterFence: () => armCrash(crashFile(), 'owner.end.after-fence'),
  }),
});
