import anyTest, { type TestFn } from 'ava';
import pg from 'pg';
import { makeCatalogueRepository } from '#services/retention/adapters/postgres/catalogue-repository.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { makeStopRepository } from '#services/retention/adapters/postgres/stop-repository.ts';
import type { CatalogueSubject } from '#services/retention/domain/catalogue.ts';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

const AT_ONCE = 20;

const WAITING = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
const BY = { actor: 'ada', subject: 'ada', reason: 'asked for' };

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

/** Two replicas, and a process of the last release. */
async function fixture(postgres: TestPostgres) {
  const created = await postgres.createDatabase(retentionMigrations);
  const databases = [created.open(), created.open()] as const;
  const last = new pg.Client({ connectionString: created.appUrl });
  await last.connect();
  const countAudited = async (action: string): Promise<number> =>
    (await created.query('select from installation_audit where action = $1', [action])).length;
  const countWaiting = async () => (await created.query(WAITING)).length;
  const close = async () => {
    await last.end();
    await Promise.all(databases.map((database) => database.close()));
  };
  return { ...created, databases, last, countAudited, countWaiting, close };
}

const NEW: CatalogueSubject = {
  name: 'a_new_one',
  owner: 'foreign',
  dataId: 'foreign-1',
  resourceType: 'thing',
  dependentTypes: [],
  ageOf: 'things.created_at',
  hasFloor: false,
  problem: undefined,
  claim: undefined,
  listedAt: undefined,
  observeNightsLeft: 2,
  retirement: undefined,
};

type Decide = Parameters<ReturnType<typeof makeCatalogueRepository>['update']>[1];

/** What reconciling does with a subject that an owner lists: inserts it where it is not known. */
const listNew = (known: readonly CatalogueSubject[]) =>
  known.some(({ name }) => name === NEW.name) ? [] : [{ subject: NEW, event: 'bound' as const }];

/** Retires a subject unless it is retired. */
const retireExecutions = (known: readonly CatalogueSubject[], now: Temporal.Instant) =>
  known
    .filter(({ name, retirement }) => name === 'executions' && !retirement)
    .map((subject) => ({
      subject: { ...subject, retirement: { at: now, by: 'ada', reason: 'asked for' } },
      event: 'retired' as const,
    }));

test.serial('of many who stop purges at once one does, and the others are told by whom', async (t) => {
  const { databases, countAudited, close } = await fixture(t.context.postgres);
  const stops = databases.map(makeStopRepository);
  const answers = await Promise.all(
    Array.from({ length: AT_ONCE }, (_, index) =>
      stops[index % 2]?.set({ isStopped: true, actor: `actor-${index}`, subject: 'ada', reason: 'asked for' }),
    ),
  );
  t.deepEqual(new Set(answers.map((stop) => stop?.version)), new Set([1]));
  t.is(new Set(answers.map((stop) => stop?.last?.actor)).size, 1);
  t.is(await countAudited('stop-purges'), 1);
  await close();
});

test.serial('stops and resumptions at once alternate, each with a row and an entry in the audit', async (t) => {
  const { databases, query, countAudited, close } = await fixture(t.context.postgres);
  const stops = databases.map(makeStopRepository);
  await Promise.all(
    Array.from({ length: AT_ONCE * 4 }, (_, index) =>
      stops[index % 2]?.set({ ...BY, isStopped: index % 4 < 2, reason: 'asked for' }),
    ),
  );
  const rows = await query<{ version: string; is_stopped: boolean }>(
    'select version, is_stopped from purge_stops order by version',
  );
  t.deepEqual(
    rows,
    rows.map((_, index) => ({ version: String(index + 1), is_stopped: index % 2 === 0 })),
  );
  t.is((await countAudited('stop-purges')) + (await countAudited('resume-purges')), rows.length);
  await close();
});

test.serial('a process of the last release and one of this do not both stop purges', async (t) => {
  const { databases, last, query, countWaiting, countAudited, close } = await fixture(t.context.postgres);
  const stops = makeStopRepository(databases[0]);
  // As the last release does it, up to its commit.
  const LAST = `insert into purge_stops (version, is_stopped, actor, subject, reason) values (1, true, 'last', 'last', 'x')`;
  await last.query(`begin; select pg_advisory_xact_lock(5383100); ${LAST}`);
  const stopping = stops.set({ ...BY, isStopped: true });
  await until('this one waits', async () => (await countWaiting()) === 1);
  await last.query('commit');
  t.like(await stopping, { version: 1, last: { actor: 'last' } });
  t.is(await countAudited('stop-purges'), 0, 'it has changed nothing');

  await query('delete from purge_stops');
  await stops.set({ ...BY, isStopped: true });
  await t.throwsAsync(last.query(LAST), { message: /purge_stops_pkey/ });
  await close();
});

test.serial('of many who change the catalogue at once one does, and the others see what it did', async (t) => {
  const { databases, query, countAudited, close } = await fixture(t.context.postgres);
  const catalogues = databases.map(makeCatalogueRepository);
  const atOnce = (decide: Decide) =>
    Promise.all(Array.from({ length: AT_ONCE }, (_, index) => catalogues[index % 2]?.update(BY, decide)));
  const retired = await atOnce(retireExecutions);
  t.is(retired.filter((changes) => changes?.length === 1).length, 1);
  t.is(await countAudited('subject-retired'), 1);

  // What is to be inserted has no row yet to wait at.
  const listed = await atOnce(listNew);
  t.is(listed.filter((changes) => changes?.length === 1).length, 1);
  t.is(await countAudited('subject-bound'), 1);

  await query('truncate subjects cascade');
  const first = await atOnce(listNew);
  t.is(first.filter((changes) => changes?.length === 1).length, 1, 'also in a catalogue that is empty');
  await close();
});

test.serial('a process of the last release and one of this do not both change a subject', async (t) => {
  const { databases, last, query, countWaiting, countAudited, close } = await fixture(t.context.postgres);
  const catalogue = makeCatalogueRepository(databases[0]);
  // As the last release does it, up to its commit.
  const LOCKED = `select pg_advisory_xact_lock(5383101); select * from subjects order by name collate "C" for no key update`;
  const meet = async (theirs: string, mine: Decide) => {
    await last.query(`begin; ${LOCKED}; ${theirs}`);
    const changing = catalogue.update(BY, mine);
    await until('this one waits', async () => (await countWaiting()) === 1);
    await last.query('commit');
    t.deepEqual(await changing, []);
  };
  await meet(
    `update subjects set retired_at = now(), retired_by = 'last', retire_reason = 'x' where name = 'executions'`,
    retireExecutions,
  );
  await meet(
    `insert into subjects (name, owner, resource_type, age_of, has_floor)
     values ('${NEW.name}', 'foreign', 'thing', 'things.created_at', false)`,
    listNew,
  );
  t.is(await countAudited('subject-retired'), 0);
  t.is(await countAudited('subject-bound'), 0);

  await query("update subjects set retired_at = null where name = 'executions'");
  let theirs: Promise<pg.QueryResult> | undefined;
  await catalogue.update(BY, (known, now) => {
    theirs = last.query(`select retired_at from subjects where name = 'executions' for no key update`);
    return retireExecutions(known, now);
  });
  t.truthy((await theirs)?.rows[0].retired_at, 'it waits, and reads what came of it');
  await close();
});
