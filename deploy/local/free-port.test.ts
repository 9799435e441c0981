import { fork } from 'node:child_process';
import { once } from 'node:events';
import { platform } from 'node:os';
import test from 'ava';
import { freePort } from './free-port.ts';

const onLinux = platform() === 'linux' ? test : test.skip;

onLinux('processes that want the same port at the same time get different ones', async (t) => {
  const wanted = await freePort();
  const program = new URL('./free-port.fixture.ts', import.meta.url);
  const children = Array.from({ length: 8 }, () => fork(program, [String(wanted + 1)]));
  t.teardown(() => {
    for (const child of children) child.kill();
  });
  const ports = await Promise.all(children.map(async (child) => (await once(child, 'message'))[0]));
  t.is(new Set(ports).size, children.length, ports.join(' '));
  t.false(ports.includes(wanted));
});
