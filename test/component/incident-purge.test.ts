import { Code } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ApprovalState, DriftStatus, IncidentState, PayloadState } from '#gen/lethe/incident/v1/incident_pb.ts';
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

const NOTICE = 'Incident drift details were purged per retention policy.';
const SUBJECTS = ['incident_payloads', 'approvals'] as const;

const adminOf = (t: T, tenantId: string): Incidents => t.context.stack.clients({ tenantId, role: 'admin' }).incidents;

const purgerOf = (t: T, tenantId: string, subject: string): AgePurger =>
  agePurgerOf(t.context.owner, tenantId, subject);

const sql = <Row>(t: T, text: string, values: readonly unknown[]): Promise<Row[]> =>
  queryOnce<Row>(t.context.stack.superuserUrl('incident'), text, values);

const newEnvironment = async (incidents: Incidents): Promise<string> =>
  (await incidents.createEnvironment({ displayName: 'production' })).environment?.id ?? '';

/** What an incident with a payload and an approval looks like; by SQL, since no RPC makes anything old. */
interface Aged {
  readonly state?: string;
  readonly closedAt?: string | null;
  readonly withPayload?: boolean;
  readonly approval?: 'PENDING' | 'APPROVED' | 'REJECTED';
  readonly decidedAt?: string | null;
}

async function insertAged(t: T, tenantId: string, environmentId: string, aged: Aged): Promise<string> {
  const { state = 'CLOSED', closedAt = null, withPayload = true, approval = 'APPROVED', decidedAt = null } = aged;
  const [row] = await sql<{ id: string }>(
    t,
    `with i as (
       insert into incidents (tenant_id, id, environment_id, title, state, close_cause, closed_at, opened_with_payload)
       values ($1, gen_random_uuid(), $2, 'drift', $3, case when $3 = 'CLOSED' then 'RESOLVED' end, $4, $5)
       returning tenant_id, id),
     p as (insert into incident_payloads (tenant_id, incident_id, payload_json)
           select tenant_id, id, '{"a": 1}' from i where $5),
     a as (insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at)
           select tenant_id, id, id, 'CLOSED', $6, 'ada', $7 from i)
     select id from i`,
    [tenantId, environmentId, state, closedAt, withPayload, approval, decidedAt],
  );
  return row?.id ?? '';
}

/** So many closed incidents, each with a payload and a decided approval, all that many days old. */
const insertMany = (t: T, tenantId: string, environmentId: string, days: number, count: number) =>
  sql(
    t,
    `with i as (
       insert into incidents (tenant_id, id, environment_id, title, state, close_cause, created_at, closed_at)
       select $1, gen_random_uuid(), $2, 'drift ' || n, 'CLOSED', 'RESOLVED',
              clock_timestamp() - $3 * interval '1 day' - n * interval '1 minute',
              clock_timestamp() - $3 * interval '1 day' - n * interval '1 second'
       from generate_series(1, $4) n returning *),
     p as (insert into incident_payloads (tenant_id, incident_id, payload_json)
           select tenant_id, id, jsonb_build_object('text', repeat('x', 1000)) from i)
     insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at)
     select tenant_id, id, id, 'CLOSED', 'APPROVED', 'ada', closed_at from i`,
    [tenantId, environmentId, days, count],
  );

const rowsLeft = async (t: T, tenantId: string) =>
  (
    await sql<{ incidents: number; payloads: number; approvals: number; stamped: number }>(
      t,
      `select (select count(*)::int from incidents where tenant_id = $1) as incidents,
              (select count(*)::int from incident_payloads where tenant_id = $1) as payloads,
              (select count(*)::int from approvals where tenant_id = $1) as approvals,
              (select count(*)::int from incidents where tenant_id = $1 and payload_purged_at is not null) as stamped`,
      [tenantId],
    )
  )[0];

const countOf = ({ resourceCounts }: Pick<Awaited<ReturnType<AgePurger['purge']>>, 'resourceCounts'>) => {
  const [count] = resourceCounts;
  return { found: Number(count?.found), deleted: Number(count?.deleted), left: Number(count?.left) };
};

for (const retentionDays of [180, 365, 2_555]) {
  test(`at ${retentionDays} days, what is a microsecond older than the cutoff goes, and nothing at it, after it or without an instant`, async (t) => {
    const tenantId = `edge-${retentionDays}`;
    const environmentId = await newEnvironment(adminOf(t, tenantId));
    const payloads = purgerOf(t, tenantId, 'incident_payloads');
    const approvals = purgerOf(t, tenantId, 'approvals');
    const request = { operationId: newId(), retentionDays };
    const { cutoffTime } = await payloads.purge(request);
    const { cutoffTime: approvalsCutoffTime } = await approvals.purge(request);
    const cutoff = parseTimestamp('cutoff_time', cutoffTime);
    const approvalsCutoff = parseTimestamp('cutoff_time', approvalsCutoffTime);
    if (!cutoff || !approvalsCutoff) return t.fail('no cutoff');
    const [clock] = await sql<{ age: number }>(
      t,
      `select abs(extract(epoch from clock_timestamp() - $2 * interval '24 hours' - $1::timestamptz))::float as age`,
      [cutoff.toString(), retentionDays],
    );
    t.true((clock?.age ?? 99) < 10, 'the cutoff is of the database’s clock');

    const byAge = new Map<string, string>();
    for (const [name, microseconds] of [
      ['before', -1],
      ['at', 0],
      ['after', 1],
    ] as const) {
      const closedAt = cutoff.add({ microseconds }).toString();
      const decidedAt = approvalsCutoff.add({ microseconds }).toString();
      byAge.set(name, await insertAged(t, tenantId, environmentId, { closedAt, decidedAt }));
    }
    byAge.set('never', await insertAged(t, tenantId, environmentId, {}));

    for (const [purger, time] of [
      [payloads, cutoffTime],
      [approvals, approvalsCutoffTime],
    ] as const) {
      t.deepEqual(await purger.count(retentionDays, time), { expired: 1, population: 4 });
      const again = await purger.purge(request);
      t.deepEqual(again.cutoffTime, time, 'the cutoff was made once');
      t.deepEqual(countOf(again), { found: 1, deleted: 1, left: 0 });
    }
    const payloadsLeft = await sql<{ id: string }>(
      t,
      'select incident_id as id from incident_payloads where tenant_id = $1',
      [tenantId],
    );
    const approvalsLeft = await sql<{ id: string }>(t, 'select id from approvals where tenant_id = $1', [tenantId]);
    const kept = ['at', 'after', 'never'].map((name) => byAge.get(name)).toSorted();
    t.deepEqual(payloadsLeft.map(({ id }) => id).toSorted(), kept);
    t.deepEqual(approvalsLeft.map(({ id }) => id).toSorted(), kept);
    const { incident } = await adminOf(t, tenantId).getIncident({ incidentId: byAge.get('before') ?? '' });
    t.like(incident, { payloadState: PayloadState.PURGED, payloadNotice: NOTICE, driftSummary: undefined });
    t.like(await rowsLeft(t, tenantId), { incidents: 4, stamped: 1 });
  });
}

test('whatever its dates, an open incident keeps its payload and its approvals, and an undecided approval ages by the closing', async (t) => {
  const tenantId = 'open';
  const environmentId = await newEnvironment(adminOf(t, tenantId));
  const long = '2001-01-01T00:00:00Z';
  const states = ['DETECTED', 'ACKNOWLEDGED', 'STABILIZED', 'RECONCILED'];
  t.is(states.length + 1, Object.values(IncidentState).filter((value) => value !== 0).length, 'every state is here');
  const open: string[] = [];
  for (const state of states) {
    open.push(await insertAged(t, tenantId, environmentId, { state, closedAt: long, decidedAt: long }));
  }
  const undecided = await insertAged(t, tenantId, environmentId, {
    closedAt: long,
    approval: 'PENDING',
    decidedAt: long,
  });
  const rejected = await insertAged(t, tenantId, environmentId, {
    closedAt: long,
    approval: 'REJECTED',
    decidedAt: long,
  });
  await sql(t, `update incidents set created_at = $2, updated_at = $2 where tenant_id = $1`, [tenantId, long]);
  const justClosed = await insertAged(t, tenantId, environmentId, {
    closedAt: new Date().toISOString(),
    approval: 'PENDING',
    decidedAt: long,
  });
  for (const subject of SUBJECTS) {
    const purger = purgerOf(t, tenantId, subject);
    t.is((await purger.count(1)).expired, 2);
    t.is(countOf(await purger.purge({ operationId: newId(), retentionDays: 1 })).deleted, 2);
  }
  for (const incidentId of open) {
    const { incident } = await adminOf(t, tenantId).getIncident({ incidentId });
    t.like(incident, { payloadState: PayloadState.PRESENT, driftSummary: { a: 1 } });
    t.is((await adminOf(t, tenantId).listApprovals({ incidentId })).approvals.length, 1);
  }
  for (const [incidentId, left] of [
    [undecided, 0],
    [rejected, 0],
    [justClosed, 1],
  ] as const)
    t.is((await adminOf(t, tenantId).listApprovals({ incidentId })).approvals.length, left);
  t.like(await rowsLeft(t, tenantId), { incidents: 7, payloads: 5, approvals: 5, stamped: 2 });
});

test('an incident loads, is listed and counted the same with its payload present, purged and never there', async (t) => {
  const tenantId = 'payloads';
  const incidents = adminOf(t, tenantId);
  const environmentId = await newEnvironment(incidents);
  await incidents.recordDriftCheck({ environmentId, status: DriftStatus.DRIFT });
  const ids: string[] = [];
  for (const driftSummary of [{ a: 1 }, { b: 2 }, undefined]) {
    const { incident } = await incidents.openIncident({
      environmentId,
      title: 'drift',
      ...(driftSummary ? { driftSummary } : {}),
    });
    const incidentId = incident?.id ?? '';
    ids.push(incidentId);
    const { approval } = await incidents.requestApproval({ incidentId, requestedState: IncidentState.ACKNOWLEDGED });
    await incidents.decideApproval({ approvalId: approval?.id ?? '', decision: ApprovalState.APPROVED });
    for (const state of [2, 3, 4, 5] as const) await incidents.transitionIncident({ incidentId, state });
  }
  const [present = '', purged = '', absent = ''] = ids;
  await sql(t, `update incidents set closed_at = closed_at - interval '200 days' where id = any($1)`, [
    [purged, absent],
  ]);
  const get = async (incidentId: string) => (await incidents.getIncident({ incidentId })).incident;
  const before = await get(purged);
  const list = (await incidents.listIncidents({})).incidents;
  const dashboard = await incidents.getDriftDashboard({});
  const { environment } = await incidents.getEnvironment({ environmentId });

  const whole = { operationId: newId(), retentionDays: 180 };
  await purgerOf(t, tenantId, 'incident_payloads').purgeWhole(whole);
  await sql(t, `update approvals set decided_at = decided_at - interval '200 days' where tenant_id = $1`, [tenantId]);
  await purgerOf(t, tenantId, 'approvals').purgeWhole(whole);
  await sql(t, `update drift_checks set checked_at = checked_at - interval '9 days' where tenant_id = $1`, [tenantId]);
  await purgerOf(t, tenantId, 'drift_checks').purgeWhole({ ...whole, retentionDays: 7 });

  const after = await get(purged);
  t.like(after, { payloadState: PayloadState.PURGED, payloadNotice: NOTICE, driftSummary: undefined });
  t.truthy(after?.payloadPurgeTime);
  t.deepEqual(after?.timeline, before?.timeline);
  t.not(after?.etag, before?.etag);
  const shell = { driftSummary: undefined, payloadState: 0, payloadNotice: '', payloadPurgeTime: undefined };
  const told = { approvalsPurgeTime: undefined, approvalsNotice: '' };
  const rest = { ...shell, ...told, updateTime: undefined, etag: '' };
  t.deepEqual({ ...after, ...rest }, { ...before, ...rest });
  t.like(await get(present), { payloadState: PayloadState.PRESENT, payloadNotice: '', driftSummary: { a: 1 } });
  t.like(await get(absent), { payloadState: PayloadState.ABSENT, payloadNotice: '', payloadPurgeTime: undefined });

  const { incidents: listed } = await incidents.listIncidents({});
  t.deepEqual(
    listed.map((incident) => ({ ...incident, ...rest })),
    list.map((incident) => ({ ...incident, ...rest })),
  );
  t.deepEqual(
    listed.map(({ id, payloadState, payloadNotice }) => [id, payloadState, payloadNotice]),
    [
      [absent, PayloadState.ABSENT, ''],
      [purged, PayloadState.PURGED, NOTICE],
      [present, PayloadState.PRESENT, ''],
    ],
  );
  t.deepEqual(await incidents.getDriftDashboard({}), dashboard);
  t.deepEqual((await incidents.getEnvironment({ environmentId })).environment, environment);
  t.deepEqual((await incidents.listApprovals({})).approvals, []);
  t.like(await rowsLeft(t, tenantId), { incidents: 3, payloads: 1, approvals: 0, stamped: 1 });
});

for (const subject of SUBJECTS) {
  test(`${subject}: many batches remove what a dry run counted, leave shells and neighbours, and are audited once`, async (t) => {
    const tenantId = `batches-${subject.replace('_', '-')}`;
    const neighbour = `${tenantId}-2`;
    const environmentId = await newEnvironment(adminOf(t, tenantId));
    await insertMany(t, tenantId, environmentId, 181, 3_500);
    await insertMany(t, tenantId, environmentId, 2, 10);
    await insertMany(t, neighbour, await newEnvironment(adminOf(t, neighbour)), 400, 5);
    const dashboard = await adminOf(t, tenantId).getDriftDashboard({});
    const purger = purgerOf(t, tenantId, subject);
    const request = { operationId: newId(), retentionDays: 180 };
    t.deepEqual(await purger.count(180), { expired: 3_500, population: 3_510 });
    t.like(await rowsLeft(t, tenantId), { payloads: 3_510, approvals: 3_510, stamped: 0 });

    const answers = await purger.purgeWhole({ ...request, limit: 1_300 });
    const sums = answers.map((answer) => countOf(answer).deleted);
    t.is(sums.at(-1), 3_500);
    for (const [index, sum] of sums.entries()) t.true(sum - (sums[index - 1] ?? 0) <= 1_300, 'the limit of a call');
    t.true(answers.length >= 3);
    for (const { progress } of answers.slice(0, -1)) t.is(progress, Progress.PARTIAL);
    const [payloads, approvals] = subject === 'incident_payloads' ? [10, 3_510] : [3_510, 10];
    t.deepEqual(await rowsLeft(t, tenantId), { incidents: 3_510, payloads, approvals, stamped: 3_510 - payloads });
    t.deepEqual(await rowsLeft(t, neighbour), { incidents: 5, payloads: 5, approvals: 5, stamped: 0 });
    t.deepEqual(await adminOf(t, tenantId).getDriftDashboard({}), dashboard);

    t.deepEqual(countOf(await purger.purge(request)).deleted, 3_500, 'a repetition counts nothing twice');
    const [action, counted] =
      subject === 'incident_payloads'
        ? ['purge-incident-payloads', { incident_payload: 3_500 }]
        : ['purge-approvals', { approval: 3_500 }];
    const audit = await sql(
      t,
      'select action, subject, target_id, outcome, counts from audit_entries where tenant_id = $1 and action = $2',
      [tenantId, action],
    );
    const receipt = { target_id: request.operationId, outcome: 'COMPLETE', counts: counted };
    t.deepEqual(audit, [{ action, subject: 'service:retention', ...receipt }]);
  });

  test(`${subject}: five operations at once count every row once, and none is complete before all is gone`, async (t) => {
    const tenantId = `together-${subject.replace('_', '-')}`;
    await insertMany(t, tenantId, await newEnvironment(adminOf(t, tenantId)), 200, 4_000);
    const purger = purgerOf(t, tenantId, subject);
    const sums = await Promise.all(
      Array.from({ length: 5 }, async () => {
        const answers = await purger.purgeWhole({ operationId: newId(), retentionDays: 180, limit: 700 });
        t.is((await rowsLeft(t, tenantId))?.[subject === 'approvals' ? 'approvals' : 'payloads'], 0);
        const last = answers.at(-1);
        return last ? countOf(last).deleted : 0;
      }),
    );
    t.is(
      sums.reduce((sum, deleted) => sum + deleted, 0),
      4_000,
    );
  });

  test(`${subject}: windows that make no sense and reused operations are refused and remove nothing`, async (t) => {
    const tenantId = `refused-${subject.replace('_', '-')}`;
    await insertMany(t, tenantId, await newEnvironment(adminOf(t, tenantId)), 36_400, 3);
    const purger = purgerOf(t, tenantId, subject);
    for (const [field, request] of [
      ['rule.retention_days', { retentionDays: 0 }],
      ['rule.retention_days', { retentionDays: -1 }],
      ['rule.retention_days', { retentionDays: 36_501 }],
      ['limit', { retentionDays: 7, limit: -1 }],
      ['limit', { retentionDays: 7, limit: 100_001 }],
      ['time_budget', { retentionDays: 7, timeBudget: { seconds: 61n, nanos: 0 } }],
      ['operation_id', { retentionDays: 7, operationId: 'none' }],
    ] as const) {
      const refusal = await refusalOf(purger.purge({ operationId: newId(), ...request }));
      t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID', metadata: { fields: field } });
    }
    const operationId = newId();
    await purger.purge({ operationId, retentionDays: 36_500 });
    const reused = await refusalOf(purger.purge({ operationId, retentionDays: 7 }));
    t.like(reused, { code: Code.InvalidArgument, reason: 'REQUEST_ID_REUSED' });
    const neighbour = purgerOf(t, `${tenantId}-2`, subject);
    t.is(countOf(await neighbour.purge({ operationId: newId(), retentionDays: 7 })).deleted, 0);
    t.like(await rowsLeft(t, tenantId), { payloads: 3, approvals: 3, stamped: 0 });
  });
}

test('one operation purges its three subjects, each with a window of its own', async (t) => {
  const tenantId = 'three';
  await insertMany(t, tenantId, await newEnvironment(adminOf(t, tenantId)), 200, 2);
  const operationId = newId();
  const purge = (subject: string, retentionDays: number) =>
    purgerOf(t, tenantId, subject).purge({ operationId, retentionDays });
  await purge('drift_checks', 30);
  t.is(countOf(await purge('incident_payloads', 180)).deleted, 2);
  t.is(countOf(await purge('approvals', 365)).deleted, 0);
  t.like(await rowsLeft(t, tenantId), { payloads: 0, approvals: 2 });
});

test('an approval that is asked for or decided again after its purge is told as gone, not made anew', async (t) => {
  const tenantId = 'again';
  const incidents = adminOf(t, tenantId);
  const environmentId = await newEnvironment(incidents);
  const { incident } = await incidents.openIncident({ environmentId, title: 'drift' });
  const incidentId = incident?.id ?? '';
  const ask = { requestId: newId(), incidentId, requestedState: IncidentState.ACKNOWLEDGED };
  const { approval } = await incidents.requestApproval(ask);
  const decide = { approvalId: approval?.id ?? '', decision: ApprovalState.REJECTED };
  await incidents.decideApproval(decide);
  for (const state of [2, 3, 4, 5] as const) await incidents.transitionIncident({ incidentId, state });
  await sql(t, `update approvals set decided_at = decided_at - interval '200 days' where tenant_id = $1`, [tenantId]);
  await purgerOf(t, tenantId, 'approvals').purgeWhole({ operationId: newId(), retentionDays: 180 });
  for (const call of [incidents.requestApproval(ask), incidents.decideApproval(decide)]) {
    t.like(await refusalOf(call), { code: Code.NotFound, reason: 'APPROVAL_NOT_FOUND' });
  }
  t.is((await rowsLeft(t, tenantId))?.approvals, 0);
});
