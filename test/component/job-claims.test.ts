import anyTest, { type TestFn } from 'ava';
import pg from 'pg';
import { newId } from '#libs/kernel/id.ts';
import { makeJobRepository } from '#services/job/adapters/postgres/job-repository.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { claim, type Job } from '#services/job/domain/job.ts';
import { holdLock, startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

const TENANT = 'acme';
const AT_ONCE = 20;
const ROUNDS = 20;

const WAITING = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

/** Some PENDING jobs, and two replicas that claim them. */
async function fixture(postgres: TestPostgres, count: number) {
  const created = await postgres.createDatabase(jobMigrations);
  await created.query(
    `insert into jobs (tenant_id, id, display_name, state, created_at)
     select $1, gen_random_uuid(), 'a job', 'PENDING', now() - i * interval '1 second' from generate_series(1, $2::int) i`,
    [TENANT, count],
  );
  const databases = [created.open(), created.open()] as const;
  const [here, there] = databases.map(
    (database) => (requestId: string | undefined) =>
      makeJobRepository(database).claimOldest(TENANT, requestId, (job, now) => claim(job, 'w', 60_000, now)),
  ) as [Claim, Claim];
  const countRunning = async () => (await created.query("select from jobs where state = 'RUNNING'")).length;
  const countWaiting = async () => (await created.query(WAITING)).length;
  const close = () => Promise.all(databases.map((database) => database.close()));
  return { ...created, here, there, countRunning, countWaiting, close };
}

type Claim = (requestId: string | undefined) => Promise<Job | undefined>;

/** Has whoever claims a job stand still before it commits, until the answer is called. */
async function standStill({
  query,
  superuserUrl,
}: Pick<Awaited<ReturnType<typeof fixture>>, 'query' | 'superuserUrl'>) {
  await query(`
    create function stand_still() returns trigger language plpgsql as $$
    begin
      perform pg_advisory_xact_lock_shared(1);
      return new;
    end $$;
    create trigger stand_still before update on jobs for each row execute function stand_still()`);
  return holdLock(superuserUrl);
}

for (const count of [1, 2, AT_ONCE * 2]) {
  test.serial(`one request id claims one job of ${count}, however often and wherever it comes at once`, async (t) => {
    const { here, there, countRunning, close } = await fixture(t.context.postgres, count);
    const requestId = newId();
    const claims = await Promise.all(
      Array.from({ length: AT_ONCE }, (_, index) => (index % 2 === 0 ? here : there)(requestId)),
    );
    t.is(new Set(claims.map((job) => `${job?.id} ${job?.lease?.token}`)).size, 1);
    t.is(await countRunning(), 1);
    t.is(claims[0]?.state, 'RUNNING');
    await close();
  });
}

test.serial('many request ids at once claim a job each, and those without a job are told so', async (t) => {
  const { here, there, countRunning, close } = await fixture(t.context.postgres, AT_ONCE / 2);
  const claims = await Promise.all(
    Array.from({ length: AT_ONCE }, (_, index) => (index % 2 === 0 ? here : there)(newId())),
  );
  const ids = claims.flatMap((job) => (job ? [job.id] : []));
  t.is(new Set(ids).size, AT_ONCE / 2);
  t.is(ids.length, AT_ONCE / 2);
  t.is(await countRunning(), AT_ONCE / 2);
  await close();
});

test.serial(
  'repeated claims of several request ids over few jobs neither fail each other nor claim twice',
  async (t) => {
    const { here, there, query, close } = await fixture(t.context.postgres, 3);
    for (let round = 0; round < ROUNDS; round += 1) {
      await query("update jobs set state = 'PENDING'");
      const requestIds = Array.from({ length: 4 }, () => newId());
      const claims = await Promise.all(
        Array.from({ length: AT_ONCE * 2 }, async (_, index) => {
          const requestId = requestIds[index % 4];
          return { requestId, job: await (index % 8 < 4 ? here : there)(requestId) };
        }),
      );
      const taken = claims.flatMap(({ requestId, job }) => (job ? [`${requestId} ${job.id}`] : []));
      // A job that was given back may be left to the next one who asks.
      const pairs = new Set(taken).size;
      t.true(pairs > 0);
      t.is(new Set(taken.map((pair) => pair.split(' ')[0])).size, pairs, 'one job for a request id');
      t.is(new Set(taken.map((pair) => pair.split(' ')[1])).size, pairs, 'one request id for a job');
    }
    await close();
  },
);

for (const count of [1, 2]) {
  test.serial(`a claim that is repeated while it is under way answers with its job, of ${count}`, async (t) => {
    const made = await fixture(t.context.postgres, count);
    const { here, there, countRunning, countWaiting, close } = made;
    const release = await standStill(made);
    try {
      const requestId = newId();
      const first = here(requestId);
      await until('the first has a job', async () => (await countWaiting()) === 1);
      const second = there(requestId);
      await until('the second waits', async () => (await countWaiting()) === 2);
      await release();
      t.deepEqual((await second)?.id, (await first)?.id);
      t.is((await first)?.state, 'RUNNING');
      t.is(await countRunning(), 1);
    } finally {
      await release();
      await close();
    }
  });
}

test.serial('a claim without a request id waits for no other', async (t) => {
  const made = await fixture(t.context.postgres, 1);
  const { here, there, countWaiting, close } = made;
  const release = await standStill(made);
  try {
    const first = here(newId());
    await until('the first has the job', async () => (await countWaiting()) === 1);
    t.is(await there(undefined), undefined);
    await release();
    t.is((await first)?.state, 'RUNNING');
  } finally {
    await release();
    await close();
  }
});

for (const count of [1, 2]) {
  test.serial(`a process of the last release and one of this claim one job of ${count} for a request id`, async (t) => {
    const { appUrl, here, countRunning, countWaiting, query, close } = await fixture(t.context.postgres, count);
    const last = new pg.Client({ connectionString: appUrl });
    await last.connect();
    // As the last release claims, up to its commit.
    const claimThere = async (requestId: string) => {
      await last.query(
        `begin; set local lethe.tenant = '${TENANT}';
         select pg_advisory_xact_lock(hashtextextended('job-claim/${TENANT}/${requestId}', 0))`,
      );
      const { rows } = await last.query(
        `select id from jobs where tenant_id = '${TENANT}' and state = 'PENDING'
         order by created_at, id limit 1 for update skip locked`,
      );
      return last.query(
        `update jobs set state = 'RUNNING', claim_request_id = $1, lease_owner = 'last', lease_token = 1,
                         lease_expires_at = now() + interval '1 minute'
         where tenant_id = '${TENANT}' and id = $2 returning id`,
        [requestId, rows[0]?.id],
      );
    };
    try {
      const requestId = newId();
      const theirs = await claimThere(requestId);
      const mine = here(requestId);
      await until('this one waits', async () => (await countWaiting()) === 1);
      await last.query('commit');
      t.is((await mine)?.id, theirs.rows[0].id);
      t.is(await countRunning(), 1);

      await query("update jobs set state = 'PENDING', claim_request_id = null");
      const [locked, free] = await query<{ id: string }>('select id from jobs order by created_at, id');
      await last.query(`begin; set local lethe.tenant = '${TENANT}'`);
      await last.query('select from jobs where id = $1 for update', [locked?.id]);
      const again = newId();
      // Where there is another job, it is claimed here, and the last release cannot claim for the same request.
      if (free) t.is((await here(again))?.id, free.id);
      const late = last.query('update jobs set claim_request_id = $1 where id = $2', [again, locked?.id]);
      await (free ? t.throwsAsync(late, { message: /jobs_claim_request/ }) : t.notThrowsAsync(late));
      await last.query('rollback');
    } finally {
      await last.end();
      await close();
    }
  });
}
