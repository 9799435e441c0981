import { tmpdir } from 'node:os';
import { join } from 'node:path';

export default {
  extensions: ['ts'],
  files: ['libs/**/*.test.ts', 'services/**/*.test.ts', 'deploy/**/*.test.ts', 'test/**/*.test.ts'],
  // Without any result from any file, which on a busy machine is a matter of minutes, not of a hang.
  timeout: '10m',
  workerThreads: false,
  // For the workers and every service that they start: what one has compiled is read by the next.
  environmentVariables: { NODE_COMPILE_CACHE: join(tmpdir(), 'lethe-compile-cache') },
  concurrency: 2,
};
