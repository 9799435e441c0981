import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { DriftFlag, DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { parseTimestamp } from '#libs/grpc/timestamp.ts';
import { newId } from '#libs/kernel/id.ts';
import { type AgePurger, agePurgerOf } from '#test/support/age-purger.ts';
import { type OwnerAccess, openOwner } from '#test/support/owner-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

interface Context {
  stack: TestStack;
  owner: OwnerAccess;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const stack = await startTestStack({ services: ['incident'] });
  const owner = await openOwner({ address: stack.addresses.incident, name: 'incident', keyFile: stack.suiteKeyFile });
  Object.assign(t.context, { stack, owner });
});
test.after.always(async (t) => {
  t.context.owner?.close();
  await t.context.stack?.dispose();
});

type Incidents = StackClients['incidents'];

const DAY_MS = 86_400_000;

const memberOf = (t: T, tenantId: string): Incidents => t.context.stack.clients({ tenantId, role: 'member' }).incidents;

const purgerOf = (t: T, tenantId: string): AgePurger => agePurgerOf(t.context.owner, tenantId, 'drift_checks');

const sql = <Row>(t: T, text: string, values: readonly unknown[]): Promise<Row[]> =>
  queryOnce<Row>(t.context.stack.superuserUrl('incident'), text, values);

const newEnvironment = async (incidents: Incidents, displayName = 'production'): Promise<string> =>
  (await incidents.createEnvironment({ displayName })).environment?.id ?? '';

/** Checks of one flagged workflow each, seen so many days ago and then every second before; by SQL, as they are many. */
const insertAged = (t: T, tenantId: string, environmentId: string, days: number, count: number) =>
  sql(
    t,
    `with checks as (
       insert into drift_checks (tenant_id, id, environment_id, status, checked_at, modified_count)
       select $1, gen_random_uuid(), $2, 'DRIFT', clock_timestamp() - $3 * interval '1 day' - n * interval '1 second', 1
       from generate_series(1, $4) n returning tenant_id, id)
     insert into drift_check_workflows select tenant_id, id, 'billing', 'MODIFIED' from checks`,
    [tenantId, environmentId, days, count],
  );

const countOf = (
  response: { readonly resourceCounts: Awaited<ReturnType<AgePurger['purge']>>['resourceCounts'] },
  type: string,
): { found: number; deleted: number; left: number } => {
  const count = response.resourceCounts.find(({ resourceType }) => resourceType === type);
  return { found: Number(count?.found), deleted: Number(count?.deleted), left: Number(count?.left) };
};

const rowsLeft = async (t: T, tenantId: string): Promise<{ checks: number; workflows: number }> => {
  const [row] = await sql<{ checks: number; workflows: number }>(
    t,
    `select (select count(*)::int from drift_checks where tenant_id = $1) as checks,
            (select count(*)::int from drift_check_workflows where tenant_id = $1) as workflows`,
    [tenantId],
  );
  return row ?? { checks: -1, workflows: -1 };
};

test('a check becomes the badge of its environment when it is the newest, and an older one leaves the badge', async (t) => {
  const incidents = memberOf(t, 'badges');
  const environmentId = await newEnvironment(incidents);
  const before = await incidents.getEnvironment({ environmentId });
  t.like(before.environment, { driftStatus: DriftStatus.UNKNOWN, modifiedCount: 0 });
  t.is(before.environment?.lastCheckTime, undefined);

  const seen = timestampFromMs(Date.now() - DAY_MS);
  const { driftCheck, environment } = await incidents.recordDriftCheck({
    environmentId,
    status: DriftStatus.DRIFT,
    checkTime: seen,
    summary: { commit: 'abc', files: [1, 2] },
    workflows: [
      { workflow: 'billing', flag: DriftFlag.MODIFIED },
      { workflow: 'import', flag: DriftFlag.MODIFIED },
      { workflow: 'mail', flag: DriftFlag.NOT_IN_GIT },
      { workflow: 'export', flag: DriftFlag.UNKNOWN },
    ],
  });
  const badge = { driftStatus: DriftStatus.DRIFT, modifiedCount: 2, notInGitCount: 1, unknownCount: 1 };
  t.like(environment, { ...badge, lastCheckTime: seen });
  const older = await incidents.recordDriftCheck({
    environmentId,
    status: DriftStatus.IN_SYNC,
    checkTime: timestampFromMs(Date.now() - 2 * DAY_MS),
  });
  t.like(older.environment, { ...badge, lastCheckTime: seen });

  const got = await incidents.getDriftCheck({ driftCheckId: driftCheck?.id ?? '' });
  t.deepEqual(got.driftCheck, driftCheck);
  t.deepEqual(got.driftCheck?.summary, { commit: 'abc', files: [1, 2] });
  t.deepEqual(
    got.driftCheck?.workflows.map(({ workflow }) => workflow),
    ['billing', 'export', 'import', 'mail'],
  );
  const newer = await incidents.recordDriftCheck({ environmentId, status: DriftStatus.IN_SYNC });
  t.like(newer.environment, { driftStatus: DriftStatus.IN_SYNC, modifiedCount: 0, notInGitCount: 0, unknownCount: 0 });
});

test('lists go page by page through everything once, and a token is good for its own list only', async (t) => {
  const incidents = memberOf(t, 'pages');
  const environmentId = await newEnvironment(incidents, 'one');
  const other = await newEnvironment(incidents, 'two');
  for (let n = 0; n < 5; n += 1) {
    await incidents.recordDriftCheck({ environmentId, status: n % 2 ? DriftStatus.DRIFT : DriftStatus.IN_SYNC });
  }
  await incidents.recordDriftCheck({ environmentId: other, status: DriftStatus.UNKNOWN });
  // Rows that only an import could have left without an instant come last, also across pages.
  await sql(
    t,
    `insert into drift_checks (tenant_id, id, environment_id, status) select 'pages', gen_random_uuid(), $1, 'DRIFT'
     from generate_series(1, 3)`,
    [environmentId],
  );
  const seen: string[] = [];
  let token = '';
  do {
    const page = await incidents.listDriftChecks({ environmentId, pageSize: 2, pageToken: token });
    seen.push(...page.driftChecks.map(({ id }) => id));
    token = page.nextPageToken;
  } while (token !== '');
  t.is(seen.length, 8);
  t.is(new Set(seen).size, 8);
  const { driftChecks } = await incidents.listDriftChecks({ status: DriftStatus.UNKNOWN });
  t.deepEqual(
    driftChecks.map((check) => check.environmentId),
    [other],
  );

  const first = await incidents.listDriftChecks({ pageSize: 2 });
  for (const call of [
    incidents.listDriftChecks({ pageToken: first.nextPageToken, environmentId }),
    incidents.listEnvironments({ pageToken: first.nextPageToken }),
    memberOf(t, 'pages-2').listDriftChecks({ pageToken: first.nextPageToken }),
    incidents.listEnvironments({ pageSize: -1 }),
  ]) {
    t.like(await refusalOf(call), { code: Code.InvalidArgument, reason: 'FIELD_INVALID' });
  }
});

test('the same request_id answers with the same thing, and with another body it is refused', async (t) => {
  const incidents = memberOf(t, 'repeats');
  const requestId = newId();
  const created = await incidents.createEnvironment({ displayName: 'production', requestId });
  t.deepEqual(await incidents.createEnvironment({ displayName: 'production', requestId }), created);
  const reused = await refusalOf(incidents.createEnvironment({ displayName: 'staging', requestId }));
  t.is(reused.reason, 'REQUEST_ID_REUSED');
  const taken = await refusalOf(incidents.createEnvironment({ displayName: 'production' }));
  t.like(taken, { code: Code.FailedPrecondition, reason: 'NAME_TAKEN' });

  const check = { environmentId: created.environment?.id ?? '', status: DriftStatus.DRIFT, requestId: newId() };
  const answers = await Promise.all(Array.from({ length: 5 }, () => incidents.recordDriftCheck(check)));
  t.is(new Set(answers.map(({ driftCheck }) => driftCheck?.id)).size, 1);
  t.is((await rowsLeft(t, 'repeats')).checks, 1);
});

test('of checks told at once, the badge is the newest by the time of looking', async (t) => {
  const incidents = memberOf(t, 'at-once');
  const environmentId = await newEnvironment(incidents);
  const flags = Array.from({ length: 20 }, (_, index) => ({ workflow: `workflow-${index}`, flag: DriftFlag.MODIFIED }));
  // Each flags as many workflows as it is recent, so that the badge tells whose it is.
  const told = flags.map((_, index) => ({
    environmentId,
    status: DriftStatus.DRIFT,
    checkTime: timestampFromMs(Date.now() - (flags.length - index) * 60_000),
    workflows: flags.slice(0, index + 1),
  }));
  const answers = await Promise.all(told.toReversed().map((check) => incidents.recordDriftCheck(check)));
  t.deepEqual(
    answers.map(({ driftCheck }) => driftCheck?.workflows.length),
    told.map(({ workflows }) => workflows.length).toReversed(),
  );
  const { environment } = await incidents.getEnvironment({ environmentId });
  t.is(environment?.modifiedCount, flags.length);
  t.deepEqual(environment?.lastCheckTime, told.at(-1)?.checkTime);
});

test("another tenant's environment and check are the same answer as unknown ones", async (t) => {
  const theirs = memberOf(t, 'owner-of-drift');
  const environmentId = await newEnvironment(theirs);
  const { driftCheck } = await theirs.recordDriftCheck({ environmentId, status: DriftStatus.DRIFT });
  const stranger = memberOf(t, 'stranger');
  const unknown = newId();
  t.deepEqual(
    await refusalOf(stranger.getEnvironment({ environmentId })),
    await refusalOf(stranger.getEnvironment({ environmentId: unknown })),
  );
  t.deepEqual(
    await refusalOf(stranger.getDriftCheck({ driftCheckId: driftCheck?.id ?? '' })),
    await refusalOf(stranger.getDriftCheck({ driftCheckId: unknown })),
  );
  t.deepEqual(
    await refusalOf(stranger.recordDriftCheck({ environmentId, status: DriftStatus.DRIFT })),
    await refusalOf(stranger.recordDriftCheck({ environmentId: unknown, status: DriftStatus.DRIFT })),
  );
  t.deepEqual((await stranger.listEnvironments({})).environments, []);
  t.deepEqual((await stranger.listDriftChecks({})).driftChecks, []);
});

test('what is malformed is refused with every field named, and none of it is stored', async (t) => {
  const incidents = memberOf(t, 'malformed');
  const environmentId = await newEnvironment(incidents);
  const check = { environmentId, status: DriftStatus.DRIFT };
  const flagged = (workflow: string) => ({ workflow, flag: DriftFlag.MODIFIED });
  for (const [field, call] of [
    ['display_name', incidents.createEnvironment({ displayName: '' })],
    ['display_name', incidents.createEnvironment({ displayName: 'x'.repeat(201) })],
    ['display_name', incidents.createEnvironment({ displayName: 'a\u0000b' })],
    ['environment_id', incidents.recordDriftCheck({ ...check, environmentId: "' or 1=1" })],
    ['status', incidents.recordDriftCheck({ environmentId })],
    ['status', incidents.recordDriftCheck({ environmentId, status: 99 as DriftStatus })],
    ['check_time', incidents.recordDriftCheck({ ...check, checkTime: timestampFromMs(Date.now() + 3_600_000) })],
    ['check_time', incidents.recordDriftCheck({ ...check, checkTime: { seconds: 10n ** 15n, nanos: 0 } })],
    ['workflows', incidents.recordDriftCheck({ ...check, workflows: [flagged('a'), flagged('a')] })],
    ['workflows[0].workflow', incidents.recordDriftCheck({ ...check, workflows: [flagged('')] })],
    ['workflows[0].flag', incidents.recordDriftCheck({ ...check, workflows: [{ workflow: 'a' }] })],
    ['summary', incidents.recordDriftCheck({ ...check, summary: { 'a\u0000': 1 } })],
    ['summary', incidents.recordDriftCheck({ ...check, summary: { text: 'x'.repeat(1_048_577) } })],
    ['drift_check_id', incidents.getDriftCheck({ driftCheckId: '' })],
  ] as const) {
    const refusal = await refusalOf(call);
    t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID', metadata: { fields: field } });
  }
  t.is((await rowsLeft(t, 'malformed')).checks, 0);
  await t.notThrowsAsync(incidents.recordDriftCheck({ ...check, summary: { text: 'a literal \\u0000 in text' } }));
});

for (const retentionDays of [7, 30, 90, 180]) {
  test(`at ${retentionDays} days, of checks a microsecond before, at and after the cutoff only the older goes, and one without an instant stays`, async (t) => {
    const tenantId = `edge-${retentionDays}`;
    const environmentId = await newEnvironment(memberOf(t, tenantId));
    const request = { operationId: newId(), retentionDays };
    const { cutoffTime } = await purgerOf(t, tenantId).purge(request);
    const cutoff = parseTimestamp('cutoff_time', cutoffTime);
    if (!cutoff) return t.fail('no cutoff');
    const [clock] = await sql<{ age: number }>(
      t,
      `select abs(extract(epoch from clock_timestamp() - $2 * interval '24 hours' - $1::timestamptz))::float as age`,
      [cutoff.toString(), retentionDays],
    );
    t.true((clock?.age ?? 99) < 10, 'the cutoff is of the database’s clock');
    const instants = [-1, 0, 1].map((microseconds) => cutoff.add({ microseconds }).toString());
    for (const checkedAt of [...instants, null]) {
      await sql(
        t,
        `insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
       values ($1, gen_random_uuid(), $2, 'DRIFT', $3)`,
        [tenantId, environmentId, checkedAt],
      );
    }
    const again = await purgerOf(t, tenantId).purge(request);
    t.deepEqual(again.cutoffTime, cutoffTime);
    t.deepEqual(countOf(again, 'drift_check'), { found: 1, deleted: 1, left: 0 });
    const kept = await sql<{ kept: string | null }>(
      t,
      `select to_char(checked_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as kept
     from drift_checks where tenant_id = $1 order by checked_at`,
      [tenantId],
    );
    t.deepEqual(
      kept.map((row) => row.kept && Temporal.Instant.from(row.kept).toString()),
      [instants[1], instants[2], null],
    );
  });
}

test('a purge of many batches removes what a dry run counted, children too, leaves badge and neighbours, and audits once', async (t) => {
  const [tenantId, neighbour] = ['batches', 'batches-2'];
  const environmentId = await newEnvironment(memberOf(t, tenantId));
  await memberOf(t, tenantId).recordDriftCheck({
    environmentId,
    status: DriftStatus.DRIFT,
    checkTime: timestampFromMs(Date.now() - 31 * DAY_MS),
    workflows: [{ workflow: 'billing', flag: DriftFlag.NOT_IN_GIT }],
  });
  const badge = await memberOf(t, tenantId).getEnvironment({ environmentId });
  await insertAged(t, tenantId, environmentId, 32, 4_500);
  await insertAged(t, tenantId, environmentId, 2, 10);
  await insertAged(t, neighbour, await newEnvironment(memberOf(t, neighbour)), 400, 5);

  const purger = purgerOf(t, tenantId);
  const operationId = newId();
  t.deepEqual(await purger.count(30), { expired: 4_501, population: 4_511 });
  t.deepEqual(await rowsLeft(t, tenantId), { checks: 4_511, workflows: 4_511 });

  const answers = await purger.purgeWhole({ operationId, retentionDays: 30, limit: 1_200 });
  const sums = answers.map((answer) => countOf(answer, 'drift_check').deleted);
  t.is(sums.at(-1), 4_501);
  for (const [index, sum] of sums.entries()) t.true(sum - (sums[index - 1] ?? 0) <= 1_200, 'the limit of a call');
  t.true(answers.length >= 4);
  for (const { progress } of answers.slice(0, -1)) t.is(progress, Progress.PARTIAL);
  const last = answers.at(-1);
  t.deepEqual(last && countOf(last, 'drift_check_workflow'), { found: 4_501, deleted: 4_501, left: 0 });
  t.deepEqual(await rowsLeft(t, tenantId), { checks: 10, workflows: 10 });
  t.deepEqual(await rowsLeft(t, neighbour), { checks: 5, workflows: 5 });
  t.deepEqual(await memberOf(t, tenantId).getEnvironment({ environmentId }), badge);

  const [repeated] = await purger.purgeWhole({ operationId, retentionDays: 30 });
  t.deepEqual(repeated && countOf(repeated, 'drift_check').deleted, 4_501);
  const audit = await sql<{ subject: string; counts: object }>(t, 'select * from audit_entries where tenant_id = $1', [
    tenantId,
  ]);
  t.is(audit.length, 1);
  t.like(audit[0], {
    subject: 'service:retention',
    action: 'purge-drift-checks',
    target_id: operationId,
    outcome: 'COMPLETE',
    counts: { drift_check: 4_501, drift_check_workflow: 4_501 },
  });
});

test('five operations at once on one tenant count every row once, and none is complete before all is gone', async (t) => {
  const tenantId = 'together';
  await insertAged(t, tenantId, await newEnvironment(memberOf(t, tenantId)), 8, 6_000);
  const purger = purgerOf(t, tenantId);
  const sums = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const answers = await purger.purgeWhole({ operationId: newId(), retentionDays: 7, limit: 700 });
      t.is((await rowsLeft(t, tenantId)).checks, 0);
      const last = answers.at(-1);
      return last ? countOf(last, 'drift_check').deleted : 0;
    }),
  );
  t.is(
    sums.reduce((sum, deleted) => sum + deleted, 0),
    6_000,
  );
});

test('a check that is recorded again after its purge is told as purged, not made anew', async (t) => {
  const tenantId = 'again';
  const incidents = memberOf(t, tenantId);
  const check = {
    environmentId: await newEnvironment(incidents),
    status: DriftStatus.DRIFT,
    checkTime: timestampFromMs(Date.now() - 9 * DAY_MS),
    requestId: newId(),
  };
  const { driftCheck } = await incidents.recordDriftCheck(check);
  await purgerOf(t, tenantId).purgeWhole({ operationId: newId(), retentionDays: 7 });
  const gone = await refusalOf(incidents.getDriftCheck({ driftCheckId: driftCheck?.id ?? '' }));
  t.like(gone, { code: Code.NotFound, reason: 'DRIFT_CHECK_NOT_FOUND' });
  t.is((await refusalOf(incidents.recordDriftCheck(check))).reason, 'DRIFT_CHECK_NOT_FOUND');
  t.is((await rowsLeft(t, tenantId)).checks, 0);
});

test('windows and limits that make no sense are refused and remove nothing', async (t) => {
  const tenantId = 'windows';
  await insertAged(t, tenantId, await newEnvironment(memberOf(t, tenantId)), 40_000, 3);
  const purger = purgerOf(t, tenantId);
  for (const [field, request] of [
    ['rule.retention_days', { retentionDays: 0 }],
    ['rule.retention_days', { retentionDays: -1 }],
    ['rule.retention_days', { retentionDays: 36_501 }],
    ['rule.retention_days', { retentionDays: 2_147_483_647 }],
    ['limit', { retentionDays: 7, limit: -1 }],
    ['limit', { retentionDays: 7, limit: 100_001 }],
    ['time_budget', { retentionDays: 7, timeBudget: { seconds: -1n, nanos: 0 } }],
    ['time_budget', { retentionDays: 7, timeBudget: { seconds: 61n, nanos: 0 } }],
    ['operation_id', { retentionDays: 7, operationId: 'none' }],
  ] as const) {
    const refusal = await refusalOf(purger.purge({ operationId: newId(), ...request }));
    t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID', metadata: { fields: field } });
  }
  t.is((await rowsLeft(t, tenantId)).checks, 3);
  const operationId = newId();
  await purger.purge({ operationId, retentionDays: 36_500 });
  const reused = await refusalOf(purger.purge({ operationId, retentionDays: 7 }));
  t.like(reused, { code: Code.InvalidArgument, reason: 'REQUEST_ID_REUSED' });
});
