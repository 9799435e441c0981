import { tmpdir } from 'node:os';
import { join } from 'node:path';

// What takes longest begins first, or it would run alone at the end.
const LONGEST = [
  'faults',
  'saga-crash',
  'console-page',
  'configuration',
  'console-retention-page',
  'run-interleavings',
  'cascade-crash',
  'start',
  'run-preview',
  'two-versions',
].map((name) => `/test/system/${name}.test.ts`);

const rankOf = (file) => {
  const rank = LONGEST.findIndex((path) => file.endsWith(path));
  return rank === -1 ? LONGEST.length : rank;
};

export default {
  extensions: ['ts'],
  files: ['libs/**/*.test.ts', 'services/**/*.test.ts', 'deploy/**/*.test.ts', 'test/**/*.test.ts'],
  // Without any result from any file: some tests are long, and on a busy machine two of them may be under way alone.
  timeout: '20m',
  workerThreads: false,
  require: ['./test/support/end-with-runner.ts'],
  // For the workers and every service that they start: what one has compiled is read by the next.
  environmentVariables: { NODE_COMPILE_CACHE: join(tmpdir(), 'lethe-compile-cache') },
  concurrency: 2,
  sortTestFiles: (a, b) => rankOf(a) - rankOf(b) || (a < b ? -1 : 1),
};
