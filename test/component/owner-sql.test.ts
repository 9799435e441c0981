import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { makeTurns } from '#libs/durable/turns.ts';
import { newId } from '#libs/kernel/id.ts';
import { makeOwner } from '#libs/owner/make-owner.ts';
import { BY_INDEX } from '#libs/owner/operations.ts';
import type { OwnerOrder } from '#libs/owner/owner.ts';
import { countDated, countExpired, countUndated, type Named, removeBatch } from '#libs/owner/statements.ts';
import type { OwnedSubject, OwnerRule } from '#libs/owner/subject.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { INCIDENT_SUBJECTS } from '#services/incident/adapters/postgres/subjects.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';

interface Context {
  postgres: TestPostgres;
  created: TestDatabase;
  database: Database;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const postgres = await startTestPostgres();
  const created = await postgres.createDatabase(incidentMigrations);
  Object.assign(t.context, { postgres, created, database: created.open() });
  // A dense tenant, a sparse one and one with nothing.
  for (const [tenantId, rows] of [
    ['dense', 6_000],
    ['sparse', 20],
  ] as const) {
    await created.query(
      `with e as (insert into environments (tenant_id, id, display_name) values ($1, gen_random_uuid(), 'e') returning id),
       c as (insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
             select $1, gen_random_uuid(), e.id, 'DRIFT', now() - n * interval '1 hour' from e, generate_series(1, $2) n),
       i as (insert into incidents (tenant_id, id, environment_id, title, state, close_cause, closed_at)
             select $1, gen_random_uuid(), e.id, 'drift', 'CLOSED', 'RESOLVED', now() - n * interval '1 hour'
             from e, generate_series(1, $2) n returning tenant_id, id, closed_at),
       p as (insert into incident_payloads (tenant_id, incident_id, payload_json) select tenant_id, id, '{}' from i)
       insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at, request_notes)
       select tenant_id, gen_random_uuid(), id, 'CLOSED', 'APPROVED', 'ada', closed_at, 'why' from i`,
      [tenantId, rows],
    );
  }
  await created.query('analyze');
});
test.after.always(async (t) => {
  await t.context.database?.close();
  await t.context.postgres?.stop();
});

const planOf = (t: T, tenantId: string, { text, bindings }: Named): Promise<string> =>
  t.context.database.forTenant(tenantId, async (trx) => {
    await trx.raw(`select ${BY_INDEX}`);
    const { rows } = await trx.raw(`explain ${text}`, bindings as Record<string, string | number>);
    return rows.map((row: Record<string, string>) => row['QUERY PLAN']).join('\n');
  });

for (const subject of INCIDENT_SUBJECTS) {
  for (const tenantId of ['dense', 'sparse', 'empty']) {
    test(`${subject.name}: for a tenant that is ${tenantId} the app role finds rows by tenant and age in an index`, async (t) => {
      const cutoff = Temporal.Now.instant().subtract({ hours: 24 * 30 });
      const after = ['2001-01-01T00:00:00Z', ...subject.key.map(() => newId())];
      const range = { tenantId, cutoff, stale: undefined, floor: undefined, after, scan: 1_000 };
      const ages = {
        expired: `${subject.age} <`,
        dated: `${subject.age} IS NOT NULL`,
        undated: `${subject.age} IS NULL`,
      };
      for (const [part, statement] of [
        ['expired', countExpired(subject, range)],
        ['expired', removeBatch(subject, range, 1_000)],
        ['dated', countDated(subject, tenantId, undefined, 1_000)],
        ['undated', countUndated(subject, tenantId, undefined, 1_000)],
      ] as const) {
        const plan = await planOf(t, tenantId, statement);
        t.notRegex(plan, /Seq Scan/, plan);
        const slice = plan.slice(plan.indexOf('CTE slice'));
        const [condition = ''] = /Index Cond: .*/.exec(slice) ?? [];
        t.true(condition.includes('tenant_id ='), plan);
        t.true(condition.includes(ages[part]), plan);
      }
    });
  }
}

const CALL = { budgetMs: 5_000, signal: new AbortController().signal };

const ownerOf = (t: T, options: { snapshotAgeMs: number; maxPauseMs: number }) =>
  makeOwner({
    ...options,
    database: t.context.database,
    subjects: INCIDENT_SUBJECTS,
    turns: makeTurns(),
    onPurged: () => undefined,
  });

const subjectOf = (name: string): OwnedSubject => {
  const subject = INCIDENT_SUBJECTS.find((each) => each.name === name);
  if (!subject) throw new Error(name);
  return subject;
};

const RULE: OwnerRule = {
  retentionDays: 30,
  cutoff: undefined,
  latestCutoff: Temporal.Instant.from('2999-01-01T00:00:00Z'),
  minToKeep: 0,
  maxRows: undefined,
  staleAfterDays: undefined,
};

test.serial('a batch of several slow statements is cut off within two seconds, and done with fewer rows', async (t) => {
  const { created, database } = t.context;
  await created.query(`
    with e as (insert into environments (tenant_id, id, display_name) values ('slow', gen_random_uuid(), 'e') returning id)
      insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
      select 'slow', gen_random_uuid(), e.id, 'DRIFT', now() - interval '90 days' from e, generate_series(1, 200);
    create sequence naps;
    grant usage on sequence naps to public;
    create function nap() returns trigger language plpgsql as $$
      begin perform pg_sleep(1.3) where nextval('naps') = 1; return null; end $$;
    create trigger nap before delete on drift_checks for each statement execute function nap()`);
  const slow = subjectOf('drift_checks');
  const subject = { ...slow, lock: [...(slow.lock ?? []), 'select pg_sleep(0.8) where :tenantId <> current_user'] };
  const owner = makeOwner({
    database,
    subjects: [subject],
    turns: makeTurns(),
    onPurged: () => undefined,
    snapshotAgeMs: 3_600_000,
    maxPauseMs: 3_600_000,
  });
  const caller = { actor: 'system:retention', subject: 'service:retention' };
  let isOver = false;
  const purging = owner.purge({ tenantId: 'slow', subject, caller }, newId(), RULE, 1_000, CALL).finally(() => {
    isOver = true;
  });
  let longestMs = 0;
  while (!isOver) {
    const [open] = await created.query<{ ms: number }>(
      `select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 * 1000 as ms
       from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
    );
    longestMs = Math.max(longestMs, open?.ms ?? 0);
  }
  await created.query('drop trigger nap on drift_checks');
  t.like(await purging, { operation: { removed: 200 } });
  t.log(`longest transaction ${Math.round(longestMs)} ms`);
  t.true(longestMs > 800 && longestMs < 2_000, `${longestMs} ms`);
});

test.serial(
  'a purge stands still while a snapshot is held, says for how long and why, and gives up in the end',
  async (t) => {
    const order: OwnerOrder = {
      tenantId: 'held',
      subject: subjectOf('drift_checks'),
      caller: { actor: 'system:retention', subject: 'service:retention' },
    };
    await t.context.created.query(
      `with e as (insert into environments (tenant_id, id, display_name) values ('held', gen_random_uuid(), 'e') returning id)
     insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
     select 'held', gen_random_uuid(), e.id, 'DRIFT', now() - interval '90 days' from e`,
    );
    // Of the superuser: the app role sees nothing of its session, but its age.
    const holder = new pg.Client({ connectionString: t.context.created.superuserUrl });
    await holder.connect();
    try {
      await holder.query('begin isolation level repeatable read');
      await holder.query('select count(*) from environments');
      const owner = ownerOf(t, { snapshotAgeMs: 1, maxPauseMs: 1 });
      const operationId = newId();
      const first = await owner.purge(order, operationId, RULE, 10, CALL);
      t.like(first, { isComplete: false, isThrottled: false });
      t.true((first.retryAfterMs ?? 0) > 0);
      await holder.query('select pg_sleep(0.01)');
      const second = await owner.purge(order, operationId, RULE, 10, CALL);
      t.like(second, { isComplete: false, isThrottled: true });
      t.true((second.operation.waits['OLD_SNAPSHOT'] ?? 0) >= 1);
      t.is(second.operation.removed, 0);
      await holder.query('commit');
      const patient = ownerOf(t, { snapshotAgeMs: 60_000, maxPauseMs: 3_600_000 });
      const last = await patient.purge(order, operationId, RULE, 10, CALL);
      t.true(last.isComplete);
      t.is(last.operation.removed, 1);
      t.true((last.operation.waits['OLD_SNAPSHOT'] ?? 0) >= (second.operation.waits['OLD_SNAPSHOT'] ?? 0));
    } finally {
      await holder.end();
    }
  },
);

test.serial(
  'a purge whose rows cannot be removed says so instead of trying for ever, and its end counts them',
  async (t) => {
    const { created } = t.context;
    await created.query(
      `with e as (insert into environments (tenant_id, id, display_name) values ('stuck', gen_random_uuid(), 'e') returning id)
     insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
     select 'stuck', gen_random_uuid(), e.id, case when n > 3 then 'DRIFT' else 'UNKNOWN' end, now() - interval '90 days'
     from e, generate_series(1, 8) n`,
    );
    await created.query(`
    create function keep() returns trigger language plpgsql as 'begin return null; end';
    create trigger keep before delete on drift_checks for each row when (old.tenant_id = 'stuck' and old.status = 'UNKNOWN')
      execute function keep()`);
    t.teardown(() => created.query('drop function keep() cascade'));
    const order: OwnerOrder = {
      tenantId: 'stuck',
      subject: subjectOf('drift_checks'),
      caller: { actor: 'system:retention', subject: 'service:retention' },
    };
    const owner = ownerOf(t, { snapshotAgeMs: 60_000, maxPauseMs: 0 });
    const operationId = newId();
    const purged = await owner.purge(order, operationId, RULE, 1_000, CALL);
    t.like(purged, { isComplete: false, isStuck: true });
    t.is(purged.operation.removed, 5, 'what can be removed is');
    t.like(await owner.end(order, operationId, undefined, CALL), { left: 3 });
  },
);

test.serial(
  'rows of which a few are too many for one statement go one by one, and one that never ends is told of',
  async (t) => {
    const { created } = t.context;
    await created.query(`
    with e as (insert into environments (tenant_id, id, display_name) values ('dear', gen_random_uuid(), 'e') returning id)
      insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
      select 'dear', gen_random_uuid(), e.id, case n when 3 then 'IN_SYNC' when 6 then 'UNKNOWN' else 'DRIFT' end,
             now() - interval '90 days' + n * interval '1 second'
      from e, generate_series(1, 6) n;
    create function be_dear() returns trigger language plpgsql as $$
      begin
        if (select count(*) from old_rows) > 1 or exists (select from old_rows where status = 'UNKNOWN') then
          raise query_canceled;
        end if;
        perform pg_sleep(2) from old_rows where status = 'IN_SYNC';
        return null;
      end $$;
    create trigger be_dear after delete on drift_checks referencing old table as old_rows for each statement
      execute function be_dear()`);
    t.teardown(() => created.query('drop function be_dear() cascade'));
    const order: OwnerOrder = {
      tenantId: 'dear',
      subject: subjectOf('drift_checks'),
      caller: { actor: 'system:retention', subject: 'service:retention' },
    };
    const owner = ownerOf(t, { snapshotAgeMs: 60_000, maxPauseMs: 0 });
    const purged = await owner.purge(order, newId(), RULE, 1_000, { ...CALL, budgetMs: 60_000 });
    t.like(purged, { isComplete: false, isStuck: false, isTooSlow: true });
    t.is(purged.operation.removed, 5, 'one that takes longer than a batch may has the time of any other statement');
  },
);

test.serial('operations that nothing has touched for 90 days are forgotten, and no others', async (t) => {
  await t.context.created.query(
    `insert into owner_operations (tenant_id, operation_id, subject, actor, updated_at)
     select tenant, gen_random_uuid(), 'approvals', 'ada', now() - days * interval '1 day'
     from unnest(array['old-a', 'old-b']) tenant, unnest(array[89, 91, 400]) days`,
  );
  const owner = ownerOf(t, { snapshotAgeMs: 60_000, maxPauseMs: 0 });
  t.is(await owner.expireOperations(), 4);
  t.is(await owner.expireOperations(), 0);
  const left = await t.context.created.query<{ tenant_id: string }>(
    `select tenant_id from owner_operations where tenant_id like 'old-%' order by 1`,
  );
  t.deepEqual(
    left.map(({ tenant_id }) => tenant_id),
    ['old-a', 'old-b'],
  );
});
