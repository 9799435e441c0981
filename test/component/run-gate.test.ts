import anyTest, { type TestFn } from 'ava';
import pg from 'pg';
import { newId } from '#libs/kernel/id.ts';
import { goneCount } from '#libs/participant/counts.ts';
import type { RunOperation } from '#libs/participant/participant.ts';
import { type KeptRows, makeRunGate } from '#libs/participant/run-gate.ts';
import { makeRunLock } from '#libs/participant/run-lock.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

const TENANT = 'acme';
const SERVICES = [
  ['job', jobMigrations],
  ['incident', incidentMigrations],
] as const;
const operationOf = (operationId: string): RunOperation => ({
  operationId,
  part: 'part',
  caller: { actor: 'ada', subject: 'service:run' },
  reason: 'asked for',
});

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

/** The gate of a service over a database of its own, where whatever waits for a lock soon gives up. */
async function fixture(postgres: TestPostgres, [service, migrations]: (typeof SERVICES)[number]) {
  const created = await postgres.createDatabase(migrations);
  const database = created.open({ lockTimeoutMs: 100 });
  const lock = makeRunLock(`${service}-run`);
  const counts = [goneCount(service, 2)];
  const kept: KeptRows = {
    tombstones: 'step_tombstones',
    hold: lock.hold,
    hasActions: true,
    hide: async () => counts,
    show: async () => counts,
    toEntry: () => undefined,
  };
  const run = { tenantId: TENANT, runId: newId(), step: undefined };
  return { ...created, database, lock, counts, gate: makeRunGate(database, kept), run };
}

for (const of of SERVICES) {
  const [service] = of;

  test(`${service}: many make something of a run at once, but nobody while it is held, be it for the first time`, async (t) => {
    const { database, lock, run } = await fixture(t.context.postgres, of);
    const during = (mine: 'hold' | 'share', theirs: 'hold' | 'share' | 'batch') =>
      database.forTenant(TENANT, async (trx) => {
        await lock[mine](trx, run);
        await (theirs === 'batch'
          ? database.writeForTenant(TENANT, lock.toShare(run))
          : database.forTenant(TENANT, (other) => lock[theirs](other, run)));
      });
    // The row is not committed yet, so that even those who share it wait.
    for (const theirs of ['hold', 'share', 'batch'] as const) await t.throwsAsync(during('hold', theirs));
    await database.forTenant(TENANT, (trx) => lock.share(trx, run));
    for (const theirs of ['share', 'batch'] as const) await t.notThrowsAsync(during('share', theirs));
    for (const theirs of ['hold', 'share', 'batch'] as const) await t.throwsAsync(during('hold', theirs));
    await t.throwsAsync(during('share', 'hold'));
    const neighbour = { ...run, runId: newId() };
    await t.notThrowsAsync(
      database.forTenant(TENANT, async (trx) => {
        await lock.hold(trx, run);
        await database.forTenant(TENANT, (other) => lock.hold(other, neighbour));
      }),
    );
    await database.close();
  });

  test(`${service}: a process of the last release and one of this keep each other out of a run`, async (t) => {
    const { database, lock, run, appUrl } = await fixture(t.context.postgres, of);
    const key = `${service}-run/${TENANT}/${run.runId}`;
    const last = new pg.Client({ connectionString: appUrl });
    await last.connect();
    try {
      for (const mine of ['hold', 'share'] as const) {
        for (const theirs of ['', '_shared']) {
          const keepsOut = mine === 'hold' || theirs === '';
          await last.query(`begin; select pg_advisory_xact_lock${theirs}(hashtextextended('${key}', 0))`);
          const meeting = database.forTenant(TENANT, (trx) => lock[mine](trx, run));
          await (keepsOut ? t.throwsAsync(meeting) : t.notThrowsAsync(meeting));
          await last.query('rollback');
          await database.forTenant(TENANT, async (trx) => {
            await lock[mine](trx, run);
            const { rows } = await last.query(
              `select pg_try_advisory_xact_lock${theirs}(hashtextextended('${key}', 0)) as got`,
            );
            t.is(rows[0].got, !keepsOut, `${mine} against${theirs}`);
          });
        }
      }
    } finally {
      await last.end();
      await database.close();
    }
  });

  test(`${service}: what either release remembers of a run, the other knows`, async (t) => {
    const { database, gate, run, query, counts } = await fixture(t.context.postgres, of);
    const operations = async () => {
      const rows = await query<{ operation: string }>(
        'select operation from step_tombstones where run_id = $1 order by operation',
        [run.runId],
      );
      return rows.map(({ operation }) => operation);
    };
    const [hiding, taking, late, purging] = [newId(), newId(), newId(), newId()];
    await gate.hide(run, operationOf(hiding));
    t.deepEqual(await operations(), [`hidden:${hiding}`]);
    await gate.restore(run, operationOf(taking), hiding);
    t.deepEqual(await operations(), [`restore:${taking}`, `restored:${hiding}`]);
    const sum = service === 'job' ? 'restored' : 'incidents';
    t.deepEqual(await query(`select ${sum} as sum from step_tombstones where operation = 'restored:${hiding}'`), [
      { sum: '2' },
    ]);
    // As the last release writes them.
    const leave = (operation: string, came: number) =>
      query(`insert into step_tombstones (tenant_id, run_id, step, operation, ${sum}) values ($1, $2, '', $3, $4)`, [
        TENANT,
        run.runId,
        operation,
        came,
      ]);
    await leave(`restored:${late}`, 2);
    t.deepEqual(await gate.hide(run, operationOf(late)), { counts: [], isNew: false });
    const { counts: known, isNew } = await gate.restore(run, operationOf(newId()), late);
    t.deepEqual([known.find(({ resourceType }) => resourceType === service), isNew], [counts[0], false]);
    await leave(`purge:${purging}`, 0);
    for (const call of [gate.hide(run, operationOf(newId())), gate.restore(run, operationOf(newId()), newId())]) {
      t.like(await t.throwsAsync(call), { reason: 'OPERATION_IN_PROGRESS', metadata: { operation_id: purging } });
    }
    await gate.forbid({ ...run, step: 'draft' }, operationOf(run.runId));
    t.true((await operations()).includes('compensate'));
    await database.close();
  });
}

test('incident: sums of a purge that one release began and the other goes on with are one', async (t) => {
  const { database, gate, run, query } = await fixture(t.context.postgres, ['incident', incidentMigrations]);
  const operation = operationOf(newId());
  await query(`insert into step_tombstones (tenant_id, run_id, step, operation) values ($1, $2, '', $3)`, [
    TENANT,
    run.runId,
    `purge:${operation.operationId}`,
  ]);
  const add = () =>
    query('update step_tombstones set payloads = payloads + 3, payload_bytes = payload_bytes + 30 where run_id = $1', [
      run.runId,
    ]);
  await add();
  await gate.forbid(run, operation);
  const batch = { counts: [goneCount('incident_payload', 4, 40)], removed: 4, isDone: false };
  t.like(await gate.remove(run, operation, async () => batch), {
    counts: [goneCount('incident', 0), goneCount('incident_payload', 7, 70)],
  });
  await add();
  t.like(await gate.remove(run, operation, async () => ({ ...batch, isDone: true })), {
    counts: [goneCount('incident', 0), goneCount('incident_payload', 14, 140)],
    isNew: true,
  });
  t.deepEqual(await query('select payloads, payload_bytes, finished_at is null as open from step_tombstones'), [
    { payloads: '14', payload_bytes: '140', open: false },
  ]);
  await database.close();
});
