import { DomainError } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { NextInstant, ScheduleClaim, ScheduleRepository } from '../../use-cases/schedule-ports.ts';

/** Schedules in Postgres: each is one leased row. */
export const makeScheduleRepository = (database: Database): ScheduleRepository => {
  const nextOf = async (next: NextInstant): Promise<string | undefined> => {
    const [clock] = await database.acrossTenants<{ now: Temporal.Instant }>({
      text: 'select clock_timestamp() as now',
      values: [],
    });
    return clock && next(clock.now)?.toString();
  };
  const updateClaimed = async ({ name, token }: ScheduleClaim, set: string, values: readonly unknown[]) => {
    const rows = await database.acrossTenants({
      text: `update schedules set ${set} where name = $1 and lease_token = $2 and lease_owner is not null returning name`,
      values: [name, String(token), ...values],
    });
    if (rows.length === 0) throw leaseLost(name);
  };

  return {
    async list() {
      const rows = await database.acrossTenants<{ name: string; pattern: string; is_due: boolean }>({
        text: 'select name, pattern, due_at <= clock_timestamp() as is_due from schedules',
        values: [],
      });
      return rows.map(({ name, pattern, is_due }) => ({ name, pattern, isDue: is_due }));
    },

    async plan(name, pattern, next) {
      const at = await nextOf(next);
      if (at === undefined) return;
      await database.acrossTenants({
        text: `insert into schedules as s (name, pattern, run_id, due_at) values ($1, $2, $3, $4::timestamptz)
               on conflict (name) do update
                 set pattern = excluded.pattern, run_id = excluded.run_id, due_at = excluded.due_at, attempts = 0,
                     last_error = null, lease_owner = null
                 where s.pattern <> excluded.pattern`,
        values: [name, pattern, newId(), at],
      });
    },

    async remove(name) {
      await database.acrossTenants({ text: 'delete from schedules where name = $1', values: [name] });
    },

    async claim(name, pattern, owner, leaseMs) {
      const [row] = await database.acrossTenants<{ lease_token: number; run_id: string; attempts: number }>({
        text: `update schedules
               set lease_owner = $3, lease_token = lease_token + 1, attempts = attempts + 1,
                   due_at = clock_timestamp() + $4 * interval '1 ms'
               where name = $1 and pattern = $2 and due_at <= clock_timestamp()
               returning lease_token, run_id, attempts`,
        values: [name, pattern, owner, leaseMs],
      });
      return row && { name, token: BigInt(row.lease_token), runId: row.run_id, attempts: row.attempts };
    },

    renew: (claim, leaseMs) => updateClaimed(claim, `due_at = clock_timestamp() + $3 * interval '1 ms'`, [leaseMs]),

    async finish(claim, next) {
      const at = await nextOf(next);
      if (at === undefined) throw new Error(`the schedule ${claim.name} has no next instant`);
      await updateClaimed(
        claim,
        'due_at = $3::timestamptz, run_id = $4, attempts = 0, last_error = null, lease_owner = null',
        [at, newId()],
      );
    },

    fail: (claim, error, retryMs) =>
      updateClaimed(
        claim,
        `due_at = clock_timestamp() + $3 * interval '1 ms', last_error = left($4, 1000), lease_owner = null`,
        [retryMs, error],
      ),
  };
};

const leaseLost = (name: string): DomainError =>
  new DomainError('aborted', 'LEASE_LOST', `The lease on the schedule ${name} is another replica’s.`);
