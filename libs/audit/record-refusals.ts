import { setTimeout as delay } from 'node:timers/promises';
import type { Refusal } from '#libs/grpc/connect-handlers.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import type { Logger } from '#libs/telemetry/logger.ts';
import type { Metrics } from '#libs/telemetry/metrics.ts';
import { type AuditEntry, auditOnce } from './write-audit.ts';

/** Where refusals go. */
export interface RefusalRecorderOptions {
  readonly database: Database;
  readonly log: Logger;
  readonly metrics: Pick<Metrics, 'callRefused'>;
  /** For how long repetitions are only counted, in milliseconds; a minute by default. */
  readonly windowMs?: number;
  /** False where the database has no `installation_audit`: refusals that belong to no tenant are then only logged. */
  readonly hasInstallationAudit?: boolean;
}

/** Writes down who was refused. */
export interface RefusalRecorder {
  /** Takes a refusal and returns at once: it is logged now and written to the audit in the background. */
  record(refusal: Refusal): void;
  /** Writes what is still waiting, the counts of the current window included; gives up after five seconds. */
  stop(): Promise<void>;
}

/** What is written of a refusal; without tenantId it belongs to the installation. */
type Entry = Omit<AuditEntry, 'tenantId' | 'requestId' | 'reason'> & { readonly tenantId: string | undefined };

/** An entry that is not known to be written. */
interface Waiting {
  readonly id: string;
  readonly entry: Entry;
  /** What the database said that its time is, in a transaction whose commit was not answered. */
  at: Temporal.Instant | undefined;
}

/** The refusals of one caller in the current window. */
interface Refused {
  readonly caller: Pick<Entry, 'tenantId' | 'actor' | 'subject' | 'trustEntry'>;
  /** By RPC and reason: how often again, after the first one, which has been written. */
  readonly repetitions: Map<string, { readonly rpc: string; readonly reason: string; count: number }>;
  /** Refusals beyond KINDS_PER_CALLER. */
  others: number;
}

const WINDOW_MS = 60_000;
const KINDS_PER_CALLER = 10;
const CALLERS_PER_TENANT = 100;
const MAX_WAITING = 10_000;
const ROWS_PER_TRANSACTION = 100;
const RETRY_MS = 1_000;
const STOP_MS = 5_000;
const RETRY_WHILE_STOPPING_MS = 100;
const SEVERAL = '*';
const MISSING = 'a refusal is missing from the audit';

/**
 * Makes the recorder. However many calls are refused, a caller gets at most 21 entries a window and key: the first refusal for
 * each of ten pairs of RPC and reason, one with the count of repetitions for each of these pairs, and one with the count
 * of all others. A tenant has entries for 100 callers a window; what further callers are refused is counted under the
 * actor `*`. The bound is that of one process. A key that signed what its entry of the trust file does not allow is in the
 * installation's audit as `key:` and the entry's name. Any other credential that was not believed names nobody: its
 * refusals are logged and counted, and not written to the audit. Entries wait while the database is away; what it refuses to
 * hold is logged as missing, and the others are written.
 */
export function makeRefusalRecorder(options: RefusalRecorderOptions): RefusalRecorder {
  const { database, log, metrics, windowMs = WINDOW_MS, hasInstallationAudit = true } = options;
  let tenants = new Map<string | undefined, Map<string, Refused>>();
  let unbelieved = new Map<string, { readonly rpc: string; readonly reason: string; count: number }>();
  let timer: NodeJS.Timeout | undefined;
  let isStopping = false;
  let isGivenUp = false;
  const waiting: Waiting[] = [];
  let writing: Promise<void> | undefined;

  const write = (entry: Entry, seen: Partial<Pick<Refusal, 'peer'>> = {}): void => {
    const { tenantId, actor, subject, trustEntry, targetId: rpc, outcome, counts } = entry;
    log.warn(
      { audit: true, action: 'call', tenantId, actor, subject, trustEntry, rpc, outcome, ...seen, ...counts },
      'call refused',
    );
    if (tenantId === undefined && !hasInstallationAudit) return;
    if (waiting.length >= MAX_WAITING) return void log.error({ tenantId, rpc }, MISSING);
    waiting.push({ id: newId(), entry, at: undefined });
    writing ??= writeAll();
  };

  const writeAll = async (): Promise<void> => {
    // Refusals that arrive together share a transaction.
    await delay(0);
    while (waiting.length > 0) {
      const { tenantId } = (waiting[0] as Waiting).entry;
      const batch = waiting.filter(({ entry }) => entry.tenantId === tenantId).slice(0, ROWS_PER_TRANSACTION);
      try {
        if (!(await writeBatch(tenantId, batch))) for (const one of batch) await writeOne(tenantId, one);
      } catch (error) {
        log.error({ err: error, waiting: waiting.length }, 'refusals could not be written to the audit yet');
        if (isGivenUp) break;
        await delay(isStopping ? RETRY_WHILE_STOPPING_MS : RETRY_MS, undefined, { ref: false });
      }
    }
    writing = undefined;
  };

  /** False where one of the entries can never be written, and so none of them was; throws while the database is away. */
  const writeBatch = async (tenantId: string | undefined, batch: readonly Waiting[]): Promise<boolean> => {
    try {
      await writeEntries(database, tenantId, batch);
    } catch (error) {
      if (isPassing(error)) throw error;
      return false;
    }
    forget(batch);
    return true;
  };

  const writeOne = async (tenantId: string | undefined, one: Waiting): Promise<void> => {
    try {
      await writeEntries(database, tenantId, [one]);
    } catch (error) {
      if (isPassing(error)) throw error;
      log.error({ err: error, tenantId, rpc: one.entry.targetId }, MISSING);
    }
    forget([one]);
  };

  const forget = (done: readonly Waiting[]): void => {
    const these = new Set(done);
    waiting.splice(0, waiting.length, ...waiting.filter((one) => !these.has(one)));
  };

  const refusedOf = ({ tenantId, ...credential }: Refused['caller']): Refused => {
    const callers = tenants.get(tenantId) ?? new Map<string, Refused>();
    tenants.set(tenantId, callers);
    const isFull = callers.size >= CALLERS_PER_TENANT;
    const key = JSON.stringify([credential.actor, credential.subject, credential.trustEntry]);
    const known = callers.get(key) ?? (isFull ? callers.get(SEVERAL) : undefined);
    if (known) return known;
    const caller = isFull ? { tenantId, actor: SEVERAL, subject: SEVERAL } : { tenantId, ...credential };
    const refused: Refused = { caller, repetitions: new Map(), others: 0 };
    callers.set(isFull ? SEVERAL : key, refused);
    return refused;
  };

  const closeWindow = (): void => {
    clearTimeout(timer);
    timer = undefined;
    for (const { rpc, reason, count } of unbelieved.values()) {
      if (count > 0) log.warn({ rpc, reason, refusals: count }, 'credentials not believed');
    }
    for (const { caller, repetitions, others } of [...tenants.values()].flatMap((callers) => [...callers.values()])) {
      for (const { rpc, reason, count } of repetitions.values()) {
        if (count > 0) write({ ...refusalOf(rpc, reason), ...caller, counts: { refusals: count } });
      }
      if (others > 0) write({ ...refusalOf(SEVERAL, 'REFUSED'), ...caller, counts: { refusals: others } });
    }
    tenants = new Map();
    unbelieved = new Map();
  };

  return {
    record({ rpc, caller: believed, trustEntry, reason, peer }) {
      metrics.callRefused(reason);
      timer ??= setTimeout(closeWindow, windowMs).unref();
      const kind = `${rpc} ${reason}`;
      const caller = believed ?? (trustEntry === undefined ? undefined : keyAsCaller(trustEntry));
      if (caller === undefined) {
        const known = unbelieved.get(kind);
        if (known) known.count += 1;
        else {
          unbelieved.set(kind, { rpc, reason, count: 0 });
          log.warn({ rpc, reason, peer }, 'credential not believed');
        }
        return;
      }
      const { tenantId, actor, subject } = caller;
      const credential = { tenantId, actor, subject, trustEntry: trustEntry ?? caller.trustEntry };
      const refused = refusedOf(credential);
      const repeated = refused.repetitions.get(kind);
      if (repeated) repeated.count += 1;
      else if (refused.repetitions.size >= KINDS_PER_CALLER || refused.caller.actor === SEVERAL) refused.others += 1;
      else {
        refused.repetitions.set(kind, { rpc, reason, count: 0 });
        write({ ...refusalOf(rpc, reason), ...credential }, { peer });
      }
    },
    async stop() {
      isStopping = true;
      closeWindow();
      await Promise.race([writing, delay(STOP_MS, undefined, { ref: false })]);
      isGivenUp = true;
    },
  };
}

/** A key that signed what it may not: what its token says of a person or a tenant is not believed. */
const keyAsCaller = (trustEntry: string): Refused['caller'] => {
  const name = `key:${trustEntry}`;
  return { tenantId: undefined, actor: name, subject: name, trustEntry };
};

const refusalOf = (rpc: string, reason: string) => ({
  action: 'call',
  targetType: 'rpc',
  targetId: rpc,
  outcome: reason,
});

/** Whether an error says of the database, and not of what was written, that it did not go: then it may go later. */
const isPassing = (error: unknown): boolean => error instanceof DomainError;

async function writeEntries(
  database: Database,
  tenantId: string | undefined,
  batch: readonly Waiting[],
): Promise<void> {
  const write = async (trx: TenantTransaction): Promise<void> => {
    const times = await auditOnce(
      trx,
      tenantId,
      batch.map(({ id, entry, at }) => ({ ...entry, id, at })),
    );
    // Before the commit, whose answer may be lost.
    for (const one of batch) one.at = times.get(one.id) ?? one.at;
  };
  await (tenantId === undefined ? database.forInstallation(write) : database.forTenant(tenantId, write));
}
