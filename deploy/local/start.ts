import { writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runMainJob } from './sample/main-job.ts';
import { SAMPLE_PEOPLE } from './sample-people.ts';
import { FolderInUseError, type Stack, startStack } from './stack.ts';

const folder = process.env['LETHE_LOCAL_FOLDER'] ?? join(fileURLToPath(new URL('../../', import.meta.url)), '.lethe');

// `npm start -- --owner mail=127.0.0.1:7410`: a service of your own that owns data which is purged by age.
// `--participant notes=127.0.0.1:7411`: one that holds effects of runs. Both can be given several times.
const several = { type: 'string', multiple: true, default: [] as string[] } as const;
const { values } = parseArgs({ options: { owner: several, participant: several } });
const addressesOf = (option: 'owner' | 'participant'): Record<string, string> =>
  Object.fromEntries(
    values[option].map((text) => {
      const [, name, address] = /^([a-z][a-z0-9_-]*)=(\S+:\d+)$/.exec(text) ?? [];
      if (!name || !address) throw new Error(`--${option} takes NAME=host:port, not ${text}`);
      return [name, address];
    }),
  );

/** Says loudly that the README's commands would reach another program; nothing where every port is the usual one. */
function portWarning({ addresses: { run, job, incident, retention }, consoleUrl = '' }: Stack): readonly string[] {
  const usual = [run, job, incident, retention, new URL(consoleUrl).host].map((now, n) => ({ now, port: 7_401 + n }));
  const moved = usual.filter(({ now, port }) => !now.endsWith(`:${port}`));
  if (moved.length === 0) return [];
  return [
    '',
    "WARNING: other programs have the usual ports, perhaps another stack. The README's commands would reach those.",
    'In its commands write',
    ...moved.map(({ now, port }) => `  ${now} for 127.0.0.1:${port}`),
    '`lethe` finds this stack by itself.',
  ];
}

/** What a person needs to go on from here, ready to paste. */
async function readyBlock(stack: Stack): Promise<string> {
  const token = await stack.token({ role: 'admin', tenantId: 'globex' }, 12 * 3_600);
  const { run, job, incident, retention } = stack.addresses;
  return [
    '',
    'Lethe is ready.',
    `  RunService        ${run}`,
    `  JobService        ${job}`,
    `  IncidentService   ${incident}`,
    `  RetentionService  ${retention}`,
    `  console           ${stack.consoleUrl}`,
    `  data and logs     ${stack.folder}`,
    '',
    'List the jobs of the tenant globex:',
    '',
    `grpcurl -plaintext -H 'authorization: Bearer ${token}' -d '{"page_size": 5}' ${job} lethe.job.v1.JobService/ListJobs`,
    '',
    'Open the console as an admin of the tenant globex (the link works once, within 30 minutes):',
    '',
    `${stack.provider?.makeLink(SAMPLE_PEOPLE[0].subject)}`,
    '',
    ...portWarning(stack),
    'Ctrl-C stops everything; the data stays for the next start.',
  ].join('\n');
}

/** What the command line reads to find this stack. */
const profileOf = (stack: Stack) => ({
  addresses: stack.addresses,
  keyFile: stack.userKeyFile,
  // Whoever runs a stack of their own is known by their account, and be it root's.
  actor: userInfo().username,
  issuer: 'lethe',
  audience: 'lethe',
});

const starting = startStack({
  folder,
  throwaway: false,
  ports: 'fixed',
  console: true,
  foreignOwners: addressesOf('owner'),
  foreignParticipants: addressesOf('participant'),
  onGivingUp: (service) => {
    console.error(`${service} keeps dying; see ${join(folder, 'logs', `${service}.log`)}. Stopping.`);
    void stop(1);
  },
});
let stopping = false;
const stop = async (code: number): Promise<void> => {
  // A second signal ends this process at once; the services have had theirs by then.
  if (stopping) process.exit(1);
  stopping = true;
  console.log('\nStopping.');
  // Also a stack that is still coming up is stopped whole; one that failed has stopped itself.
  await starting.then((started) => started.stop()).catch(() => undefined);
  process.exit(code);
};
process.on('SIGINT', () => void stop(0)).on('SIGTERM', () => void stop(0));

const stack = await starting.catch((error: unknown) => {
  if (!(error instanceof FolderInUseError)) throw error;
  console.error(error.message);
  process.exit(1);
});
await writeFile(join(folder, 'cli.json'), JSON.stringify(profileOf(stack), undefined, 2));
console.log('The stack is up; the sample runs:');
const mistakes = await runMainJob(stack, (text) => console.log(text));
for (const mistake of mistakes) console.error(`wrong: ${mistake}`);
console.log(await readyBlock(stack));
// The services are no children that keep this process alive by themselves.
setInterval(() => undefined, 1 << 30);
