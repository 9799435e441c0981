import { parseFields, parseText } from '#libs/grpc/parse.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Action } from '#libs/participant/action.ts';
import { goneCount, leftCount } from '#libs/participant/counts.ts';
import { makeParticipant } from '#libs/participant/make-participant.ts';
import { createRunTables, dropRunTables } from '#libs/participant/migrations.ts';
import type { Participant, RunScope } from '#libs/participant/participant.ts';
import { type KeptRows, makeRunGate } from '#libs/participant/run-gate.ts';
import { makeRunLock } from '#libs/participant/run-lock.ts';
import { actOnce } from '#libs/participant/step-actions.ts';
import { deleteOneBatch } from '#libs/postgres/delete-batch.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { createTenantFunction, dropTenantFunction, secureTable } from '#libs/postgres/tenant-security.ts';

/** The schema of a service that keeps notes on the steps of runs. */
export const notes: Migration = {
  name: '001-notes',
  async up(knex, appRole) {
    await createTenantFunction(knex);
    await knex.raw(`
      create table notes (
        tenant_id text not null,
        id uuid not null,
        run_id uuid not null,
        step text not null,
        text text not null,
        hidden_by uuid,
        primary key (tenant_id, id)
      );
      create index notes_run on notes (tenant_id, run_id, step);
    `);
    await secureTable(knex, 'notes', appRole);
    await createRunTables(knex, appRole);
  },
  async down(knex) {
    await dropRunTables(knex);
    await knex.raw('drop table notes');
    await dropTenantFunction(knex);
  },
};

const lock = makeRunLock();

const KEPT: KeptRows = {
  tombstones: 'step_tombstones',
  hold: lock.hold,
  hasActions: true,
  async hide(trx, { tenantId, runId }, { operationId }) {
    const { rowCount } = await trx.raw(
      `update notes set hidden_by = :operationId
       where tenant_id = :tenantId and run_id = :runId and hidden_by is null`,
      { tenantId, runId, operationId },
    );
    return [goneCount('note', rowCount ?? 0)];
  },
  async show(trx, { tenantId, runId }, softDeleteId) {
    const { rowCount } = await trx.raw(
      `update notes set hidden_by = null
       where tenant_id = :tenantId and run_id = :runId and hidden_by = :softDeleteId`,
      { tenantId, runId, softDeleteId },
    );
    return [goneCount('note', rowCount ?? 0)];
  },
  toEntry: () => undefined,
};

/** A participant of this repository: notes in Postgres. */
export function makeNotesParticipant(database: Database): Participant {
  const gate = makeRunGate(database, KEPT);

  const left = async ({ tenantId, runId, step }: RunScope) => {
    const [row] = await database.readForTenant<{ count: number; ids: string[] | null }>(tenantId, {
      text: `with mine as (
               select id from notes where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3))
             select (select count(*) from mine) as count,
                    (select json_agg(id) from (select id from mine order by id limit 100) s) as ids`,
      values: [tenantId, runId, step ?? null],
    });
    const samples = (row?.ids ?? []).map((resourceId) => ({ resourceType: 'note', resourceId }));
    return { counts: samples.length === 0 ? [] : [leftCount('note', row?.count ?? 0)], samples };
  };

  return makeParticipant({
    rows: {
      ...gate,
      preview: left,
      left,
      removeBatch: (scope, operation, limit) =>
        gate.remove(scope, operation, async (trx) => {
          const { tenantId, runId, step = '' } = scope;
          const where = scope.step === undefined ? 'run_id = :runId' : 'run_id = :runId and step = :step';
          const batch = { table: 'notes', tenantId, where, bindings: { runId, step }, limit };
          const { deleted } = await deleteOneBatch(trx, batch);
          return { counts: [goneCount('note', deleted)], removed: deleted, isDone: deleted < limit };
        }),
    },
    actions: { 'take-note': makeTakeNote(database) },
    rowsPerBatch: 1_000,
  });
}

const makeTakeNote = (database: Database): Action<{ readonly text: string }> => ({
  parse: (input) =>
    parseFields({ text: () => parseText('input.text', String(input?.['text'] ?? ''), { min: 1, max: 1_000 }) }),
  execute({ tenantId, runId, step }, { text }) {
    const id = newId();
    const action = { tenantId, runId, step, id, fingerprint: fingerprint({ action: 'take-note', text }) };
    return actOnce(
      database,
      lock,
      'effect_id',
      action,
      (trx) => trx('notes').insert({ tenant_id: tenantId, id, run_id: runId, step, text }),
      async (_, noteId) => ({ output: { note_id: noteId }, counts: [leftCount('note', 1)] }),
    );
  },
});
