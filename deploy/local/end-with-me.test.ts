import { fork } from 'node:child_process';
import { once } from 'node:events';
import { access } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const FIXTURE = fileURLToPath(new URL('./end-with-me.fixture.ts', import.meta.url));

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

for (const [title, role] of [
  ['a process that is killed takes the servers and services that it started, and its folder, with it', 'supervisor'],
  ['a test runner that is killed takes its workers with it, and all that they started', 'runner'],
] as const) {
  test(title, async (t) => {
    const killed = fork(FIXTURE, [role]);
    const [{ folder, pids }] = (await once(killed, 'message')) as [{ folder: string; pids: number[] }];
    t.is(pids.length, 3);
    t.true(pids.every(isAlive));
    killed.kill('SIGKILL');
    await once(killed, 'exit');
    const isThere = () =>
      access(folder).then(
        () => true,
        () => false,
      );
    for (const deadline = Date.now() + 60_000; pids.some(isAlive) || (await isThere()); await delay(50)) {
      if (Date.now() > deadline) break;
    }
    t.deepEqual(pids.filter(isAlive), []);
    t.false(await isThere());
  });
}
