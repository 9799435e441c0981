import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { endConnection, guardConnection } from './guard-connection.ts';
import type { Database } from './open-database.ts';
import { type DatabaseFault, faultOf } from './sql-errors.ts';

/** What is watched, and how closely. */
export interface WatchOptions {
  /** The pool's URL. */
  readonly url: string;
  /** Shown in pg_stat_activity. */
  readonly applicationName: string;
  /** The pool. */
  readonly database: Pick<Database, 'onFault' | 'setFault'>;
  /** Called when a fault begins, changes or ends, with the error that showed it. */
  readonly onChange: (fault: DatabaseFault | undefined, error?: unknown) => void;
}

/** What is known of the database without asking it. */
export interface DatabaseWatch {
  /** What keeps the database from serving; undefined while it serves. */
  fault(): DatabaseFault | undefined;
  stop(): Promise<void>;
}

const EVERY_MS = 2_000;
const EVERY_MS_IN_FAULT = 300;
// Long enough for a busy machine, and short enough for callers to be told before their usual deadline of 10 s.
const SILENCE_MS = 4_000;
const SILENCE_MS_IN_FAULT = 1_500;
// A look does not show these; they count until no statement has met them for a while.
const MET_BY_STATEMENTS: ReadonlySet<DatabaseFault> = new Set(['DISK_FULL', 'OUT_OF_RESOURCES']);
const MET_FOR_MS = 2_000;

/**
 * Watches a database on a connection of its own, so that a fault is known without a call and although the pool is
 * exhausted. Looks every two seconds, and more often during a fault. When the pool meets a fault, the watch looks at
 * once on a new session; one terminated backend is no fault of the database. The pool is told what was found.
 */
export function watchDatabase({ url, applicationName, database, onChange }: WatchOptions): DatabaseWatch {
  const stopping = new AbortController();
  const met = new Map<DatabaseFault, number>();
  let suspected = new Set<DatabaseFault>();
  let fault: DatabaseFault | undefined;
  let wake = new AbortController();
  let session: pg.Client | undefined;

  database.onFault((seen) => {
    if (MET_BY_STATEMENTS.has(seen)) met.set(seen, performance.now());
    suspected.add(seen);
    wake.abort();
  });

  const open = async (): Promise<pg.Client> => {
    const silenceMs = fault ? SILENCE_MS_IN_FAULT : SILENCE_MS;
    const client = new pg.Client({
      connectionString: url,
      application_name: applicationName,
      connectionTimeoutMillis: silenceMs,
      statement_timeout: silenceMs,
      keepAlive: true,
    });
    client.on('error', () => undefined);
    await client.connect();
    guardConnection(client, { silenceMs, onFault: () => undefined });
    return client;
  };
  const close = async (): Promise<void> => {
    const last = session;
    session = undefined;
    if (last) await endConnection(last).catch(() => undefined);
  };
  const look = async (): Promise<{ readonly fault?: DatabaseFault; readonly error?: unknown }> => {
    try {
      session ??= await open();
      const { rows } = await session.query("select current_setting('transaction_read_only') as read_only");
      return rows[0]?.read_only === 'on' ? { fault: 'READ_ONLY' } : {};
    } catch (error) {
      return { fault: faultOf(error) ?? 'CONNECTION_LOST', error };
    }
  };
  const metLately = (): DatabaseFault | undefined => {
    for (const [seen, at] of met) {
      if (performance.now() - at < MET_FOR_MS) return seen;
      met.delete(seen);
    }
    return undefined;
  };

  const watch = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      wake = new AbortController();
      const causes = suspected;
      suspected = new Set();
      // An old session may differ from what a new one would be.
      if (fault || causes.size > 0) await close();
      const seen = await look();
      if (stopping.signal.aborted) break;
      const now = seen.fault ?? metLately();
      if (now !== fault || causes.has('READ_ONLY')) database.setFault(now);
      if (now !== fault) {
        fault = now;
        onChange(fault, seen.error);
      }
      // During a fault every call would wake it.
      const signal = fault ? stopping.signal : AbortSignal.any([wake.signal, stopping.signal]);
      await delay(fault ? EVERY_MS_IN_FAULT : EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
    await close();
  };
  const watching = watch();
  return {
    fault: () => fault,
    async stop() {
      stopping.abort();
      await watching;
    },
  };
}
