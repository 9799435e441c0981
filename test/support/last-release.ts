import { execFile, execFileSync } from 'node:child_process';
import { symlink } from 'node:fs/promises';
import { delimiter, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { type ProgramFile, SERVICE_NAMES } from '#deploy/local/stack.ts';
import lastRelease from './last-release.json' with { type: 'json' };
import { bundlePrograms } from './programs.ts';
import { type TemplateFolder, templateFolder } from './template-folder.ts';

const run = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

const asksGit = (...args: readonly string[]): string | undefined => {
  try {
    return execFileSync('git', args, { cwd: REPOSITORY, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return undefined;
  }
};

/** Whether these sources have the whole history of which they are the end: not a shallow clone, not a folder of files. */
export const hasHistory = (): boolean => asksGit('rev-parse', '--is-shallow-repository') === 'false';

/** Whether the commit of the last release is there. */
export const hasLastRelease = (): boolean => asksGit('cat-file', '-e', `${lastRelease.commit}^{commit}`) !== undefined;

/** The services of the last release as bundles, of its own sources and contracts and of today's packages. */
const BUNDLES: TemplateFolder = {
  name: 'last-release',
  sources: [relative(REPOSITORY, fileURLToPath(import.meta.url))],
  variant: `${REPOSITORY} ${lastRelease.commit}`,
  async make(folder) {
    const { path: sources, remove } = await makeTemporaryFolder('lethe-last-release-');
    try {
      const archive = join(sources, 'sources.tar');
      await run('git', ['archive', `--output=${archive}`, lastRelease.commit], { cwd: REPOSITORY });
      await run('tar', ['-xf', archive, '-C', sources]);
      const packages = join(REPOSITORY, 'node_modules');
      await symlink(packages, join(sources, 'node_modules'));
      const programs = join(packages, '.bin');
      const env = { ...process.env, PATH: `${programs}${delimiter}${process.env['PATH'] ?? ''}` };
      await run(join(programs, 'buf'), ['generate'], { cwd: sources, env });
      await bundlePrograms(
        sources,
        SERVICE_NAMES.map((name) => `services/${name}/main.ts`),
        folder,
      );
    } finally {
      await remove();
    }
  },
};

/** The file by which a service of the last release is started. */
export const lastReleaseOf: ProgramFile = async (program) => join(await templateFolder(BUNDLES), `${program}.mjs`);
