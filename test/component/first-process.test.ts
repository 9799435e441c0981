import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { freePort } from '#deploy/local/free-port.ts';
import { makeKeys } from '#deploy/make-keys.ts';
import { testIfFound } from '#test/support/require.ts';
import { until } from '#test/support/test-stack.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const APART = ['--pid', '--fork', '--kill-child'];
const canBeFirst = spawnSync('unshare', [...APART, 'true']).status === 0;

/** Starts a program as the first process of a PID namespace, as in a container; signals by default do nothing to it. */
function startAsFirst(program: readonly string[], env: Readonly<Record<string, string>>): ChildProcess {
  return spawn('unshare', [...APART, process.execPath, ...program], {
    cwd: REPOSITORY,
    env: { PATH: process.env['PATH'], ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** The process's child, which is the program. */
const childOf = async ({ pid }: ChildProcess): Promise<number> =>
  Number((await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim());

for (const [what, program] of [
  ['a service that waits for its database', ['services/job/main.ts']],
  ['lethe, which waits for a purge', ['libs/cli/lethe.ts', 'purge', '--all', '--wait', '--yes']],
] as const) {
  testIfFound(
    test,
    canBeFirst,
    'the right to make a PID namespace',
    `as the first process of a container, ${what} ends at SIGTERM`,
    async (t) => {
      const { path: folder, remove } = await makeTemporaryFolder('lethe-test-first-');
      t.teardown(remove);
      await makeKeys(folder);
      let connections = 0;
      const silent = createServer(() => {
        connections += 1;
      }).listen(0, '127.0.0.1');
      await once(silent, 'listening');
      t.teardown(() => silent.close());
      const address = `127.0.0.1:${(silent.address() as AddressInfo).port}`;
      const child = startAsFirst(program, {
        LETHE_DATABASE_URL: `postgres://app:x@${address}/lethe`,
        LETHE_TRUST_FILE: join(folder, 'trust.json'),
        LETHE_FILE_STORE_ROOT: join(folder, 'objects'),
        LETHE_GRPC_ADDRESS: '127.0.0.1:0',
        LETHE_METRICS_ADDRESS: `127.0.0.1:${await freePort()}`,
        LETHE_RETENTION_ADDRESS: address,
        LETHE_SERVICE_KEY: join(folder, 'retention-purge.json'),
        LETHE_ACTOR: 'retention-purge',
      });
      t.teardown(() => child.kill('SIGKILL'));
      const ended = once(child, 'exit');
      await until('it waits', async () => connections > 0, 60_000);
      const signalledAt = performance.now();
      process.kill(await childOf(child), 'SIGTERM');
      await ended;
      t.true(performance.now() - signalledAt < 5_000);
    },
  );
}
