import { chmod, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { answers } from './postgres-server.ts';
import { startStack } from './stack.ts';

const start = (folder: string) =>
  startStack({ folder, throwaway: true, ports: 'free', services: [], onGivingUp: () => undefined });

test('a second stack in a folder is refused and leaves the first one alone; a third may follow when it has ended', async (t) => {
  const parent = await mkdtemp(join(tmpdir(), 'lethe-test-stack-'));
  await chmod(parent, 0o755);
  t.teardown(() => rm(parent, { recursive: true, force: true }));
  const folder = join(parent, 'stack');
  const first = await start(folder);
  try {
    const link = join(parent, 'link');
    await symlink(folder, link);
    for (const name of [folder, `${folder}/`, link]) {
      await t.throwsAsync(start(name), { message: /already runs in .*Ctrl-C.*LETHE_LOCAL_FOLDER/s });
    }
    t.true(await answers(first.superuserUrl('run').replace(/\/lethe_run$/, '/postgres')));
  } finally {
    await first.stop();
  }
  await (await start(folder)).stop();
});
