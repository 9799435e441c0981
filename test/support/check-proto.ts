/**
 * Checks the contracts: formatted, linted, and compatible on the wire with the newest contract on main.
 * Run as `npm run check:proto`; exits 1 when a check fails.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');
const buf = join(root, 'node_modules/.bin/buf');

const git = (...args: string[]): string | undefined => {
  const { status, stdout } = spawnSync('git', args, { cwd: root, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
};

/**
 * The commit to be compatible with: the tip of main or, where the work tree has exactly that contract, the commit
 * before the one that brought it, so that main's own check compares something. Undefined where there is none: no
 * repository, no contract yet, or a clone too shallow to hold it.
 */
function findBaseline(): string | undefined {
  const tip = ['main', 'origin/main', 'HEAD'].find((ref) => git('rev-parse', '--verify', '--quiet', `${ref}:proto`));
  if (tip === undefined) return undefined;
  const isUnchanged =
    git('diff', '--quiet', tip, '--', 'proto') !== undefined &&
    git('ls-files', '--others', '--exclude-standard', '--', 'proto') === '';
  if (!isUnchanged) return git('rev-parse', tip);
  const newest = git('rev-list', '--max-count=1', tip, '--', 'proto');
  return newest && git('rev-parse', '--verify', '--quiet', `${newest}^:proto`) && git('rev-parse', `${newest}^`);
}

/** Runs buf in the repository and says whether it was content. */
function check(...args: string[]): boolean {
  process.stderr.write(`buf ${args.join(' ')}\n`);
  return spawnSync(buf, args, { cwd: root, stdio: 'inherit' }).status === 0;
}

/** An archive rather than buf's own git input: it needs no branch, no depth and no `.git` folder. */
function checkBreaking(baseline: string): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'lethe-contract-'));
  try {
    const archive = join(folder, `${baseline.slice(0, 12)}.tar`);
    if (git('archive', '--output', archive, baseline, 'buf.yaml', 'proto') === undefined) {
      process.stderr.write(`${baseline} cannot be read; not compared.\n`);
      return false;
    }
    return check('breaking', '--against', archive);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const baseline = findBaseline();
if (baseline === undefined) process.stderr.write('No earlier contract to compare with.\n');
const results = [
  check('lint'),
  check('format', '--diff', '--exit-code'),
  baseline === undefined || checkBreaking(baseline),
];
process.exitCode = results.every(Boolean) ? 0 : 1;
