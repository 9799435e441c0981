import { auditInstallation } from '#libs/audit/write-audit.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { rowsOf } from '#libs/postgres/rows.ts';
import type { KnownParticipant, ParticipantDirectory } from '../../use-cases/ports.ts';

interface ParticipantRow {
  readonly name: string;
  readonly first_configured_at: Temporal.Instant;
  readonly data_id: string | null;
  readonly claimed_data_id: string | null;
  readonly retired_at: Temporal.Instant | null;
  readonly retired_by: string | null;
  readonly retire_reason: string | null;
}

/** The participants of this installation in Postgres. */
export const makeParticipantDirectory = (database: Database): ParticipantDirectory => ({
  keepConfigured: (names) =>
    database.forInstallation(async (trx) => {
      await trx.raw(
        `insert into participants as p (name) select unnest(cast(:names as text[]))
         on conflict (name) do update set retired_at = null, retired_by = null, retire_reason = null
           where p.retired_at is not null`,
        { names: [...names] },
      );
    }),

  bindData: (name, dataId) =>
    database.forInstallation(async (trx) => {
      // Its answers come often: the row is written only where there is something to say.
      await trx.raw(
        `update participants
         set data_id = coalesce(data_id, :dataId),
             claimed_data_id = case when coalesce(data_id, :dataId) = :dataId then null else :dataId end
         where name = :name and (data_id is distinct from :dataId or claimed_data_id is not null)
           and claimed_data_id is distinct from :dataId`,
        { name, dataId },
      );
      const known = await trx.raw('select 1 from participants where name = :name and data_id = :dataId', {
        name,
        dataId,
      });
      return known.rowCount === 1;
    }),

  confirm: (name, { actor, subject }, reason) =>
    database.forInstallation(async (trx) => {
      const confirmed = await trx.raw(
        `update participants set data_id = claimed_data_id, claimed_data_id = null
         where name = :name and claimed_data_id is not null`,
        { name },
      );
      if (confirmed.rowCount) {
        const target = { targetType: 'participant', targetId: name };
        await auditInstallation(trx, { actor, subject, action: 'confirm', ...target, reason, outcome: 'COMPLETE' });
      }
      const [row] = rowsOf<ParticipantRow>(await trx.raw('select * from participants where name = :name', { name }));
      return row && toParticipant(row);
    }),

  list: () =>
    database.forInstallation(async (trx) =>
      rowsOf<ParticipantRow>(await trx.raw('select * from participants order by name')).map(toParticipant),
    ),

  retire: (name, { actor, subject }, reason) =>
    database.forInstallation(async (trx) => {
      const retired = await trx.raw(
        `update participants set retired_at = clock_timestamp(), retired_by = :actor, retire_reason = :reason
         where name = :name and retired_at is null`,
        { name, actor, reason },
      );
      if (retired.rowCount) {
        const target = { targetType: 'participant', targetId: name };
        await auditInstallation(trx, { actor, subject, action: 'retire', ...target, reason, outcome: 'COMPLETE' });
      }
      const [row] = rowsOf<ParticipantRow>(await trx.raw('select * from participants where name = :name', { name }));
      return row && toParticipant(row);
    }),
});

const toParticipant = (row: ParticipantRow): KnownParticipant => ({
  name: row.name,
  firstConfiguredAt: row.first_configured_at,
  dataId: row.data_id ?? undefined,
  claimedDataId: row.claimed_data_id ?? undefined,
  retirement:
    row.retired_at === null
      ? undefined
      : { at: row.retired_at, by: row.retired_by ?? '', reason: row.retire_reason ?? undefined },
});
