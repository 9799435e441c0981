import { stat } from 'node:fs/promises';
import type { Command } from 'commander';
import { SERVICE_NAMES } from '#libs/client/services.ts';
import { addExamples } from '../example.ts';
import { type GlobalOptions, isJson } from '../global-options.ts';
import { toJson } from '../output.ts';
import { type Profiles, readProfiles, type StoredProfile, writeProfiles } from '../profiles.ts';
import { DEFAULT_PROFILE } from '../session.ts';
import { makeTable, render, type Text } from '../table.ts';
import type { Terminal } from '../terminal.ts';
import { UsageError } from '../usage-error.ts';

/** What is shown of a profile: never its token. */
const toShown = (name: string, profile: StoredProfile, current: string | undefined) => ({
  name,
  inUse: name === current,
  signsInBy: profile.token === undefined ? (profile.keyFile ?? 'nothing') : 'token',
  tenant: profile.tenant ?? '',
  addresses: profile.addresses ?? {},
});

const tableOf = makeTable<ReturnType<typeof toShown>>({
  PROFILE: ({ name }) => name,
  'IN USE': ({ inUse }) => (inUse ? 'yes' : ''),
  'SIGNS IN BY': ({ signsInBy }) => signsInBy,
  TENANT: ({ tenant }) => tenant,
  SERVICES: ({ addresses }) =>
    SERVICE_NAMES.flatMap((service) => (addresses[service] ? [`${service} ${addresses[service]}`] : [])).join(', '),
});

/** `lethe profiles …`. */
export function addProfileCommands(program: Command, terminal: Terminal): void {
  const profiles = program.command('profiles').description('where services are and who calls, kept by `lethe login`');
  const print = (value: unknown, text: () => Text): void =>
    terminal.out(isJson(program.opts<GlobalOptions>()) ? toJson(value) : render(text(), terminal.columns));

  addExamples(
    profiles
      .command('list')
      .description('all profiles, and which is used where none is named')
      .action(async () => {
        const { current, profiles: kept } = await readProfiles(terminal.configFolder);
        const shown = Object.entries(kept).map(([name, profile]) => toShown(name, profile, current));
        print(shown, () => (shown.length > 0 ? tableOf(shown) : 'there are none; `lethe login` makes one'));
        const isLocal = await stat(DEFAULT_PROFILE).then(Boolean, () => false);
        if (isLocal) terminal.err(`In this folder ${DEFAULT_PROFILE} of the local stack is used unless one is named.`);
      }),
    'lethe profiles list',
  );

  addExamples(
    profiles
      .command('use <name>')
      .description('use a profile where none is named')
      .action(async (name: string) => {
        const kept = await profilesWith(terminal, name);
        await writeProfiles(terminal.configFolder, { ...kept, current: name });
        print({ current: name }, () => `${name} is in use`);
      }),
    'lethe profiles use prod',
  );

  addExamples(
    profiles
      .command('remove <name>')
      .description('forget a profile and its token')
      .action(async (name: string) => {
        const { current, profiles: kept } = await profilesWith(terminal, name);
        const { [name]: _, ...rest } = kept;
        const used = current === undefined || current === name ? {} : { current };
        await writeProfiles(terminal.configFolder, { ...used, profiles: rest });
        print({ removed: name }, () => `${name} is forgotten`);
      }),
    'lethe profiles remove prod',
  );
}

async function profilesWith(terminal: Terminal, name: string): Promise<Profiles> {
  const kept = await readProfiles(terminal.configFolder);
  if (kept.profiles[name]) return kept;
  throw new UsageError(`there is no profile ${name}; \`lethe profiles list\` shows those there are`);
}
