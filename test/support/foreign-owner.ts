import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { endWithMe, makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { freePort } from '#deploy/local/free-port.ts';

/** A message in the foreign owner's store; null: not sent yet. */
export interface Message {
  readonly sentAt: Temporal.Instant | null;
  readonly id: string;
  readonly attachments?: number;
}

/** The retention owner in Python: a process and a store that share no code with Lethe. */
export interface ForeignOwner {
  readonly address: string;
  readonly store: ForeignStore;
  /**
   * Kills the process right after it has committed its next batch, and starts it again some time later, on the same port
   * and store. Answers with whether it was killed.
   */
  killAfterNextBatch(): () => Promise<boolean>;
  /** Leaves neither process nor files behind. */
  stop(): Promise<void>;
}

/** The store by hand-written SQL, for seeding and for evidence. */
export interface ForeignStore {
  insert(tenantId: string, messages: readonly Message[]): void;
  /** The instants of a tenant's messages; null for those without one. */
  instants(tenantId: string): (Temporal.Instant | null)[];
  attachments(tenantId: string): number;
  /** How many messages all operations together have removed. */
  removed(): number;
  /** As if another data set were behind the owner. */
  renewDataId(): void;
}

const DOWN_MS = 2_000;

const FOLDER = fileURLToPath(new URL('foreign-owner/', import.meta.url));
const PROTO = fileURLToPath(new URL('../../proto/', import.meta.url));
const PROTOS = ['google/rpc/status', 'google/rpc/error_details', 'lethe/deletion/v1/deletion'];
const OWNER_PROTOS = ['lethe/owner/v1/owner', 'lethe/owner/v1/owner_service'];

/** What the foreign owner needs: Python with these packages. */
export const FOREIGN_OWNER_NEEDS = 'python3 with grpcio, grpcio-tools, pyjwt and cryptography';

/** Whether FOREIGN_OWNER_NEEDS is there. */
export const hasForeignOwner = (): boolean =>
  spawnSync('python3', ['-c', 'import grpc, grpc_tools, jwt, cryptography']).status === 0;

/** Generates the stubs, starts the process on a free port and waits until it serves. */
export async function startForeignOwner({ jwks, name }: { jwks: string; name: string }): Promise<ForeignOwner> {
  const { path: folder, remove } = await makeTemporaryFolder('lethe-foreign-owner-');
  const file = join(folder, 'mail.sqlite');
  let child: ChildProcess | undefined;

  const start = async (address: string): Promise<string> => {
    const args = ['--address', address, '--store', file, '--jwks', jwks, '--name', name];
    const started = spawn('python3', ['-B', join(FOLDER, 'owner.py'), ...args], {
      env: { ...process.env, PYTHONPATH: folder },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    endWithMe(started, 'KILL');
    child = started;
    for await (const line of createInterface(started.stdout)) {
      const [, port] = /on port (\d+)$/.exec(line) ?? [];
      if (port !== undefined) return `127.0.0.1:${port}`;
    }
    throw new Error('the foreign owner ended before it served');
  };
  const end = async (signal: 'SIGTERM' | 'SIGKILL'): Promise<void> => {
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  };

  try {
    const out = [`--python_out=${folder}`, `--grpc_python_out=${folder}`];
    const files = [...PROTOS, ...OWNER_PROTOS].map((proto) => `${proto}.proto`);
    await promisify(execFile)('python3', ['-m', 'grpc_tools.protoc', '-I', PROTO, ...out, ...files]);
    const address = await start(`127.0.0.1:${await freePort()}`);
    const store = openStore(file);
    let restarting = Promise.resolve();
    return {
      address,
      store,
      killAfterNextBatch() {
        const before = store.removed();
        let isKilled = false;
        restarting = (async () => {
          while (store.removed() === before) await delay(1);
          await end('SIGKILL');
          isKilled = true;
          // For so long that a caller's own retries are over.
          await delay(DOWN_MS);
          await start(address);
        })();
        return async () => isKilled;
      },
      async stop() {
        await restarting;
        await end('SIGTERM');
        await remove();
      },
    };
  } catch (error) {
    await end('SIGKILL');
    await remove();
    throw error;
  }
}

const toInstant = (micros: string): Temporal.Instant => Temporal.Instant.fromEpochNanoseconds(BigInt(micros) * 1_000n);
const toMicros = (instant: Temporal.Instant): bigint => instant.epochNanoseconds / 1_000n;

function openStore(file: string): ForeignStore {
  const withDatabase = <T>(work: (database: DatabaseSync) => T): T => {
    const database = new DatabaseSync(file, { timeout: 10_000 });
    try {
      return work(database);
    } finally {
      database.close();
    }
  };
  return {
    insert(tenantId, messages) {
      withDatabase((database) => {
        const message = database.prepare('insert into messages (tenant, sent_at, id) values (?, ?, ?)');
        const attachment = database.prepare('insert into attachments (tenant, message_id, name) values (?, ?, ?)');
        database.exec('begin immediate');
        for (const { sentAt, id, attachments = 0 } of messages) {
          message.run(tenantId, sentAt && toMicros(sentAt), id);
          for (let n = 0; n < attachments; n += 1) attachment.run(tenantId, id, `${n}.pdf`);
        }
        database.exec('commit');
      });
    },
    instants: (tenantId) =>
      withDatabase((database) => {
        // As texts: a number has not digits enough.
        const statement = database.prepare('select cast(sent_at as text) as at from messages where tenant = ?');
        return statement.all(tenantId).map(({ at }) => (at === null ? null : toInstant(String(at))));
      }),
    removed: () =>
      withDatabase((database) =>
        Number(database.prepare('select coalesce(sum(messages), 0) as n from retention_operations').get()?.['n']),
      ),
    attachments: (tenantId) =>
      withDatabase((database) =>
        Number(database.prepare('select count(*) as n from attachments where tenant = ?').get(tenantId)?.['n']),
      ),
    renewDataId() {
      withDatabase((database) => database.prepare('update retention_data set data_id = ?').run(crypto.randomUUID()));
    },
  };
}
