import { Code } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import {
  ApprovalState,
  CloseCause,
  DriftStatus,
  type Incident,
  IncidentState,
  PayloadState,
} from '#gen/lethe/incident/v1/incident_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;
type T = ExecutionContext<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['incident'] });
});
test.after.always((t) => t.context.stack.dispose());

type Incidents = StackClients['incidents'];

const { DETECTED, ACKNOWLEDGED, STABILIZED, RECONCILED, CLOSED } = IncidentState;
const WAY: readonly IncidentState[] = [ACKNOWLEDGED, STABILIZED, RECONCILED, CLOSED];

const as = (t: T, role: 'viewer' | 'member' | 'admin', tenantId: string, subject?: string): Incidents =>
  t.context.stack.clients({ tenantId, role, ...(subject === undefined ? {} : { subject }) }).incidents;

const sql = <Row>(t: T, text: string, values: readonly unknown[]): Promise<Row[]> =>
  queryOnce<Row>(t.context.stack.superuserUrl('incident'), text, values);

const newEnvironment = async (incidents: Incidents, displayName = 'production'): Promise<string> =>
  (await incidents.createEnvironment({ displayName })).environment?.id ?? '';

async function opened(incidents: Incidents, request: Parameters<Incidents['openIncident']>[0]): Promise<Incident> {
  const { incident } = await incidents.openIncident(request);
  if (!incident) throw new Error('no incident');
  return incident;
}

/** Brings an incident through every state up to this one. */
async function bringTo(incidents: Incidents, incidentId: string, last: IncidentState): Promise<void> {
  for (const state of WAY.slice(0, WAY.indexOf(last) + 1)) await incidents.transitionIncident({ incidentId, state });
}

test('an incident goes from its detection to its close, and its timeline tells who, when and why', async (t) => {
  const ada = as(t, 'member', 'life', 'ada');
  const environmentId = await newEnvironment(ada);
  const { driftCheck } = await ada.recordDriftCheck({ environmentId, status: DriftStatus.DRIFT });
  const driftSummary = { workflows: ['billing'], drift: { modified: 1.5, nested: [null, true, 'ä'] } };
  const driftCheckId = driftCheck?.id ?? '';
  const first = await opened(ada, { environmentId, driftCheckId, title: 'billing drifted', driftSummary });
  t.like(first, {
    tenantId: 'life',
    environmentId,
    driftCheckId,
    title: 'billing drifted',
    state: DETECTED,
    closeCause: CloseCause.UNSPECIFIED,
    payloadState: PayloadState.PRESENT,
    payloadNotice: '',
    nextStates: [ACKNOWLEDGED],
    runId: '',
    step: '',
  });
  t.deepEqual(first.driftSummary, driftSummary);
  t.is(first.closeTime, undefined);
  t.deepEqual((await ada.getIncident({ incidentId: first.id })).incident, first);

  const bob = as(t, 'member', 'life', 'bob');
  const etags = new Set([first.etag]);
  for (const state of WAY) {
    const { incident } = await bob.transitionIncident({ incidentId: first.id, state, note: `now ${state}` });
    t.is(incident?.state, state);
    etags.add(incident?.etag ?? '');
    // The same again is no second step.
    t.deepEqual((await bob.transitionIncident({ incidentId: first.id, state, note: 'again' })).incident, incident);
  }
  t.is(etags.size, 5);
  const { incident: closed } = await ada.getIncident({ incidentId: first.id });
  t.like(closed, { state: CLOSED, closeCause: CloseCause.RESOLVED, nextStates: [] });
  t.deepEqual(
    closed?.timeline.map(({ state, actor, note }) => [state, actor, note]),
    [[DETECTED, 'ada', ''], ...WAY.map((state) => [state, 'bob', `now ${state}`])],
  );
  t.deepEqual(closed?.timeline[0]?.transitionTime, first.createTime);
  t.deepEqual(closed?.timeline.at(-1)?.transitionTime, closed?.closeTime);
  t.deepEqual(closed?.driftSummary, driftSummary);
});

test('a state cannot be left out or gone back to, and a stale etag is refused', async (t) => {
  const incidents = as(t, 'member', 'steps');
  const { id: incidentId, etag } = await opened(incidents, {
    environmentId: await newEnvironment(incidents),
    title: 'drift',
  });
  for (const state of [STABILIZED, RECONCILED, CLOSED]) {
    const refusal = await refusalOf(incidents.transitionIncident({ incidentId, state }));
    t.like(refusal, { code: Code.FailedPrecondition, reason: 'INCIDENT_TRANSITION_ILLEGAL' });
  }
  await incidents.transitionIncident({ incidentId, state: ACKNOWLEDGED, etag });
  const stale = await refusalOf(incidents.transitionIncident({ incidentId, state: STABILIZED, etag }));
  t.like(stale, { code: Code.Aborted, reason: 'ETAG_MISMATCH' });
  await bringTo(incidents, incidentId, CLOSED);
  const back = await refusalOf(incidents.transitionIncident({ incidentId, state: ACKNOWLEDGED }));
  t.is(back.reason, 'INCIDENT_TRANSITION_ILLEGAL');
});

test('five transitions at once are one step', async (t) => {
  const incidents = as(t, 'member', 'race');
  const { id: incidentId } = await opened(incidents, {
    environmentId: await newEnvironment(incidents),
    title: 'drift',
  });
  const answers = await Promise.all(
    Array.from({ length: 5 }, () => incidents.transitionIncident({ incidentId, state: ACKNOWLEDGED })),
  );
  t.is(new Set(answers.map(({ incident }) => incident?.etag)).size, 1);
  t.is((await incidents.getIncident({ incidentId })).incident?.timeline.length, 2);
});

test('the same request_id opens one incident and asks for one approval, and another body is refused', async (t) => {
  const incidents = as(t, 'member', 'once');
  const request = { requestId: newId(), environmentId: await newEnvironment(incidents), title: 'drift' };
  const answers = await Promise.all(Array.from({ length: 5 }, () => opened(incidents, request)));
  t.is(new Set(answers.map(({ id }) => id)).size, 1);
  t.is((await incidents.listIncidents({})).incidents.length, 1);
  const reused = await refusalOf(incidents.openIncident({ ...request, driftSummary: { a: 1 } }));
  t.like(reused, { code: Code.InvalidArgument, reason: 'REQUEST_ID_REUSED' });

  const ask = { requestId: newId(), incidentId: answers[0]?.id ?? '', requestedState: ACKNOWLEDGED, notes: 'may I' };
  const { approval } = await incidents.requestApproval(ask);
  t.deepEqual((await incidents.requestApproval(ask)).approval, approval);
  t.is((await refusalOf(incidents.requestApproval({ ...ask, notes: 'please' }))).reason, 'REQUEST_ID_REUSED');
});

test('an incident names only what is there: its environment, and a check of that environment', async (t) => {
  const incidents = as(t, 'member', 'names');
  const environmentId = await newEnvironment(incidents);
  const other = await newEnvironment(incidents, 'other');
  const { driftCheck } = await incidents.recordDriftCheck({ environmentId: other, status: DriftStatus.DRIFT });
  const unknown = await refusalOf(incidents.openIncident({ environmentId: newId(), title: 'drift' }));
  t.like(unknown, { code: Code.NotFound, reason: 'ENVIRONMENT_NOT_FOUND' });
  for (const driftCheckId of [newId(), driftCheck?.id ?? '']) {
    const refusal = await refusalOf(incidents.openIncident({ environmentId, driftCheckId, title: 'drift' }));
    t.like(refusal, { code: Code.NotFound, reason: 'DRIFT_CHECK_NOT_FOUND' });
  }
  t.deepEqual((await incidents.listIncidents({})).incidents, []);
});

test('lists show every incident once, newest first and filtered, without payload and timeline', async (t) => {
  const incidents = as(t, 'member', 'lists');
  const environmentId = await newEnvironment(incidents);
  const other = await newEnvironment(incidents, 'other');
  const runId = newId();
  const ids: string[] = [];
  for (let n = 0; n < 5; n += 1) {
    const driftSummary = { n };
    ids.unshift((await opened(incidents, { environmentId, title: `drift ${n}`, driftSummary, runId, step: 's' })).id);
  }
  const elsewhere = await opened(incidents, { environmentId: other, title: 'elsewhere' });
  await bringTo(incidents, elsewhere.id, CLOSED);

  const seen: Incident[] = [];
  let pageToken = '';
  do {
    const page = await incidents.listIncidents({ environmentId, pageSize: 2, pageToken });
    seen.push(...page.incidents);
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  t.deepEqual(
    seen.map(({ id }) => id),
    ids,
  );
  for (const incident of seen) {
    t.like(incident, { driftSummary: undefined, timeline: [], payloadState: PayloadState.PRESENT, runId, step: 's' });
  }
  const idsOf = async (filter: Parameters<Incidents['listIncidents']>[0]) =>
    (await incidents.listIncidents(filter)).incidents.map(({ id }) => id);
  t.deepEqual(await idsOf({ state: CLOSED }), [elsewhere.id]);
  t.deepEqual(await idsOf({ runId }), ids);
  t.deepEqual(await idsOf({ runId, state: CLOSED }), []);
  t.is((await incidents.listIncidents({ state: CLOSED })).incidents[0]?.payloadState, PayloadState.ABSENT);

  const first = await incidents.listIncidents({ pageSize: 2 });
  for (const call of [
    incidents.listIncidents({ pageToken: first.nextPageToken, state: DETECTED }),
    incidents.listApprovals({ pageToken: first.nextPageToken }),
    as(t, 'member', 'lists-2').listIncidents({ pageToken: first.nextPageToken }),
    incidents.listIncidents({ pageSize: -1 }),
  ]) {
    t.like(await refusalOf(call), { code: Code.InvalidArgument, reason: 'FIELD_INVALID' });
  }
});

test('an approval is asked for the next state, decided once by an admin, and says who did both', async (t) => {
  const ada = as(t, 'member', 'approvals', 'ada');
  const admin = as(t, 'admin', 'approvals', 'grace');
  const { id: incidentId } = await opened(ada, { environmentId: await newEnvironment(ada), title: 'drift' });
  for (const requestedState of [DETECTED, CLOSED]) {
    const refusal = await refusalOf(ada.requestApproval({ incidentId, requestedState }));
    t.like(refusal, { code: Code.FailedPrecondition, reason: 'INCIDENT_TRANSITION_ILLEGAL' });
  }
  const { approval } = await ada.requestApproval({ incidentId, requestedState: ACKNOWLEDGED, notes: 'may I?' });
  t.like(approval, {
    tenantId: 'approvals',
    incidentId,
    requestedState: ACKNOWLEDGED,
    state: ApprovalState.PENDING,
    requestedBy: 'ada',
    requestNotes: 'may I?',
    decidedBy: '',
    decideTime: undefined,
  });
  const approvalId = approval?.id ?? '';
  const decision = { approvalId, decision: ApprovalState.APPROVED, notes: 'go on' };
  t.is((await refusalOf(ada.decideApproval(decision))).reason, 'ROLE_TOO_LOW');
  const stale = await refusalOf(admin.decideApproval({ ...decision, etag: '"77"' }));
  t.like(stale, { code: Code.Aborted, reason: 'ETAG_MISMATCH' });
  const { approval: decided } = await admin.decideApproval({ ...decision, etag: approval?.etag ?? '' });
  t.like(decided, { state: ApprovalState.APPROVED, decidedBy: 'grace', decisionNotes: 'go on' });
  t.truthy(decided?.decideTime);
  t.deepEqual((await admin.decideApproval(decision)).approval, decided);
  const other = await refusalOf(admin.decideApproval({ ...decision, decision: ApprovalState.REJECTED }));
  t.like(other, { code: Code.FailedPrecondition, reason: 'APPROVAL_DECIDED' });

  const { approval: second } = await ada.requestApproval({ incidentId, requestedState: ACKNOWLEDGED });
  const idsOf = async (filter: Parameters<Incidents['listApprovals']>[0]) =>
    (await ada.listApprovals(filter)).approvals.map(({ id }) => id);
  t.deepEqual(await idsOf({ incidentId }), [second?.id, approvalId]);
  t.deepEqual(await idsOf({ state: ApprovalState.PENDING }), [second?.id]);
  t.deepEqual(await idsOf({ incidentId: newId() }), []);
  const page = await ada.listApprovals({ pageSize: 1 });
  t.deepEqual(await idsOf({ pageSize: 1, pageToken: page.nextPageToken }), [approvalId]);
});

test('the dashboard counts every badge and every state, and averages only what was resolved', async (t) => {
  const incidents = as(t, 'member', 'dashboard');
  const empty = await incidents.getDriftDashboard({});
  t.is(empty.openIncidentCount, 0n);
  t.is(empty.environments.length, 3);
  t.is(empty.incidents.length, 5);
  t.true([...empty.environments, ...empty.incidents].every(({ count }) => count === 0n));
  t.is(empty.meanTimeToClose, undefined);
  t.is(empty.lastCheckTime, undefined);

  const environmentId = await newEnvironment(incidents);
  await newEnvironment(incidents, 'unchecked');
  const { driftCheck } = await incidents.recordDriftCheck({ environmentId, status: DriftStatus.DRIFT });
  const ids = [];
  for (let n = 0; n < 4; n += 1) ids.push((await opened(incidents, { environmentId, title: 'drift' })).id);
  await bringTo(incidents, ids[0] ?? '', CLOSED);
  await bringTo(incidents, ids[1] ?? '', CLOSED);
  await bringTo(incidents, ids[2] ?? '', STABILIZED);
  const age = (id: string | undefined, ms: number, cause: string) =>
    sql(
      t,
      `update incidents set created_at = closed_at - $2 * interval '1 millisecond', close_cause = $3 where id = $1`,
      [id, ms, cause],
    );
  await age(ids[0], 90_000.25, 'RESOLVED');
  await age(ids[1], 3_600_000, 'COMPENSATED');
  const dashboard = await as(t, 'viewer', 'dashboard').getDriftDashboard({});
  t.deepEqual(
    dashboard.environments.map(({ status, count }) => [status, count]),
    [
      [DriftStatus.IN_SYNC, 0n],
      [DriftStatus.DRIFT, 1n],
      [DriftStatus.UNKNOWN, 1n],
    ],
  );
  t.deepEqual(
    dashboard.incidents.map(({ state, count }) => [state, count]),
    [
      [DETECTED, 1n],
      [ACKNOWLEDGED, 0n],
      [STABILIZED, 1n],
      [RECONCILED, 0n],
      [CLOSED, 2n],
    ],
  );
  t.is(dashboard.openIncidentCount, 2n);
  t.like(dashboard.meanTimeToClose, { seconds: 90n, nanos: 250_000 });
  t.deepEqual(dashboard.lastCheckTime, driftCheck?.checkTime);
});

test("another tenant's incident and approval are the same answer as unknown ones, on every RPC, and nothing changes", async (t) => {
  const theirs = as(t, 'admin', 'owner-of-incidents');
  const { id: incidentId } = await opened(theirs, { environmentId: await newEnvironment(theirs), title: 'drift' });
  const { approval } = await theirs.requestApproval({ incidentId, requestedState: ACKNOWLEDGED });
  const before = (await theirs.getIncident({ incidentId })).incident;
  const stranger = as(t, 'admin', 'stranger');
  const mine = await newEnvironment(stranger);
  const rpcs: readonly ((id: string) => Promise<unknown>)[] = [
    (id) => stranger.getIncident({ incidentId: id }),
    (id) => stranger.getIncident({ incidentId: id, showDeleted: true }),
    (id) => stranger.transitionIncident({ incidentId: id, state: ACKNOWLEDGED }),
    (id) => stranger.requestApproval({ incidentId: id, requestedState: ACKNOWLEDGED }),
  ];
  for (const rpc of rpcs) {
    const refusal = await refusalOf(rpc(incidentId));
    t.like(refusal, { code: Code.NotFound, reason: 'INCIDENT_NOT_FOUND' });
    t.deepEqual(refusal, await refusalOf(rpc(newId())));
  }
  const decide = (approvalId: string) => stranger.decideApproval({ approvalId, decision: ApprovalState.APPROVED });
  const refusal = await refusalOf(decide(approval?.id ?? ''));
  t.like(refusal, { code: Code.NotFound, reason: 'APPROVAL_NOT_FOUND' });
  t.deepEqual(refusal, await refusalOf(decide(newId())));
  const openIn = (environmentId: string) => stranger.openIncident({ environmentId, title: 'drift' });
  t.deepEqual(await refusalOf(openIn(before?.environmentId ?? '')), await refusalOf(openIn(newId())));
  const { driftCheck } = await theirs.recordDriftCheck({
    environmentId: before?.environmentId ?? '',
    status: DriftStatus.DRIFT,
  });
  const openWith = (driftCheckId: string) =>
    stranger.openIncident({ environmentId: mine, driftCheckId, title: 'drift' });
  t.deepEqual(await refusalOf(openWith(driftCheck?.id ?? '')), await refusalOf(openWith(newId())));
  t.deepEqual((await stranger.listIncidents({})).incidents, []);
  t.deepEqual((await stranger.listIncidents({ environmentId: before?.environmentId ?? '' })).incidents, []);
  t.deepEqual((await stranger.listApprovals({ incidentId })).approvals, []);
  t.is((await stranger.getDriftDashboard({})).openIncidentCount, 0n);

  t.deepEqual((await theirs.getIncident({ incidentId })).incident, before);
  t.deepEqual((await theirs.listApprovals({ incidentId })).approvals, approval ? [approval] : []);
});

test('who may only read changes nothing, and without the scope nobody does', async (t) => {
  const member = as(t, 'member', 'roles');
  const environmentId = await newEnvironment(member);
  const { id: incidentId } = await opened(member, { environmentId, title: 'drift' });
  const viewer = as(t, 'viewer', 'roles');
  await t.notThrowsAsync(viewer.getIncident({ incidentId }));
  const { stack } = t.context;
  const reader = stack.clients({ tenantId: 'roles', role: 'owner', scopes: ['incidents:read'] }).incidents;
  const writer = stack.clients({ tenantId: 'roles', role: 'owner', scopes: ['incidents:write'] }).incidents;
  for (const [who, reason] of [
    [viewer, 'ROLE_TOO_LOW'],
    [reader, 'SCOPE_MISSING'],
  ] as const) {
    for (const call of [
      who.openIncident({ environmentId, title: 'drift' }),
      who.transitionIncident({ incidentId, state: ACKNOWLEDGED }),
      who.requestApproval({ incidentId, requestedState: ACKNOWLEDGED }),
      who.decideApproval({ approvalId: newId(), decision: ApprovalState.APPROVED }),
    ]) {
      t.like(await refusalOf(call), { code: Code.PermissionDenied, reason });
    }
  }
  for (const call of [
    writer.getIncident({ incidentId }),
    writer.listIncidents({}),
    writer.listApprovals({}),
    writer.getDriftDashboard({}),
  ]) {
    t.like(await refusalOf(call), { code: Code.PermissionDenied, reason: 'SCOPE_MISSING' });
  }
  for (const call of [
    member.getIncident({ incidentId, showDeleted: true }),
    member.listIncidents({ showDeleted: true }),
  ]) {
    t.like(await refusalOf(call), { code: Code.PermissionDenied, reason: 'ROLE_TOO_LOW' });
  }
  const service = stack.clients({ tenantId: 'roles', role: 'service' }).incidents;
  await t.notThrowsAsync(service.openIncident({ environmentId, title: 'drift' }), 'a service acts for somebody');
  const close = service.transitionIncident({ incidentId, state: ACKNOWLEDGED });
  t.is((await refusalOf(close)).reason, 'ROLE_TOO_LOW', 'but the way of an incident is for people');
  const nowhere = stack.clients({ role: 'platform' }).incidents;
  t.is((await refusalOf(nowhere.getIncident({ incidentId }))).reason, 'TENANT_MISSING');
});

test('what is malformed is refused with every field named', async (t) => {
  const incidents = as(t, 'admin', 'malformed');
  const environmentId = await newEnvironment(incidents);
  const open = { environmentId, title: 'drift' };
  const incidentId = newId();
  for (const [field, call] of [
    ['environment_id', incidents.openIncident({ title: 'drift' })],
    ['title', incidents.openIncident({ environmentId })],
    ['title', incidents.openIncident({ ...open, title: 'x'.repeat(201) })],
    ['drift_check_id', incidents.openIncident({ ...open, driftCheckId: 'x' })],
    ['drift_summary', incidents.openIncident({ ...open, driftSummary: { text: 'x'.repeat(1_048_577) } })],
    ['drift_summary', incidents.openIncident({ ...open, driftSummary: { 'a\u0000': 1 } })],
    ['run_id', incidents.openIncident({ ...open, runId: 'x' })],
    ['step', incidents.openIncident({ ...open, step: 's' })],
    ['step', incidents.openIncident({ ...open, runId: newId(), step: 'x'.repeat(101) })],
    ['request_id,title', incidents.openIncident({ requestId: 'x', environmentId })],
    ['incident_id', incidents.getIncident({ incidentId: "' or 1=1" })],
    ['state', incidents.transitionIncident({ incidentId })],
    ['state', incidents.transitionIncident({ incidentId, state: DETECTED })],
    ['state', incidents.transitionIncident({ incidentId, state: 99 as IncidentState })],
    ['note', incidents.transitionIncident({ incidentId, state: CLOSED, note: 'x'.repeat(501) })],
    ['requested_state', incidents.requestApproval({ incidentId })],
    ['notes', incidents.requestApproval({ incidentId, requestedState: CLOSED, notes: 'x'.repeat(2_001) })],
    ['decision', incidents.decideApproval({ approvalId: newId(), decision: ApprovalState.PENDING })],
    ['decision', incidents.decideApproval({ approvalId: newId() })],
    ['state', incidents.listIncidents({ state: 99 as IncidentState })],
    ['incident_id', incidents.listApprovals({ incidentId: 'x' })],
  ] as const) {
    const refusal = await refusalOf(call);
    t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID', metadata: { fields: field } });
  }
  t.deepEqual((await incidents.listIncidents({})).incidents, []);
});
