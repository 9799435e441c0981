import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const LETHE = fileURLToPath(new URL('lethe.ts', import.meta.url));

test('`executions record -` whose call fails ends also while its standard input is silent and open', async (t) => {
  const child = spawn(process.execPath, [LETHE, 'executions', 'record', '-'], {
    // Nobody serves there.
    env: { ...process.env, LETHE_RUN_ADDRESS: '127.0.0.1:1', LETHE_TOKEN: 'e30.e30.e30' },
    stdio: ['pipe', 'ignore', 'pipe'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  let errors = '';
  child.stderr.on('data', (text) => {
    errors += text;
  });
  child.stdin.write(`${JSON.stringify({ workflow: 'w', status: 'success' })}\n`);
  const [code] = await once(child, 'exit');
  t.is(code, 1);
  t.regex(errors, /UNAVAILABLE/);
});
