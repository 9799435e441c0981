import { setTimeout as delay } from 'node:timers/promises';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from '@prometheus-io/client';
import { hostAndPort } from '#libs/kernel/settings.ts';

// An import would read every export of it, one of which loads the whole of fetch: a tenth of a second of each start.
const { createServer } = process.getBuiltinModule('node:http');

/** The figures that are read when they are asked for, each with what it tells. */
const FIGURES = {
  lethe_oldest_unfinished_bulk_deletion_seconds: 'Age of the oldest bulk deletion that has not ended.',
  lethe_bulk_deletion_items_left: 'Items of bulk deletions that have not ended; a million at most.',
  lethe_oldest_unfinished_deletion_seconds: 'Age of the oldest deletion that is neither complete nor cancelled.',
  lethe_oldest_unfinished_upload_seconds: 'Age of the oldest upload that is neither stored nor removed.',
  lethe_stuck_deletions: 'Deletions that wait for a person to redrive them.',
  lethe_oldest_unfinished_run_seconds: 'Age of the oldest run that Lethe is doing or undoing.',
  lethe_oldest_unfinished_compensation_seconds: 'For how long the oldest compensation has been under way.',
  lethe_oldest_unfinished_purge_seconds:
    'Age of the oldest retention purge that has not ended for a tenant; held ones and dry runs do not count.',
  lethe_parked_runs: 'Runs whose compensation waits for a person to retry it.',
  lethe_last_purge_timestamp_seconds: 'When the last retention purge ended; of the schema while there was none.',
  lethe_held_purges: 'Tenants whose purge waits for a person to approve it.',
  lethe_purges_stopped: '1 while purges by age are stopped, else 0.',
  lethe_unplanned_tenants:
    'Tenants that have data and neither a plan nor a policy, so that nothing of theirs is purged.',
  lethe_orphaned_objects: 'Versions, markers and uploads without a row in the last report.',
  lethe_jobs_without_objects: 'Jobs whose objects the last report missed.',
  lethe_orphan_report_failed_tenants: 'Tenants that the last report could not look at.',
  lethe_orphan_report_age_seconds: 'Age of the last report of orphaned objects.',
} as const;

/** The name of a figure that is read when it is asked for. */
export type Figure = keyof typeof FIGURES;

/** What the last report of orphaned objects found, and how old it is. */
export interface OrphanFigures {
  readonly orphans: number;
  readonly jobsWithoutObjects: number;
  readonly failedTenants: number;
  readonly ageSeconds: number;
}

/** The figures of one service process. */
export interface Metrics {
  readonly registry: Registry;
  /** Seconds of finished RPCs, by RPC and status code number. */
  rpcFinished(rpc: string, code: number, durationMs: number): void;
  /** One more call was refused because of who made it, by the reason told to the caller. */
  callRefused(reason: string): void;
  /** One more deletion, undelete, purge or refusal came to its end. */
  deletionFinished(kind: string, outcome: string): void;
  /** Shows these outcomes as 0 until there is one: Prometheus sees no increase in a count that begins with 1. */
  expectDeletions(kind: string, outcomes: readonly string[]): void;
  /** So many more items of bulk deletions came to their end. */
  bulkItemsEnded(outcome: string, count: number): void;
  /** A part that the service stands on, such as its object store, is well or is not. */
  partChanged(part: string, isWell: boolean): void;
  /**
   * Shows the figure as `read` tells it each time it is asked for; no figure where `read` fails or takes longer than two
   * seconds. An age is 0 where there is nothing that has one.
   */
  observe(figure: Figure, read: () => Promise<number>): void;
  /** Tells when asked what the last report of orphaned objects found, and how old it is; NaN while there is none. */
  observeOrphans(last: () => Promise<OrphanFigures | undefined>): void;
  /** Tells when asked for how many seconds expired rows may have been waiting, by subject; 0 where none do. */
  observeOverdue(seconds: () => Promise<ReadonlyMap<string, number>>): void;
}

/** Makes the figures of a service, all labelled with its name. */
export function makeMetrics(service: string): Metrics {
  const registry = new Registry();
  registry.setDefaultLabels({ service });
  collectDefaultMetrics({ register: registry });
  const rpcs = new Histogram({
    name: 'lethe_rpc_duration_seconds',
    help: 'Duration of RPCs by method and gRPC status code.',
    labelNames: ['rpc', 'code'],
    buckets: [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10],
    registers: [registry],
  });
  const deletions = new Counter({
    name: 'lethe_deletions_total',
    help: 'Deletions, undeletes, purges and refusals by kind and outcome.',
    labelNames: ['kind', 'outcome'],
    registers: [registry],
  });
  const bulkItems = new Counter({
    name: 'lethe_bulk_deletion_items_total',
    help: 'Items of bulk deletions that have ended, by outcome.',
    labelNames: ['outcome'],
    registers: [registry],
  });
  const refusals = new Counter({
    name: 'lethe_refused_calls_total',
    help: 'Calls refused because of who made them, by reason.',
    labelNames: ['reason'],
    registers: [registry],
  });
  const parts = new Gauge({
    name: 'lethe_part_up',
    help: '1 while a part that the service stands on is well, else 0.',
    labelNames: ['part'],
    registers: [registry],
  });
  const observe: Metrics['observe'] = (figure, read) => {
    new Gauge({
      name: figure,
      help: FIGURES[figure],
      registers: [registry],
      async collect() {
        const value = await told(read);
        if (value === undefined) this.remove();
        else this.set(value);
      },
    });
  };
  return {
    registry,
    rpcFinished: (rpc, code, durationMs) => rpcs.observe({ rpc, code: String(code) }, durationMs / 1_000),
    callRefused: (reason) => refusals.inc({ reason }),
    deletionFinished: (kind, outcome) => deletions.inc({ kind, outcome }),
    partChanged: (part, isWell) => parts.set({ part }, isWell ? 1 : 0),
    expectDeletions(kind, outcomes) {
      for (const outcome of outcomes) deletions.inc({ kind, outcome }, 0);
    },
    bulkItemsEnded: (outcome, count) => bulkItems.inc({ outcome }, count),
    observe,
    observeOrphans(last) {
      // NaN is what there is to tell while there is no report.
      const part = (name: keyof OrphanFigures) => async () => (await last())?.[name] ?? Number.NaN;
      observe('lethe_orphaned_objects', part('orphans'));
      observe('lethe_jobs_without_objects', part('jobsWithoutObjects'));
      observe('lethe_orphan_report_failed_tenants', part('failedTenants'));
      observe('lethe_orphan_report_age_seconds', part('ageSeconds'));
    },
    observeOverdue(seconds) {
      new Gauge({
        name: 'lethe_retention_overdue_seconds',
        help: 'For how long expired rows may have been waiting to be purged, by subject.',
        labelNames: ['subject'],
        registers: [registry],
        async collect() {
          this.reset();
          for (const [subject, age] of (await told(seconds)) ?? []) this.set({ subject }, age);
        },
      });
    },
  };
}

const PATIENCE_MS = 2_000;

/**
 * What a read answers within two seconds; undefined where it fails or takes longer. A figure of the database must not
 * take with it those that tell that the database is away.
 */
async function told<T>(read: () => Promise<T>): Promise<T | undefined> {
  const over = new AbortController();
  const patience = delay(PATIENCE_MS, undefined, { signal: over.signal, ref: false });
  try {
    return await Promise.race([read(), patience]);
  } catch {
    return undefined;
  } finally {
    over.abort();
    patience.catch(() => undefined);
  }
}

/** What `/ready` tells. */
export interface Readiness {
  isReady(): boolean;
  /** The body, line by line. Must not fail, and not take longer than about a second. */
  lines(): Promise<readonly string[]>;
}

/**
 * Serves `/metrics` for Prometheus, `/live`, which is 200 while the process runs, and `/ready`, which is 200 while it is
 * ready and 503 otherwise. Returns a function that stops it.
 */
export async function startMetricsServer(
  address: string,
  { registry }: Metrics,
  { isReady, lines }: Readiness,
): Promise<() => Promise<void>> {
  const { host, port } = hostAndPort(address);
  let reading: Promise<readonly string[]> | undefined;
  // However often it is asked, the lines are read once at a time.
  const sharedLines = (): Promise<readonly string[]> => {
    reading ??= lines().finally(() => {
      reading = undefined;
    });
    return reading;
  };
  const server = createServer((request, response) => {
    if (request.url === '/live') return void response.writeHead(200).end();
    if (request.url === '/ready') {
      sharedLines().then((text) => {
        response.writeHead(isReady() ? 200 : 503, { 'content-type': 'text/plain' });
        response.end(text.map((line) => `${line}\n`).join(''));
      });
      return;
    }
    if (request.url !== '/metrics') return void response.writeHead(404).end();
    registry.metrics().then(
      (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
      () => response.writeHead(503).end(),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve);
  });
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
}
