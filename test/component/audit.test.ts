import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { AuditEntry, AuditFilter } from '#gen/lethe/audit/v1/audit_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { type AuditFilter as Filter, listAudit } from '#libs/audit/read-audit.ts';
import { makeRefusalRecorder } from '#libs/audit/record-refusals.ts';
import { audit, auditInstallation } from '#libs/audit/write-audit.ts';
import { CALLER } from '#libs/grpc/caller.ts';
import type { Refusal } from '#libs/grpc/connect-handlers.ts';
import { runAsCaller } from '#libs/grpc/current-caller.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { makeLogger } from '#libs/telemetry/logger.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';

const SERVICES = {
  run: runMigrations,
  job: jobMigrations,
  incident: incidentMigrations,
  retention: retentionMigrations,
};

interface Context {
  readonly postgres: TestPostgres;
  readonly of: Readonly<Record<string, { readonly created: TestDatabase; readonly database: Database }>>;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

// Twelve entries share each microsecond, so that pages of seven end in the middle of one.
const FILL = `insert into audit_entries (tenant_id, at, actor, subject, action, target_type, target_id, outcome, counts)
  select $1, timestamptz '2026-01-01 00:00:00.123456Z' + (n / 12) * interval '1 microsecond',
         'actor-' || n % 50, 'subject', 'action-' || n % 5, 'job', 'target-' || n % 200, 'DONE', '{"objects": 3}'
  from generate_series(1, $2) n`;

test.before(async (t) => {
  const postgres = await startTestPostgres();
  const of = Object.fromEntries(
    await Promise.all(
      Object.entries(SERVICES).map(async ([service, migrations]) => {
        const created = await postgres.createDatabase(migrations);
        for (const [tenantId, rows] of [
          ['paged', 400],
          ['dense', 20_000],
          ['other', 30],
        ] as const) {
          await created.query(FILL, [tenantId, rows]);
        }
        await created.query(`insert into installation_audit (at, actor, subject, action, target_type, target_id, outcome)
          select at, actor, subject, action, target_type, target_id, 'INSTALLED' from audit_entries where tenant_id = 'dense'`);
        await created.query('analyze');
        return [service, { created, database: created.open() }] as const;
      }),
    ),
  );
  Object.assign(t.context, { postgres, of });
});
test.after.always(async (t) => {
  for (const { database } of Object.values(t.context.of ?? {})) await database.close();
  await t.context.postgres?.stop();
});

const callerIn = (tenantId: string | undefined, role: 'admin' | 'platform' = 'admin'): Caller => ({
  subject: 'ada',
  kind: role === 'platform' ? 'platform' : 'user',
  tenantId,
  role,
  scopes: new Set(['audit:read']),
  actor: 'ada',
});

const contextOf = (caller: Caller) =>
  ({ values: { get: (key: unknown) => (key === CALLER ? caller : undefined) } }) as never;

async function listAll(
  { database }: Context['of'][string],
  caller: Caller,
  filter: Partial<AuditFilter> = {},
  pageSize = 200,
) {
  const { listAuditEntries } = auditHandlers(database);
  const found: AuditEntry[] = [];
  let pageToken = '';
  do {
    const page = await listAuditEntries({ pageSize, pageToken, filter: filter as AuditFilter }, contextOf(caller));
    found.push(...(page.entries as AuditEntry[]));
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  return found;
}

const serviceOf = (t: T, name: string): Context['of'][string] => {
  const service = t.context.of[name];
  if (!service) throw new Error(`no ${name}`);
  return service;
};

const nanosOf = ({ createTime }: AuditEntry): bigint =>
  (createTime?.seconds ?? 0n) * 1_000_000_000n + BigInt(createTime?.nanos ?? 0);

for (const name of Object.keys(SERVICES)) {
  test(`${name}: pages join without a gap or a repetition, also where entries share a microsecond`, async (t) => {
    const entries = await listAll(serviceOf(t, name), callerIn('paged'), {}, 7);
    t.is(entries.length, 400);
    t.is(new Set(entries.map(({ id }) => id)).size, 400);
    t.deepEqual(
      entries.map(nanosOf),
      entries.map(nanosOf).toSorted((a, b) => (a > b ? -1 : 1)),
    );
    t.true(entries.every(({ createTime }) => (createTime?.nanos ?? 0) % 1_000 === 0 && (createTime?.nanos ?? 0) > 0));
    t.like(entries[0], { tenantId: 'paged', subject: 'subject', targetType: 'job', counts: { objects: 3 } });
  });

  test(`${name}: filters match exactly, and times to the microsecond`, async (t) => {
    const service = serviceOf(t, name);
    const count = async (filter: Partial<AuditFilter>) => (await listAll(service, callerIn('paged'), filter)).length;
    t.is(await count({ actor: 'actor-7' }), 8);
    t.is(await count({ action: 'action-3' }), 80);
    t.is(await count({ targetId: 'target-11' }), 2);
    t.is(await count({ targetId: 'target-11', actor: 'actor-11', action: 'action-1' }), 2);
    t.is(await count({ targetId: 'target-11', actor: 'actor-12' }), 0);
    const at = (nanos: number) => ({ seconds: 1_767_225_600n, nanos }) as never;
    // The third microsecond has the rows 24 to 35.
    t.is(await count({ afterTime: at(123_458_000), beforeTime: at(123_459_000) }), 12);
    t.is(await count({ afterTime: at(123_457_001), beforeTime: at(123_458_001) }), 12);
  });

  test(`${name}: the first and the last instant of all bound a list as any other does`, async (t) => {
    const service = serviceOf(t, name);
    const [first, last] = [
      { seconds: -62_135_596_800n, nanos: 0 },
      { seconds: 253_402_300_799n, nanos: 999_999_999 },
    ] as never[];
    const count = async (filter: object) => (await listAll(service, callerIn('other'), filter)).length;
    t.is(await count({ afterTime: first, beforeTime: last }), 30);
    t.is(await count({ afterTime: last }), 0);
    t.is(await count({ beforeTime: first }), 0);
  });

  test(`${name}: another tenant's entries are never seen`, async (t) => {
    const service = serviceOf(t, name);
    for (const filter of [{}, { tenantId: 'other' }, { actor: 'actor-1' }, { targetId: 'target-1' }]) {
      const entries = await listAll(service, callerIn('other'), filter);
      t.true(entries.length > 0 && entries.every(({ tenantId }) => tenantId === 'other'));
    }
    t.deepEqual(await listAll(service, callerIn('empty')), []);
    for (const tenantId of ['paged', 'no-such-tenant']) {
      const error = await t.throwsAsync(listAll(service, callerIn('other'), { tenantId }), { instanceOf: DomainError });
      t.like(error, { kind: 'permission-denied', reason: 'TENANT_MISMATCH', metadata: {} });
    }
    // A page token of one tenant is none in another.
    const { listAuditEntries } = auditHandlers(service.database);
    const first = await listAuditEntries({ pageSize: 5, pageToken: '' }, contextOf(callerIn('paged')));
    const again = { pageSize: 5, pageToken: first.nextPageToken };
    const stolen = await t.throwsAsync(listAuditEntries(again, contextOf(callerIn('other'))));
    t.like(stolen, { reason: 'FIELD_INVALID' });
  });

  test(`${name}: platform names a tenant, and sees what belongs to none where it names none`, async (t) => {
    const service = serviceOf(t, name);
    t.is((await listAll(service, callerIn(undefined, 'platform'), { tenantId: 'other' })).length, 30);
    t.is((await listAll(service, callerIn('paged', 'platform'))).length, 400);
    const installed = await listAll(service, callerIn(undefined, 'platform'), { targetId: 'target-1' });
    t.is(installed.length, 100);
    t.true(installed.every(({ tenantId, outcome }) => tenantId === '' && outcome === 'INSTALLED'));
  });

  test(`${name}: the app role finds entries by an index, whatever the filter`, async (t) => {
    const { database } = serviceOf(t, name);
    const none: Filter = {
      actor: undefined,
      action: undefined,
      targetId: undefined,
      after: undefined,
      before: undefined,
    };
    const at = Temporal.Instant.from('2026-01-01T00:00:00.124Z');
    const key = [at.toString(), '00000000-0000-0000-0000-000000000000'];
    for (const tenantId of ['dense', 'other', 'empty', undefined]) {
      for (const filter of [
        none,
        { ...none, actor: 'actor-7' },
        { ...none, action: 'action-3' },
        { ...none, targetId: 'target-11' },
        { ...none, after: at, before: at.add({ seconds: 1 }) },
      ]) {
        for (const after of [undefined, key]) {
          const { text, values } = listAudit(tenantId, filter, { limit: 50, after });
          const statement = { text: `explain ${text}`, values };
          const rows =
            tenantId === undefined
              ? await database.acrossTenants<Record<string, string>>(statement)
              : await database.readForTenant<Record<string, string>>(tenantId, statement);
          const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
          t.notRegex(plan, /Seq Scan/, plan);
          t.regex(plan, /Index (Only )?Scan/, plan);
          if (tenantId !== undefined) t.regex(plan, /Index Cond: \(\(?tenant_id = /, plan);
          if (tenantId === 'dense' && filter.targetId) t.regex(plan, /audit_entries_target_id/, plan);
        }
      }
    }
  });
}

for (const name of Object.keys(SERVICES)) {
  test(`${name}: what a caller does is traced to the key by which it came, and what others do is not`, async (t) => {
    const { database } = serviceOf(t, name);
    const caller = { ...callerIn('traced'), trustEntry: 'company' };
    const of = (subject: string, action: string, trustEntry?: string) => ({
      ...{ tenantId: 'traced', actor: 'ada', subject, action, targetType: 'job', targetId: 'traced', outcome: 'DONE' },
      ...(trustEntry ? { trustEntry } : {}),
    });
    const write = (entry: ReturnType<typeof of>) => database.forTenant('traced', (trx) => audit(trx, entry));
    await runAsCaller(caller, async () => {
      await write(of('ada', 'own'));
      await write(of('service:run', 'worker'));
      await write(of('service:run', 'ordered', 'runs'));
      await database.forInstallation((trx) => auditInstallation(trx, of('ada', 'installed')));
    });
    await write(of('ada', 'later'));
    const keys = Object.fromEntries(
      (await listAll(serviceOf(t, name), callerIn('traced'))).map(({ action, trustEntry }) => [action, trustEntry]),
    );
    t.deepEqual(keys, { own: 'company', worker: '', ordered: 'runs', later: '' });
    const installed = await listAll(serviceOf(t, name), callerIn(undefined, 'platform'), { targetId: 'traced' });
    t.deepEqual(
      installed.map(({ trustEntry }) => trustEntry),
      ['company'],
    );
  });
}

/** A log that keeps its lines. */
function keptLog() {
  const lines: Record<string, unknown>[] = [];
  return { lines, log: makeLogger('test', 'info', { write: (line: string) => void lines.push(JSON.parse(line)) }) };
}

const refusedIn = (tenantId: string, actor: string, rpc: string): Refusal => ({
  rpc,
  caller: { ...callerIn(tenantId), actor, subject: actor },
  reason: 'ROLE_TOO_LOW',
  peer: '127.0.0.1:1',
});

test('a flood of refusals leaves few entries, whose counts add up to every call', async (t) => {
  const job = serviceOf(t, 'job');
  const { lines, log } = keptLog();
  let counted = 0;
  const metrics = {
    callRefused() {
      counted += 1;
    },
  };
  const recorder = makeRefusalRecorder({ database: job.database, log, metrics });
  const flood = 20_000;
  for (let call = 0; call < flood; call += 1) recorder.record(refusedIn('flooded', 'mallory', `s/Rpc${call % 15}`));
  // One more caller than a tenant has entries for, and two beyond.
  for (let caller = 0; caller < 101; caller += 1) recorder.record(refusedIn('flooded', `caller-${caller}`, 's/Rpc'));
  for (let call = 0; call < 1_000; call += 1) recorder.record({ ...refusedIn('', '', 's/Rpc'), caller: undefined });
  await recorder.stop();
  t.is(counted, flood + 101 + 1_000);
  const entries = await listAll(job, callerIn('flooded'));
  const numberOf = ({ counts }: AuditEntry): number => Number(counts?.['refusals'] ?? 1);
  const sumOf = (actor: string) =>
    entries.filter((entry) => entry.actor === actor).reduce((sum, entry) => sum + numberOf(entry), 0);
  t.is(entries.filter(({ actor }) => actor === 'mallory').length, 21);
  t.is(sumOf('mallory'), flood);
  t.is(sumOf('*'), 2);
  t.is(entries.length, 21 + 99 + 1);
  // As many lines as entries, and two for the thousand whose credential was not believed.
  t.is(lines.length, entries.length + 2);
  t.true(lines.some(({ msg, refusals }) => msg === 'credentials not believed' && refusals === 999));
});

test('each refusal, and each count of more, names the key by which its caller came', async (t) => {
  const { log } = keptLog();
  const recorder = makeRefusalRecorder({
    database: serviceOf(t, 'job').database,
    log,
    metrics: { callRefused: () => undefined },
  });
  const refused = refusedIn('traced-refusals', 'ada', 's/Rpc');
  for (const trustEntry of ['company', 'stolen', 'stolen', 'stolen'])
    recorder.record({ ...refused, caller: { ...refused.caller, trustEntry } as Caller });
  await recorder.stop();
  const entries = await listAll(serviceOf(t, 'job'), callerIn('traced-refusals'));
  t.deepEqual(entries.map(({ trustEntry, counts }) => [trustEntry, counts?.['refusals'] ?? 1]).toSorted(), [
    ['company', 1],
    ['stolen', 1],
    ['stolen', 2],
  ]);
});

test('repetitions are written when the window ends, and then the first refusal has an entry of its own again', async (t) => {
  const job = serviceOf(t, 'job');
  const { log } = keptLog();
  const metrics = { callRefused: () => undefined };
  const recorder = makeRefusalRecorder({ database: job.database, log, metrics, windowMs: 300 });
  const entries = () => listAll(job, callerIn('repeated'));
  const shown = async () => (await entries()).map(({ counts }) => counts?.['refusals']).toReversed();
  for (let call = 0; call < 5; call += 1) recorder.record(refusedIn('repeated', 'ada', 's/Rpc'));
  await until('the window ends', async () => (await entries()).length === 2);
  recorder.record(refusedIn('repeated', 'ada', 's/Rpc'));
  await until('a new window begins', async () => (await entries()).length === 3);
  t.deepEqual(await shown(), [undefined, 4, undefined]);
  await recorder.stop();
  t.is((await entries()).length, 3);
});

test('what waits when a service stops is tried again until five seconds are over, not once', async (t) => {
  const job = serviceOf(t, 'job');
  let failures = 3;
  const forTenant: Database['forTenant'] = (tenantId, work) => {
    failures -= 1;
    return failures >= 0 ? Promise.reject(dependencyUnavailable('database')) : job.database.forTenant(tenantId, work);
  };
  const metrics = { callRefused: () => undefined };
  const recorder = makeRefusalRecorder({ database: { ...job.database, forTenant }, log: keptLog().log, metrics });
  for (let call = 0; call < 9; call += 1) recorder.record(refusedIn('stopping', 'ada', 's/Rpc'));
  await recorder.stop();
  t.deepEqual(
    (await listAll(job, callerIn('stopping'))).map(({ counts }) => counts?.['refusals'] ?? 1).toSorted(),
    [1, 8],
  );
});

test('refusals wait while the database is away, hold nobody up, and are written once', async (t) => {
  const job = serviceOf(t, 'job');
  const { lines, log } = keptLog();
  const metrics = { callRefused: () => undefined };
  let isAway = true;
  const forTenant: Database['forTenant'] = (tenantId, work) =>
    isAway ? Promise.reject(dependencyUnavailable('database')) : job.database.forTenant(tenantId, work);
  const recorder = makeRefusalRecorder({ database: { ...job.database, forTenant }, log, metrics });
  for (let call = 0; call < 9; call += 1) recorder.record(refusedIn(`away-${call % 3}`, 'ada', `s/Rpc${call}`));
  await until('it was tried', async () => lines.some(({ msg }) => String(msg).includes('could not be written')));
  isAway = false;
  await recorder.stop();
  for (const tenantId of ['away-0', 'away-1', 'away-2']) t.is((await listAll(job, callerIn(tenantId))).length, 3);
});

test('a refusal that cannot be written is dropped and logged, and holds up no other', async (t) => {
  const job = serviceOf(t, 'job');
  const { lines, log } = keptLog();
  const recorder = makeRefusalRecorder({ database: job.database, log, metrics: { callRefused: () => undefined } });
  for (const actor of ['before', 'a\u0000b', 'after']) recorder.record(refusedIn('unwritable', actor, 's/Rpc'));
  recorder.record({ ...refusedIn('', '', 's/Rpc'), caller: undefined, trustEntry: 'a\u0000b' });
  recorder.record(refusedIn('unwritable-beside', 'ada', 's/Rpc'));
  await recorder.stop();
  const actorsIn = async (tenantId: string) =>
    (await listAll(job, callerIn(tenantId))).map(({ actor }) => actor).toSorted();
  t.deepEqual(await actorsIn('unwritable'), ['after', 'before']);
  t.deepEqual(await actorsIn('unwritable-beside'), ['ada']);
  t.is(lines.filter(({ msg }) => msg === 'a refusal is missing from the audit').length, 2);
});

for (const [whose, tenantId] of [
  ['a tenant', 'answer-lost'],
  ['the installation', undefined],
] as const) {
  test(`refusals of ${whose} are written once, also where the answer to their commit was lost`, async (t) => {
    const job = serviceOf(t, 'job');
    let lost = 0;
    const losing = async <R>(committed: Promise<R>): Promise<R> => {
      const result = await committed;
      lost += 1;
      if (lost <= 2) throw dependencyUnavailable('database');
      return result;
    };
    const database: Database = {
      ...job.database,
      forTenant: (tenant, work) => losing(job.database.forTenant(tenant, work)),
      forInstallation: (work) => losing(job.database.forInstallation(work)),
    };
    const recorder = makeRefusalRecorder({ database, log: keptLog().log, metrics: { callRefused: () => undefined } });
    for (const name of ['lost-1', 'lost-2', 'lost-3']) {
      const refused = refusedIn(tenantId ?? '', name, 's/Lost');
      recorder.record(tenantId === undefined ? { ...refused, caller: undefined, trustEntry: name } : refused);
    }
    await recorder.stop();
    const caller = tenantId === undefined ? callerIn(undefined, 'platform') : callerIn(tenantId);
    const actors = (await listAll(job, caller, { targetId: 's/Lost' })).map(({ actor }) => actor).toSorted();
    t.is(lost, 3);
    t.deepEqual(
      actors,
      ['lost-1', 'lost-2', 'lost-3'].map((name) => (tenantId === undefined ? `key:${name}` : name)),
    );
  });
}
