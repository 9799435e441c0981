import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chown, open, readFile, writeFile } from 'node:fs/promises';
import { basename, join, sep } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { endWithMe, makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { freePort } from '#deploy/local/free-port.ts';
import { answers, serverIdentity } from '#deploy/local/postgres-server.ts';
import type { Pooler } from '#deploy/local/stack.ts';
import { hasProgram } from './require.ts';

const run = promisify(execFile);
const README = new URL('../../deploy/README.md', import.meta.url);
const COMPONENT_TESTS = fileURLToPath(new URL('../component/', import.meta.url));
const OLDEST = [1, 21] as const;
const START_DEADLINE_MS = 30_000;
const FIRST_SESSION_MS = 5_000;

/** The files of test/component whose services reach their databases without a pooler, and why. */
export const DIRECT: Readonly<Record<string, string>> = {
  'cli-owner': 'the owner in a box finds its schema by the search path of its connections',
  'database-faults': 'it ends, freezes and delays the connections themselves, and has other timeouts',
  'executions-seed': 'its sessions are an operator’s in psql, who names the tenant once for all of a session',
  'incident-large-payloads': 'its service has another statement timeout',
  'job-bad-input': "it reads in PostgreSQL's log what JobService sends, among which are a pooler's own statements",
  'service-start': "it reads PostgreSQL's own words about a password and a database",
};

/** Whether a pgbouncer is there that knows named statements in transaction mode. */
export async function hasPooler(): Promise<boolean> {
  if (!hasProgram('pgbouncer')) return false;
  const { stdout } = await run('pgbouncer', ['--version']);
  const [major = 0, minor = 0] = (/\d+\.\d+/.exec(stdout)?.[0] ?? '').split('.').map(Number);
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

/**
 * How the test file that is being run has a pooler started: those of test/component have one where it is found, unless
 * they are in DIRECT, and the others reach PostgreSQL directly, so that both ways are always tried.
 */
export async function poolerOfThisFile(): Promise<typeof startPooler | undefined> {
  // Outside of a test run, as under a benchmark, AVA ends the process that imports it. Its workers are forked.
  if (process.send === undefined) return undefined;
  const { default: test } = await import('ava');
  const file = fileURLToPath(test.meta.file);
  if (!file.startsWith(COMPONENT_TESTS) || file.slice(COMPONENT_TESTS.length).includes(sep)) return undefined;
  if (Object.hasOwn(DIRECT, basename(file, '.test.ts'))) return undefined;
  return (await hasPooler()) ? startPooler : undefined;
}

/** Starts pgbouncer with the settings of deploy/README.md before a server, on a free port. */
export async function startPooler(superuserUrl: string): Promise<Pooler> {
  const server = new URL(superuserUrl);
  const { path: folder, remove } = await makeTemporaryFolder('lethe-test-pooler-');
  const port = await freePort();
  const { uid, gid } = await serverIdentity();
  const file = join(folder, 'pgbouncer.ini');
  const logFile = join(folder, 'pgbouncer.log');
  await writeFile(join(folder, 'users'), `"${server.username}" "${decodeURIComponent(server.password)}"\n`);
  await writeFile(
    file,
    toConfiguration({
      server,
      folder,
      port,
      user: uid === undefined ? undefined : 'postgres',
      advised: await advisedSettings(),
    }),
  );
  if (uid !== undefined && gid !== undefined) await chown(folder, uid, gid);

  const log = await open(logFile, 'a');
  const child = spawn('pgbouncer', [file], {
    cwd: folder,
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
  });
  endWithMe(child, 'KILL');
  const exited = once(child, 'exit');
  await log.close();
  child.unref();
  const urlOf = (databaseUrl: string): string => {
    const url = new URL(databaseUrl);
    url.port = String(port);
    return url.toString();
  };
  const stop = async (): Promise<void> => {
    child.ref();
    // It would wait for its clients after any other signal.
    child.kill('SIGQUIT');
    await exited;
    await remove();
  };
  for (const deadline = performance.now() + START_DEADLINE_MS; !(await answers(urlOf(superuserUrl))); await delay(10)) {
    if (child.exitCode === null && performance.now() < deadline) continue;
    const text = await readFile(logFile, 'utf8');
    await stop();
    throw new Error(`pgbouncer did not start: ${text.slice(-1_000)}`);
  }
  return { urlOf, stop };
}

/** Waits for a role's first session, for which a pooler looks the password up. */
export async function waitForFirstSession(url: string): Promise<void> {
  for (
    const deadline = performance.now() + START_DEADLINE_MS;
    !(await answers(url, FIRST_SESSION_MS));
    await delay(10)
  ) {
    if (performance.now() > deadline) throw new Error('the pooler did not open a session');
  }
}

/** The block of deploy/README.md that says how pgbouncer must be set. */
async function advisedSettings(): Promise<string> {
  const block = /```ini\n\[pgbouncer\]\n(.*?)```/s.exec(await readFile(README, 'utf8'))?.[1];
  if (block === undefined) throw new Error('deploy/README.md has no settings of pgbouncer');
  return block;
}

/** It asks the server for the passwords, so that a test may make a role at any time. */
const toConfiguration = (at: {
  readonly server: URL;
  readonly folder: string;
  readonly port: number;
  /** Whom it becomes, since it refuses to be root. */
  readonly user: string | undefined;
  readonly advised: string;
}): string => `
[databases]
* = host=${at.server.hostname} port=${at.server.port}

[pgbouncer]
${at.advised}
listen_addr = 127.0.0.1
listen_port = ${at.port}
unix_socket_dir =
${at.user === undefined ? '' : `user = ${at.user}`}
auth_type = scram-sha-256
auth_file = ${join(at.folder, 'users')}
auth_user = ${at.server.username}
auth_dbname = postgres
auth_query = select usename, passwd from pg_shadow where usename = $1
`;
