import { execFileSync } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import pg from 'pg';
import { freePort } from './free-port.ts';
import { passableByOthers, startPostgresServer } from './postgres-server.ts';

const query = async (url: string, sql: string): Promise<unknown[]> => {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
};

test('what was committed is there after a stop, and after the death of the supervisor', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-postgres-'));
  await chmod(folder, 0o755);
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const options = { folder, port: await freePort(), password: "o'neil @/:" };
  const first = await startPostgresServer(options);
  await query(first.url, 'create table kept as select 1 as one');
  await first.stop();
  t.throws(() => process.kill(first.pid, 0), { message: /ESRCH/ });

  // A supervisor that dies leaves its server running; the next start takes the folder back from it.
  await startPostgresServer(options);
  const third = await startPostgresServer({ ...options, port: await freePort() });
  t.teardown(() => third.stop());
  t.deepEqual(await query(third.url, 'select one from kept'), [{ one: 1 }]);
});

test('a folder is passable only if all its parents are', async (t) => {
  const closed = await mkdtemp(join(tmpdir(), 'lethe-test-closed-'));
  t.teardown(() => rm(closed, { recursive: true, force: true }));
  t.false(await passableByOthers(join(closed, 'not/there/yet')));
  await chmod(closed, 0o755);
  execFileSync('mkdir', ['-m', '755', '-p', join(closed, 'inner')]);
  t.true(await passableByOthers(join(closed, 'inner')));
});
