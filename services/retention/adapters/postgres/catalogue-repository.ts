import { auditInstallation } from '#libs/audit/write-audit.ts';
import { column, columnsOf, type RowOf } from '#libs/postgres/columns.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { isUniqueViolation } from '#libs/postgres/sql-errors.ts';
import type { CatalogueSubject, SubjectProblem } from '../../domain/catalogue.ts';
import type { SubjectCatalogue } from '../../use-cases/ports.ts';
import type { CatalogueRepository } from '../../use-cases/purge-ports.ts';

const CATALOGUE = {
  name: column<string>(),
  owner: column<string>(),
  data_id: column<string | null>(),
  resource_type: column<string>(),
  dependent_types: column<readonly string[]>(),
  age_of: column<string>(),
  has_floor: column<boolean>(),
  problem: column<SubjectProblem | null>(),
  claimed_owner: column<string | null>(),
  claimed_data_id: column<string | null>(),
  listed_at: column<Temporal.Instant | null>(),
  observe_nights_left: column<number>(),
  retired_at: column<Temporal.Instant | null>(),
  retired_by: column<string | null>(),
  retire_reason: column<string | null>(),
};

type CatalogueRow = RowOf<typeof CATALOGUE>;

const COLUMNS = columnsOf(CATALOGUE);

const ALL = `select ${COLUMNS()} from subjects order by name collate "C"`;

/** The catalogue of subjects in Postgres. */
export const makeCatalogueRepository = (database: Database): CatalogueRepository & SubjectCatalogue => {
  const list = async (): Promise<readonly CatalogueSubject[]> =>
    (await database.acrossTenants<CatalogueRow>({ text: ALL, values: [] })).map(toSubject);
  return {
    list,

    listSubjects: async () => (await list()).filter(({ retirement }) => !retirement),

    async update(by, decide) {
      for (;;) {
        try {
          return await database.forInstallation((trx) => updateOnce(trx, by, decide));
        } catch (error) {
          // Another replica has reconciled meanwhile: what it inserted is known now.
          if (!isUniqueViolation(error, 'subjects_pkey')) throw error;
        }
      }
    },

    async recordNight(subject, purgeId) {
      await database.acrossTenants({
        text: `with night as (
                 insert into subject_nights (subject, purge_id) values ($1, $2) on conflict do nothing returning subject)
               update subjects s set observe_nights_left = greatest(0, s.observe_nights_left - 1)
               from night where s.name = night.subject`,
        values: [subject, purgeId],
      });
    },

    async findObserved(purgeId) {
      const rows = await database.acrossTenants<{ name: string }>({
        text: `select s.name from subjects s
               where s.observe_nights_left > 0
                  or exists (select from subject_nights n where n.subject = s.name and n.purge_id = $1)`,
        values: [purgeId],
      });
      return new Set(rows.map(({ name }) => name));
    },
  };
};

type Update = Parameters<CatalogueRepository['update']>;

/**
 * The changes that are decided of the catalogue as it stands, written. Those who do this at once take turns at the rows,
 * and each at its own row that is not there yet: then the later one breaks the key.
 */
async function updateOnce(
  trx: TenantTransaction,
  by: Update[0],
  decide: Update[1],
): ReturnType<CatalogueRepository['update']> {
  // A night that is counted meanwhile waits, or it would be written over.
  const known = rowsOf<CatalogueRow>(await trx.raw(`${ALL} for no key update`)).map(toSubject);
  const clock = firstOf<{ now: Temporal.Instant }>(await trx.raw('select clock_timestamp() as now'));
  if (!clock) throw new Error('the database told no time');
  const names = new Set(known.map(({ name }) => name));
  const changes = decide(known, clock.now);
  for (const { subject, event } of changes) {
    await (names.has(subject.name)
      ? trx('subjects').where({ name: subject.name }).update(toColumns(trx, subject))
      : trx('subjects').insert(toColumns(trx, subject)));
    if (event === undefined) continue;
    await auditInstallation(trx, {
      actor: by.actor,
      subject: by.subject,
      action: `subject-${event.toLowerCase().replaceAll('_', '-')}`,
      targetType: 'subject',
      targetId: subject.name,
      reason: by.reason,
      outcome: subject.problem ?? (subject.retirement ? 'RETIRED' : 'BOUND'),
      counts: { owner: subject.owner, dataId: subject.dataId, claim: subject.claim },
    });
  }
  return changes;
}

const toColumns = (trx: TenantTransaction, { claim, retirement, ...subject }: CatalogueSubject) => ({
  name: subject.name,
  owner: subject.owner,
  data_id: subject.dataId ?? null,
  resource_type: subject.resourceType,
  dependent_types: [...subject.dependentTypes],
  age_of: subject.ageOf,
  has_floor: subject.hasFloor,
  problem: subject.problem ?? null,
  claimed_owner: claim?.owner ?? null,
  claimed_data_id: claim?.dataId ?? null,
  listed_at: subject.listedAt?.toString() ?? null,
  observe_nights_left: subject.observeNightsLeft,
  retired_at: retirement?.at.toString() ?? null,
  retired_by: retirement?.by ?? null,
  retire_reason: retirement?.reason ?? null,
  updated_at: trx.raw('clock_timestamp()'),
});

const toSubject = (row: CatalogueRow): CatalogueSubject => ({
  name: row.name,
  owner: row.owner,
  dataId: row.data_id ?? undefined,
  resourceType: row.resource_type,
  dependentTypes: row.dependent_types,
  ageOf: row.age_of,
  hasFloor: row.has_floor,
  problem: row.problem ?? undefined,
  claim:
    row.claimed_owner !== null && row.claimed_data_id !== null
      ? { owner: row.claimed_owner, dataId: row.claimed_data_id }
      : undefined,
  listedAt: row.listed_at ?? undefined,
  observeNightsLeft: row.observe_nights_left,
  retirement: row.retired_at
    ? { at: row.retired_at, by: row.retired_by ?? '', reason: row.retire_reason ?? '' }
    : undefined,
});
