import { auditInstallation } from '#libs/audit/write-audit.ts';
import { column, columnsOf, type RowOf } from '#libs/postgres/columns.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { PurgeStop } from '../../domain/purge-stop.ts';
import type { StopRepository } from '../../use-cases/purge-ports.ts';

const STOP = {
  version: column<number>(),
  is_stopped: column<boolean>(),
  actor: column<string>(),
  reason: column<string>(),
  changed_at: column<Temporal.Instant>(),
};

type StopRow = RowOf<typeof STOP>;

const STOP_COLUMNS = columnsOf(STOP);

const NEWEST = `select ${STOP_COLUMNS()} from purge_stops order by version desc limit 1`;

/** The stop switch in Postgres. */
export const makeStopRepository = (database: Database): StopRepository => ({
  async get() {
    const [row] = await database.acrossTenants<StopRow>({ text: NEWEST, values: [] });
    return toStop(row);
  },

  set: ({ isStopped, actor, subject, reason }) =>
    database.forInstallation(async (trx) => {
      for (;;) {
        const known = firstOf<StopRow>(await trx.raw(NEWEST));
        if ((known?.is_stopped ?? false) === isStopped) return toStop(known);
        // Of two at once the second waits here for the first, and then sees what it did.
        const row = firstOf<StopRow>(
          await trx.raw(
            `insert into purge_stops (version, is_stopped, actor, subject, reason)
             values (:version, :isStopped, :actor, :subject, :reason)
             on conflict (version) do nothing returning ${STOP_COLUMNS()}`,
            { version: (known?.version ?? 0) + 1, isStopped, actor, subject, reason },
          ),
        );
        if (!row) continue;
        await auditInstallation(trx, {
          actor,
          subject,
          action: isStopped ? 'stop-purges' : 'resume-purges',
          targetType: 'purge_stop',
          targetId: String(row.version),
          reason,
          outcome: isStopped ? 'STOPPED' : 'RESUMED',
        });
        return toStop(row);
      }
    }),
});

const toStop = (row: StopRow | undefined): PurgeStop => ({
  isStopped: row?.is_stopped ?? false,
  version: row?.version ?? 0,
  last: row && { actor: row.actor, reason: row.reason, at: row.changed_at },
});
