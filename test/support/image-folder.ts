import { execFile } from 'node:child_process';
import { cp, mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join, matchesGlob, posix, relative } from 'node:path';
import { promisify } from 'node:util';
import { type Copy, DockerfileParser, type From, type Instruction } from 'dockerfile-ast';

const run = promisify(execFile);

/** What the last stage of a Dockerfile leaves, in a folder instead of an image. */
export interface ImageFolder {
  /** The image's root; its WORKDIR is below it. */
  readonly root: string;
  readonly workdir: string;
  readonly env: Readonly<Record<string, string>>;
  readonly user: string;
  readonly command: readonly string[];
}

interface Stage {
  readonly root: string;
  workdir: string;
  env: Record<string, string>;
  user: string;
  command: readonly string[];
}

/**
 * Takes a Dockerfile's steps in folders below `folder`, one a stage, with the programs of this machine where the base
 * image would have its own. It copies what the Dockerfile copies, less what .dockerignore names, and runs what it
 * runs; an Error for an instruction that it does not know, rather than an image that differs.
 */
export async function makeImageFolder(context: string, dockerfile: string, folder: string): Promise<ImageFolder> {
  const isIgnored = parseIgnoreFile(await readFile(join(context, '.dockerignore'), 'utf8'));
  const stages: { name: string | null; stage: Stage }[] = [];
  let stage: Stage | undefined;
  for (const instruction of DockerfileParser.parse(dockerfile).getInstructions()) {
    const keyword = instruction.getKeyword();
    if (keyword === 'FROM') {
      stage = { root: join(folder, `stage-${stages.length}`), workdir: '/', env: {}, user: 'root', command: [] };
      stages.push({ name: (instruction as From).getBuildStage(), stage });
      await mkdir(stage.root, { recursive: true });
    } else if (stage) await step(keyword, instruction, stage, { context, stages, isIgnored });
    else if (keyword !== 'ARG') throw new Error(`${keyword} stands before the first FROM`);
  }
  if (!stage) throw new Error('the Dockerfile has no stage');
  return { ...stage, workdir: within(stage, '.'), env: environmentOf(stage) };
}

async function step(
  keyword: string,
  instruction: Instruction,
  stage: Stage,
  given: {
    context: string;
    stages: readonly { name: string | null; stage: Stage }[];
    isIgnored: (path: string) => boolean;
  },
): Promise<void> {
  const words = instruction.getExpandedArguments().map((argument) => argument.getValue());
  switch (keyword) {
    case 'LABEL':
    case 'EXPOSE':
      return;
    case 'WORKDIR':
      stage.workdir = posix.resolve(stage.workdir, words[0] ?? '/');
      await mkdir(within(stage, '.'), { recursive: true });
      return;
    case 'ENV': {
      const [, name = '', value = ''] = /^([A-Z_]+)=(\S+)$/.exec(instruction.getRawArgumentsContent() ?? '') ?? [];
      if (name === '') throw new Error('one NAME=value a line is understood of ENV');
      stage.env[name] = value;
      return;
    }
    case 'USER':
      stage.user = words[0] ?? '';
      return;
    case 'CMD':
      stage.command = JSON.parse(instruction.getRawArgumentsContent() ?? '') as string[];
      return;
    case 'RUN':
      await run('sh', ['-euc', instruction.getArgumentsContent() ?? ''], {
        cwd: within(stage, '.'),
        env: { ...process.env, npm_config_prefer_offline: 'true', ...environmentOf(stage) },
      });
      return;
    case 'COPY': {
      const from = (instruction as Copy).getFlags().find((flag) => flag.getName() === 'from');
      const [to = '', ...sources] = words.filter((word) => !word.startsWith('--')).reverse();
      const source = from && given.stages.find(({ name }) => name === from.getValue())?.stage;
      if (from && !source) throw new Error(`there is no stage ${from.getValue()}`);
      for (const path of sources) {
        if (source) await copy(join(source.root, path), target(stage, to, path));
        else await copy(join(given.context, path), target(stage, to, path), given);
      }
      return;
    }
    default:
      throw new Error(`${keyword} is not understood`);
  }
}

const within = (stage: Stage, path: string): string => join(stage.root, posix.resolve(stage.workdir, path));

const target = (stage: Stage, to: string, source: string): string =>
  within(stage, to.endsWith('/') ? posix.join(to, basename(source)) : to);

const environmentOf = ({ root, env }: Stage): Record<string, string> => ({
  ...env,
  ...(env['PATH'] ? { PATH: env['PATH'].replace('$PATH', process.env['PATH'] ?? '').replace(/^\//, `${root}/`) } : {}),
});

/** Copies a file or a folder's files; COPY of what is not there is an error, as it is to Docker. */
async function copy(
  source: string,
  to: string,
  context?: { context: string; isIgnored: (path: string) => boolean },
): Promise<void> {
  const isKept = (path: string): boolean => !context?.isIgnored(relative(context.context, path));
  await mkdir(dirname(to), { recursive: true });
  if (!(await stat(source)).isDirectory()) {
    if (!isKept(source)) throw new Error(`.dockerignore keeps ${source} out`);
    await cp(source, to);
    return;
  }
  if (!context) {
    await cp(source, to, { recursive: true, verbatimSymlinks: true });
    return;
  }
  const files = (await readdir(source, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  for (const { parentPath, name } of files) {
    const path = join(parentPath, name);
    if (isKept(path)) await cp(path, join(to, relative(source, path)));
  }
}

/** Whether a path is kept out: by the last line that names it or a folder that it is in. */
function parseIgnoreFile(text: string): (path: string) => boolean {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return (path) => {
    const parts = path.split('/');
    const paths = parts.map((_, index) => parts.slice(0, index + 1).join('/'));
    const last = lines.findLast((line) => paths.some((candidate) => matchesGlob(candidate, line.replace(/^!/, ''))));
    return last !== undefined && !last.startsWith('!');
  };
}
