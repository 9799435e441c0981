/**
 * Finds second words for what the glossary in README.md has a word for. Run as `npm run check:words`; exits 1 when it
 * finds one, and prints where.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '../..');
const PLACES = ['README.md', '.github', 'deploy', 'libs', 'proto', 'services'];
const KINDS = /\.(?:ts|tsx|proto|md)$/;

interface SecondWord {
  /** What to say. */
  readonly say: string;
  readonly not: RegExp;
  /** Where the word means something else, as the beginning of a path. Absent: nowhere. */
  readonly except?: readonly string[];
}

const SECOND_WORDS: readonly SecondWord[] = [
  // The opening of README speaks of customers, before it has said what a tenant is; the seeds' routes have their own words.
  {
    say: 'tenant',
    not: /\bcustomers?\b|\bworkspaces?\b|\borgani[sz]ations?\b/i,
    except: ['README.md', 'services/console/server/rest/'],
  },
  { say: 'purge', not: /\bhard[- ]delet|\berasures?\b|\bwip(?:e|es|ed|ing)\b|\bexpunge|\bscrub/i },
  { say: 'undelete', not: /\bunhid|\bun-delet|\bresurrect/i },
  // In the contract of participants the call is Restore, and a database is restored from a backup.
  {
    say: 'undelete',
    not: /\brestor(?:e|es|ed|ing)\b/i,
    except: ['README.md', 'deploy', 'libs', 'proto', 'services/incident', 'services/job', 'services/run'],
  },
  { say: 'compensation', not: /\bcompensating (?:transaction|action)s?\b/i },
  { say: 'receipt', not: /\bdeletion certificates?\b|\bcertificates? of deletion\b/i },
  { say: 'dry run', not: /\brehears/i },
  { say: 'retention window', not: /\bretention (?:period|time)s?\b/i },
  { say: 'grace', not: /\bgrace periods?\b/i },
  { say: 'ceiling', not: /\bblast\b|\bblast[A-Z]|\bBlast/ },
  { say: 'stop', not: /\bkill[- ]?switch/i },
  { say: 'parked', not: /\bdead[- ]?letter|\bquarantin/i },
  { say: 'attempt', not: /\bretr(?:y|ies) count/i },
  { say: 'request id', not: /\bidempotency (?:key|token)s?\b/i },
];

const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '--', ...PLACES], {
  cwd: ROOT,
  encoding: 'utf8',
})
  .split('\n')
  .filter((path) => KINDS.test(path));

const found = files.flatMap((path) => {
  const words = SECOND_WORDS.filter(({ except = [] }) => !except.some((place) => path.startsWith(place)));
  return readFileSync(join(ROOT, path), 'utf8')
    .split('\n')
    .flatMap((line, index) =>
      words.flatMap(({ say, not }) => {
        const [word] = not.exec(line) ?? [];
        return word === undefined ? [] : [`${path}:${index + 1}: say "${say}", not "${word}"`];
      }),
    );
});
for (const line of found) process.stderr.write(`${line}\n`);
process.exitCode = found.length > 0 ? 1 : 0;
