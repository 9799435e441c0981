import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Plugin } from 'rolldown';
import { type TemplateFolder, templateFolder } from './template-folder.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** The programs that tests start, by their paths below the repository. */
const PROGRAMS = [
  'services/run/main.ts',
  'services/job/main.ts',
  'services/incident/main.ts',
  'services/retention/main.ts',
  'services/console/server/main.ts',
  'libs/cli/lethe.ts',
] as const;

/** One of PROGRAMS. */
export type Program = (typeof PROGRAMS)[number];

// Drivers of other databases, which knex asks for by name when it is to use one of them.
const NOT_INSTALLED = /^(better-sqlite3|mariadb\/callback|mysql2?|oracledb|pg-native|pg-query-stream|sqlite3|tedious)$/;

// What a module reads of its own place, in either kind of module.
const OWN_PLACE = /\bimport\.meta\.(url|dirname|filename)\b|(?<![\w.$])__(dirname|filename)\b/g;

/** Lets each module find the files beside it, although it is moved. */
const keepPlaces: Plugin = {
  name: 'keep-places',
  transform: {
    filter: { id: /^\//, code: new RegExp(OWN_PLACE.source) },
    handler: (code, id) =>
      code.replaceAll(OWN_PLACE, (name) =>
        JSON.stringify(name.endsWith('url') ? pathToFileURL(id).href : name.includes('dirname') ? dirname(id) : id),
      ),
  },
};

/** The programs as bundles, of which one starts in a third of the time that its thousands of small modules take. */
const BUNDLES: TemplateFolder = {
  name: 'programs',
  sources: [...PROGRAMS, relative(REPOSITORY, fileURLToPath(import.meta.url))],
  variant: REPOSITORY,
  make: (folder) => bundlePrograms(REPOSITORY, PROGRAMS, folder),
};

/** Makes bundles of a repository's programs: of each a file below `folder`, by its path and `.mjs`. */
export async function bundlePrograms(repository: string, programs: readonly string[], folder: string): Promise<void> {
  // Loaded here, since hardly any process makes them.
  const { build } = await import('rolldown');
  await build({
    cwd: repository,
    input: Object.fromEntries(programs.map((program) => [program, program])),
    platform: 'node',
    external: NOT_INSTALLED,
    plugins: [keepPlaces],
    onLog(_, { code, message }) {
      // What is not found now would be looked for in vain when the program runs.
      if (code === 'UNRESOLVED_IMPORT') throw new Error(message);
    },
    output: { dir: folder, entryFileNames: '[name].mjs', chunkFileNames: '[name]-[hash].mjs' },
  });
}

let folder: Promise<string> | undefined;

/**
 * The file by which tests start a program: its bundle, of the sources as they were when this process asked for the first
 * one.
 */
export async function bundleOf(program: Program): Promise<string> {
  folder ??= templateFolder(BUNDLES);
  return join(await folder, `${program}.mjs`);
}
