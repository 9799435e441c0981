import { backoffMs, type RetryPolicy } from '#libs/durable/backoff.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { hasReason } from '#libs/kernel/domain-error.ts';
import type { ScheduleClaim, ScheduleRepository } from './schedule-ports.ts';

/** Work that is done once at each instant of a cron pattern, by one replica. */
export interface Schedule {
  readonly name: string;
  /** In UTC; undefined: this replica does not keep the schedule, and removes it when it starts. */
  readonly pattern: string | undefined;
  /** Does the work; `runId` is the same one when the work of an instant is repeated after a crash. */
  readonly work: (runId: string, signal: AbortSignal) => Promise<void>;
}

/** Runs what is scheduled. An instant that all replicas missed is made up for once. */
export interface RunSchedules {
  /** Answers the schedules that are due. Creates those that are missing. */
  findDue(): Promise<readonly Schedule[]>;
  /** Does the work of a schedule, and plans its next instant; false when it was not due or another replica has it. */
  run(schedule: Schedule, signal: AbortSignal): Promise<boolean>;
}

/** How schedules are kept. */
export interface ScheduleSettings {
  readonly workerId: string;
  /** How long a replica that died holds a schedule up, in milliseconds; one that lives renews its lease. */
  readonly leaseMs: number;
  /** How work that failed is repeated; it is never given up. */
  readonly retry: Pick<RetryPolicy, 'baseMs' | 'maxMs'>;
}

/** Makes RunSchedules; `nextOf` answers the first instant of a pattern after another one. */
export function makeRunSchedules(
  schedules: ScheduleRepository,
  all: readonly Schedule[],
  nextOf: (pattern: string, after: Temporal.Instant) => Temporal.Instant | undefined,
  { workerId, leaseMs, retry }: ScheduleSettings,
  onError: (name: string, error: unknown) => void,
): RunSchedules {
  let hasStarted = false;

  const start = async (): Promise<void> => {
    const known = await schedules.list();
    for (const { name, pattern } of all) {
      const row = known.find((candidate) => candidate.name === name);
      if (pattern === undefined) {
        if (row) await schedules.remove(name);
      } else if (row?.pattern !== pattern) {
        await schedules.plan(name, pattern, (now) => nextOf(pattern, now));
      }
    }
    hasStarted = true;
  };

  const fail = async (claim: ScheduleClaim, error: unknown): Promise<void> => {
    onError(claim.name, error);
    const retryMs = backoffMs(claim.attempts, { ...retry, maxAttempts: Number.POSITIVE_INFINITY });
    await schedules.fail(claim, error instanceof Error ? error.message : String(error), retryMs);
  };

  return {
    async findDue() {
      if (!hasStarted) await start();
      const rows = await schedules.list();
      // Deleted by hand, say. One with another pattern is left to the replica that planned it last.
      const missing = all.find(({ name, pattern }) => pattern !== undefined && !rows.some((row) => row.name === name));
      if (missing) hasStarted = false;
      return all.filter(({ name, pattern }) =>
        rows.some((row) => row.name === name && row.pattern === pattern && row.isDue),
      );
    },

    async run({ name, pattern, work }, stopping) {
      if (pattern === undefined) return false;
      const claim = await schedules.claim(name, pattern, workerId, leaseMs);
      if (!claim) return false;
      const lost = new AbortController();
      const heartbeat = setInterval(() => {
        schedules.renew(claim, leaseMs).catch((error) => hasReason(error, 'LEASE_LOST') && lost.abort(error));
      }, leaseMs / 3);
      try {
        await work(claim.runId, AbortSignal.any([stopping, lost.signal]));
        crashPoint('retention.schedule.after-work');
        await schedules.finish(claim, (now) => nextOf(pattern, now));
      } catch (error) {
        if (lost.signal.aborted || hasReason(error, 'LEASE_LOST')) return true;
        await fail(claim, error);
      } finally {
        clearInterval(heartbeat);
      }
      return true;
    },
  };
}
