import type { Command } from 'commander';
import { SERVICE_NAMES } from '#libs/client/services.ts';
import type { CommandContext, Run } from '../context.ts';
import { type Finding, type FindingState, findingsOf } from '../doctor/finding.ts';
import { configurationLooks } from '../doctor/look-at-configuration.ts';
import { lookAtService } from '../doctor/look-at-service.ts';
import { lookAtOwnCertificate, lookAtServiceCertificate, lookAtToken } from '../doctor/look-at-sign-in.ts';
import { addExamples } from '../example.ts';
import { EXIT } from '../output.ts';
import { type Text, toLine, toTable } from '../table.ts';

interface DoctorOptions {
  readonly quiet: boolean;
}

/** `lethe doctor`. */
export function addDoctorCommand(program: Command, run: Run): void {
  addExamples(
    program
      .command('doctor')
      .description('look at the whole installation and say what to do; fails when something does not work')
      .option('--quiet', 'show only what is not as it should be', false)
      .action(({ quiet }: DoctorOptions) =>
        run(async (context) => {
          const findings = await examine(context);
          const shown = quiet ? findings.filter(({ state }) => state !== 'OK') : findings;
          context.print(shown, () => findingsText(shown));
          return findings.some(({ state }) => state === 'FAILED') ? EXIT.failed : EXIT.ok;
        }),
      ),
    'lethe doctor',
    'lethe --profile prod doctor --quiet',
  );
}

async function examine({ lethe, role, progress, profile, token }: CommandContext): Promise<readonly Finding[]> {
  const { addresses, tls, origin = 'the environment' } = profile;
  const looks = [
    async () => lookAtToken(await token(), origin),
    ...(tls ? [() => lookAtOwnCertificate(tls)] : []),
    ...SERVICE_NAMES.flatMap((name) => {
      const address = addresses[name];
      if (!address) return [async () => [addressMissing(name)]];
      return [
        () => lookAtService(lethe, name, address),
        ...(tls ? [() => lookAtServiceCertificate(name, address)] : []),
      ];
    }),
    ...(role === 'platform' ? configurationLooks(lethe) : []),
  ];
  let done = 0;
  const found = await Promise.all(
    looks.map(async (look) => {
      const findings = await look();
      done += 1;
      progress.update(done, looks.length, 'looked at');
      return findings;
    }),
  );
  return found.flat();
}

const addressMissing = (name: string): Finding =>
  findingsOf(name).unknown(
    'ENDPOINT',
    'Its address is not set.',
    `Set LETHE_${name.toUpperCase()}_ADDRESS or sign in again with \`lethe login\`, if there is one.`,
  );

const MARKS: Readonly<Record<FindingState, string>> = { OK: 'ok', WARNING: 'warning', FAILED: 'FAILED', UNKNOWN: '?' };

function findingsText(findings: readonly Finding[]): Text {
  if (findings.length === 0) return 'everything is as it should be';
  const rows = findings.map(({ state, of, message }) => [MARKS[state], of, message]);
  const advised = findings.filter(({ advice }) => advice !== '');
  return [
    toTable(['', 'OF', 'FOUND'], rows),
    ...(advised.length > 0
      ? [
          '',
          'What to do:',
          toTable(
            ['OF', 'ADVICE'],
            advised.map(({ of, advice }) => [of, advice]),
          ),
        ]
      : ['', toLine('Nothing is to be done.')]),
  ];
}
