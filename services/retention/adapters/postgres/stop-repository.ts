import { auditInstallation } from '#libs/audit/write-audit.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { PurgeStop } from '../../domain/purge-stop.ts';
import type { StopRepository } from '../../use-cases/purge-ports.ts';

interface StopRow {
  readonly version: number;
  readonly is_stopped: boolean;
  readonly actor: string;
  readonly reason: string;
  readonly changed_at: Temporal.Instant;
}

const NEWEST = 'select * from purge_stops order by version desc limit 1';

/** The stop switch in Postgres. */
export const makeStopRepository = (database: Database): StopRepository => ({
  async get() {
    const [row] = await database.acrossTenants<StopRow>({ text: NEWEST, values: [] });
    return toStop(row);
  },

  set: ({ isStopped, actor, subject, reason }) =>
    database.forTenant('nobody', async (trx) => {
      // Those who switch at once take turns; there may be no row yet that could be locked.
      await trx.raw('select pg_advisory_xact_lock(?)', [STOP_LOCK]);
      const known = firstOf<StopRow>(await trx.raw(NEWEST));
      if ((known?.is_stopped ?? false) === isStopped) return toStop(known);
      const row = firstOf<StopRow>(
        await trx.raw(
          `insert into purge_stops (version, is_stopped, actor, subject, reason)
           values (:version, :isStopped, :actor, :subject, :reason) returning *`,
          { version: (known?.version ?? 0) + 1, isStopped, actor, subject, reason },
        ),
      );
      await auditInstallation(trx, {
        actor,
        subject,
        action: isStopped ? 'stop-purges' : 'resume-purges',
        targetType: 'purge_stop',
        targetId: String(row?.version),
        reason,
        outcome: isStopped ? 'STOPPED' : 'RESUMED',
      });
      return toStop(row);
    }),
});

// Any number will do, as long as nothing else in this database uses it.
const STOP_LOCK = 5_383_100;

const toStop = (row: StopRow | undefined): PurgeStop => ({
  isStopped: row?.is_stopped ?? false,
  version: row?.version ?? 0,
  last: row && { actor: row.actor, reason: row.reason, at: row.changed_at },
});
