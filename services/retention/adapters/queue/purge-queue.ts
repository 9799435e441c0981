import { parseCronItem, Logger as QueueLogger, run, type TaskList } from 'graphile-worker';
import pg from 'pg';
import { newId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { WorkerLoop } from '#libs/saga/worker-loop.ts';
import type { Logger } from '#libs/telemetry/logger.ts';
import { nextMatch } from '../../domain/schedule.ts';
import type { RunPurges, SettlePurge } from '../../use-cases/run-purges.ts';
import type { SweepTenants } from '../../use-cases/sweep-tenants.ts';

/** What the queue carries, and how many at a time. */
export interface PurgeQueueOptions {
  readonly database: Database;
  /** As the app role; not through a pooler that parts sessions, since the queue listens. */
  readonly databaseUrl: string;
  readonly concurrency: number;
  /** How often to look for what has become due, in milliseconds; what is due at once is told at once. */
  readonly pollMs: number;
  readonly runPurge: RunPurges;
  readonly settlePurge: SettlePurge;
  /** Whether purges are stopped: what waits for that gets no job. */
  readonly isStopped: () => Promise<boolean>;
  readonly requeue: () => Promise<void>;
  readonly sweepTenants: SweepTenants;
  /** Forgets what is older than receipts are kept, some at a time. */
  readonly expire: () => Promise<void>;
  /** Orders the purge of every tenant; undefined when others do, as Kubernetes' CronJob. */
  readonly schedule: { readonly pattern: string; readonly order: (requestId: string) => Promise<void> } | undefined;
  readonly log: Logger;
}

const EVERY_MINUTE = '* * * * *';
const EVERY_HOUR = '17 * * * *';

/** An Error saying so unless the text is a cron pattern of five fields that comes to pass. */
export function parseCronPattern(text: string): string {
  try {
    if (text.trim().split(/\s+/).length === 5 && nextOf(text, Temporal.Instant.from('2000-01-01T00:00Z'))) return text;
  } catch {
    // Told below, in our own words.
  }
  throw new Error('must be a cron pattern of five fields, such as 0 3 * * *');
}

const nextOf = (pattern: string, now: Temporal.Instant): Temporal.Instant | undefined =>
  nextMatch(now, parseCronItem({ task: 'schedule', match: pattern }).match);

/**
 * Starts a worker of the queue: it takes up tenants to purge, and keeps the schedules. The schedules are jobs as well,
 * due by the database's clock and one at a time for all replicas, so that a replica whose clock is wrong changes
 * nothing.
 */
export function startPurgeQueue(options: PurgeQueueOptions): Pick<WorkerLoop, 'stop'> {
  const { database, databaseUrl, concurrency, pollMs, runPurge, settlePurge, schedule, log } = options;
  const { isStopped, sweepTenants, expire } = options;
  const stopping = new AbortController();
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: concurrency + 2,
    application_name: 'lethe-retention-queue',
  });
  pool.on('error', (error) => log.warn({ err: error }, 'the queue lost a connection'));
  pool.on('connect', (client) => client.on('error', () => undefined));

  const requeue = async (): Promise<void> => {
    if (!(await isStopped())) await options.requeue();
  };
  const plan = async (task: string, pattern: string): Promise<void> => {
    const [row] = await database.acrossTenants<{ now: Temporal.Instant }>({
      text: 'select clock_timestamp() as now',
      values: [],
    });
    const at = row && nextOf(pattern, row.now);
    if (!at) return;
    // The id makes a job that is repeated after a crash order the same purge again.
    await database.acrossTenants({
      text: `select graphile_worker.add_job($1, payload => $2::json, run_at => $3::timestamptz, job_key => $1,
                                            job_key_mode => $4)`,
      values: [task, JSON.stringify({ pattern, requestId: newId() }), at.toString(), 'replace'],
    });
  };

  const tasks: TaskList = {
    async 'purge-tenant'(payload) {
      const { tenantId, purgeId } = payload as { tenantId: string; purgeId: string };
      await runPurge(tenantId, purgeId, stopping.signal);
    },
    // What it throws has the queue try again, later each time.
    async 'settle-purge'(payload) {
      const { tenantId, purgeId } = payload as { tenantId: string; purgeId: string };
      await settlePurge(tenantId, purgeId);
    },
    async 'requeue-purges'() {
      await requeue();
      await plan('requeue-purges', EVERY_MINUTE);
    },
    async 'sweep-tenants'() {
      await sweepTenants(stopping.signal);
      await plan('sweep-tenants', EVERY_MINUTE);
    },
    async 'expire-purges'() {
      await expire();
      await plan('expire-purges', EVERY_HOUR);
    },
    async 'order-purge'(payload) {
      const { pattern, requestId } = payload as { pattern: string; requestId: string };
      // Of a schedule that has been changed or switched off since.
      if (schedule?.pattern !== pattern) return;
      await schedule.order(requestId);
      await plan('order-purge', pattern);
    },
  };
  const logger = new QueueLogger(() => (level, message, meta) => {
    if (level === 'error') log.error({ err: meta?.['error'] }, message);
    else if (level === 'warning') log.warn(message);
  });
  const starting = (async () => {
    await requeue();
    await plan('requeue-purges', EVERY_MINUTE);
    await plan('sweep-tenants', EVERY_MINUTE);
    await plan('expire-purges', EVERY_HOUR);
    if (schedule) await plan('order-purge', schedule.pattern);
    return run({ pgPool: pool, concurrency, pollInterval: pollMs, noHandleSignals: true, logger, taskList: tasks });
  })();
  starting.catch((error: unknown) => {
    // A replica that answers and purges nothing would be believed; it is started anew instead.
    log.fatal({ err: error }, 'the queue could not start');
    process.exit(1);
  });
  return {
    async stop() {
      stopping.abort();
      const runner = await starting;
      await runner.stop();
      await pool.end();
    },
  };
}
