import anyTest, { type TestFn } from 'ava';
import { newId } from '#libs/kernel/id.ts';
import { makeDeletionRecords } from '#services/job/adapters/postgres/deletion-records.ts';
import { makeDeletionWork } from '#services/job/adapters/postgres/deletion-work.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { NOTHING_REMOVED } from '#services/job/domain/deletion.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { readsBy } from '#test/support/table-reads.ts';

interface Context {
  readonly postgres: TestPostgres;
}
const test = anyTest as TestFn<Context>;

test.before(async (t) => Object.assign(t.context, { postgres: await startTestPostgres() }));
test.after.always((t) => t.context.postgres?.stop());

const LEASE_MS = 60_000;

/** Deletions that are due, the first ones longest, since `secondsAgo`. */
const seed = (created: TestDatabase, tenantId: string, count: number, secondsAgo: number): Promise<unknown> =>
  created.query(
    `insert into job_deletions (tenant_id, id, job_id, state, actor, subject, counts, next_attempt_at)
     select $1, gen_random_uuid(), gen_random_uuid(), 'PENDING', 'a', 'a', $2::jsonb,
            now() - $3 * interval '1 s' + n * interval '1 ms' from generate_series(1, $4::int) n`,
    [tenantId, JSON.stringify(NOTHING_REMOVED), secondsAgo, count],
  );

test('whose deletions have fewer workers comes first, however many wait for another tenant', async (t) => {
  const created = await t.context.postgres.createDatabase(jobMigrations);
  const database = created.open();
  t.teardown(() => database.close());
  const deletions = makeDeletionWork(database);
  await seed(created, 'large', 40, 60);
  await seed(created, 'small', 2, 1);
  const tenants = async (limit: number) => (await deletions.findDue(limit)).map(({ tenantId }) => tenantId);
  t.deepEqual(await tenants(5), ['large', 'small', 'large', 'small', 'large']);
  const [first, second] = await deletions.findDue(40);
  for (const due of [first, (await deletions.findDue(40))[2]])
    await deletions.claim('large', due?.deletionId ?? '', 'w', LEASE_MS);
  t.deepEqual(await tenants(3), ['small', 'small', 'large'], 'two workers have deletions of the large one');
  await deletions.claim('small', second?.deletionId ?? '', 'w', LEASE_MS);
  t.deepEqual(await tenants(2), ['small', 'large']);
});

test('one that gives way is due behind the others of its tenant, with its counts and no attempt more', async (t) => {
  const created = await t.context.postgres.createDatabase(jobMigrations);
  const database = created.open();
  t.teardown(() => database.close());
  const deletions = makeDeletionWork(database);
  await seed(created, 'acme', 3, 60);
  const due = await deletions.findDue(3);
  const claim = await deletions.claim('acme', due[0]?.deletionId ?? '', 'w', LEASE_MS);
  if (!claim) return t.fail('it was not claimed');
  await deletions.release(claim, { ...NOTHING_REMOVED, objects: 7 });
  t.deepEqual(
    (await deletions.findDue(3)).map(({ deletionId }) => deletionId),
    [due[1], due[2], due[0]].map((each) => each?.deletionId ?? ''),
  );
  t.like(await makeDeletionRecords(database).get('acme', claim.deletion.id), {
    state: 'CASCADING',
    attempts: 0,
    counts: { objects: 7 },
    lastError: undefined,
  });
  await t.throwsAsync(deletions.release(claim, NOTHING_REMOVED), { message: /lease/ });
});

test('what is due is found by an index, among many tenants and what has ended', async (t) => {
  const created = await t.context.postgres.createDatabase(jobMigrations);
  for (let tenant = 0; tenant < 20; tenant += 1) await seed(created, `tenant-${tenant}`, 500, 60);
  await created.query(
    `update job_deletions set state = 'COMPLETE', next_attempt_at = null where job_id < '${newId()}'`,
  );
  await created.query(`update job_deletions set state = 'COMPLETE', next_attempt_at = null
                       where ctid not in (select min(ctid) from job_deletions group by tenant_id, id::text < '8')`);
  await created.query('vacuum analyze job_deletions');
  const reads = await readsBy(created, (database) => makeDeletionWork(database).findDue(32));
  t.is(reads.get('job_deletions')?.scanned, 0);
  t.true((reads.get('job_deletions')?.looked ?? 0) < 400, `${reads.get('job_deletions')?.looked}`);
});
