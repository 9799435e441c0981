import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { JsonObject } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import { Progress, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  ApprovalState,
  CloseCause,
  type Incident,
  IncidentState,
  PayloadState,
} from '#gen/lethe/incident/v1/incident_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Participant } from '#test/contract/participant.ts';
import { agePurgerOf } from '#test/support/age-purger.ts';
import { type OwnerAccess, openOwner } from '#test/support/owner-clients.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  stack: TestStack;
  connection: Connection;
  owner: OwnerAccess;
  crashFile: string;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const crashFile = join(tmpdir(), `lethe-crash-${newId()}`);
  const stack = await startTestStack({ services: ['incident'], envOf: { incident: { LETHE_CRASH_FILE: crashFile } } });
  const connection = connect({ address: stack.addresses.incident, token: async () => 'no token' });
  const owner = await openOwner({ address: stack.addresses.incident, name: 'incident', keyFile: stack.suiteKeyFile });
  Object.assign(t.context, { stack, connection, owner, crashFile });
});
test.after.always(async (t) => {
  t.context.connection?.close();
  t.context.owner?.close();
  await t.context.stack?.dispose();
  for (const file of [t.context.crashFile, `${t.context.crashFile}.struck`]) await rm(file, { force: true });
});

type Incidents = StackClients['incidents'];

const { DETECTED, ACKNOWLEDGED, STABILIZED, RECONCILED, CLOSED } = IncidentState;

const as = (t: T, role: 'viewer' | 'member' | 'admin', tenantId: string): Incidents =>
  t.context.stack.clients({ tenantId, role, subject: 'ada' }).incidents;

/** As RunService calls. */
const participantOf = (t: T, tenantId: string): Participant =>
  stackParticipant(t.context.stack, t.context.connection, 'incident', tenantId, { actor: 'service:run' });

const sql = <Row>(t: T, text: string, values: readonly unknown[]): Promise<Row[]> =>
  queryOnce<Row>(t.context.stack.superuserUrl('incident'), text, values);

/** A tenant with an environment and a run of it. */
async function fixture(t: T, tenantId: string) {
  const incidents = as(t, 'member', tenantId);
  const admin = as(t, 'admin', tenantId);
  const environmentId = (await incidents.createEnvironment({ displayName: 'production' })).environment?.id ?? '';
  const participant = participantOf(t, tenantId);
  const runId = newId();
  const step = 'lethe';
  const input: JsonObject = { environment_id: environmentId, title: 'drift', drift_summary: { a: 1 } };
  return {
    tenantId,
    incidents,
    admin,
    participant,
    environmentId,
    runId,
    input,
    async open(request: { step?: string; payload?: JsonObject; last?: IncidentState } = {}): Promise<string> {
      const { payload = { a: 1 }, last = DETECTED, step: ofStep = 'draft' } = request;
      const { incident } = await incidents.openIncident({
        environmentId,
        title: 'drift',
        driftSummary: payload,
        runId,
        step: ofStep,
      });
      const incidentId = incident?.id ?? '';
      for (const state of [ACKNOWLEDGED, STABILIZED, RECONCILED, CLOSED]) {
        if (state <= last) await incidents.transitionIncident({ incidentId, state });
      }
      return incidentId;
    },
    async get(incidentId: string): Promise<Incident> {
      const { incident } = await admin.getIncident({ incidentId, showDeleted: true });
      if (!incident) throw new Error('no incident');
      return incident;
    },
    execute: (ofStep: string, given: JsonObject = input) =>
      participant.execute({ key: { operationId: runId, step: ofStep }, runId, action: 'open-incident', input: given }),
    compensate: (ofStep: string) => participant.compensate({ key: { operationId: runId, step: ofStep }, runId }),
    purge: (operationId: string, limit = 0) =>
      participant.purge({ key: { operationId, step }, runId, reason: 'asked for', limit }),
    softDelete: (operationId: string) =>
      participant.softDelete({ key: { operationId, step }, runId, reason: 'no longer wanted' }),
    restore: (operationId: string, softDeleteOperationId: string) =>
      participant.restore({ key: { operationId, step }, runId, softDeleteOperationId }),
    payloads: async () =>
      (
        await sql<{ count: number }>(
          t,
          `select count(*)::int from incident_payloads p join incidents i on i.tenant_id = p.tenant_id
             and i.id = p.incident_id where i.tenant_id = $1 and i.run_id = $2`,
          [tenantId, runId],
        )
      )[0]?.count,
    audit: () =>
      sql(
        t,
        `select action, actor, subject, target_type, target_id, reason, counts from audit_entries
         where tenant_id = $1 order by at`,
        [tenantId],
      ),
    /** So many closed incidents of the run, each with a payload, closed 200 days ago. */
    insertMany: (count: number) =>
      sql(
        t,
        `with i as (
           insert into incidents (tenant_id, id, environment_id, title, run_id, step, state, close_cause, closed_at)
           select $1, gen_random_uuid(), $2, 'drift ' || n, $3, 'draft', 'CLOSED', 'RESOLVED',
                  clock_timestamp() - interval '200 days' - n * interval '1 second'
           from generate_series(1, $4) n returning *)
         insert into incident_payloads (tenant_id, incident_id, payload_json)
         select tenant_id, id, jsonb_build_object('text', repeat('x', 500)) from i`,
        [tenantId, environmentId, runId, count],
      ),
  };
}

const countsOf = (resourceCounts: readonly ResourceCount[]) =>
  Object.fromEntries(
    resourceCounts.map(({ resourceType, found, deleted, left }) => [
      resourceType,
      { found: Number(found), deleted: Number(deleted), left: Number(left) },
    ]),
  );

/** What a purge may change of a shell. */
const withoutPayload = (incident: Incident) => ({
  ...incident,
  driftSummary: undefined,
  payloadState: 0,
  payloadNotice: '',
  payloadPurgeTime: undefined,
  updateTime: undefined,
  etag: '',
});

test('the purge of a run takes the payloads of its incidents in every state, and the shells lose nothing else', async (t) => {
  const run = await fixture(t, 'shells');
  const ids: string[] = [];
  for (const last of [DETECTED, ACKNOWLEDGED, STABILIZED, RECONCILED, CLOSED]) ids.push(await run.open({ last }));
  const { approval } = await run.incidents.requestApproval({
    incidentId: ids[0] ?? '',
    requestedState: ACKNOWLEDGED,
    notes: 'may I?',
  });
  const elsewhere = await run.incidents.openIncident({
    environmentId: run.environmentId,
    title: 'of no run',
    driftSummary: { b: 2 },
  });
  const before = await Promise.all(ids.map(run.get));
  const dashboard = await run.incidents.getDriftDashboard({});

  const preview = await run.participant.preview({ runId: run.runId });
  t.deepEqual(countsOf(preview.resourceCounts), { incident_payload: { found: 5, deleted: 0, left: 5 } });
  t.is(preview.resourceCounts[0]?.bytes, BigInt(5 * '{"a": 1}'.length));
  t.deepEqual(preview.samples.map(({ resourceId }) => resourceId).toSorted(), ids.toSorted());
  t.deepEqual(preview.blockers, [], 'an open incident forbids nothing: its shell stays open');
  const purge = await run.purge(newId());
  t.is(purge.progress, Progress.COMPLETE);
  t.deepEqual(countsOf(purge.resourceCounts), { incident_payload: { found: 5, deleted: 5, left: 0 } });
  t.is(purge.resourceCounts[0]?.bytes, preview.resourceCounts[0]?.bytes);

  const after = await Promise.all(ids.map(run.get));
  t.deepEqual(after.map(withoutPayload), before.map(withoutPayload));
  for (const incident of after) {
    t.like(incident, { payloadState: PayloadState.PURGED, driftSummary: undefined });
    t.is(incident.payloadNotice, 'Incident drift details were purged together with their run.');
  }
  t.deepEqual(await run.incidents.getDriftDashboard({}), dashboard);
  t.deepEqual((await run.incidents.listApprovals({})).approvals, approval ? [approval] : []);
  t.deepEqual(await run.get(elsewhere.incident?.id ?? ''), elsewhere.incident);
  t.deepEqual(await run.audit(), [
    {
      action: 'purge',
      actor: 'service:run',
      subject: 'service:run',
      target_type: 'run',
      target_id: run.runId,
      reason: 'asked for',
      counts: { incidents: 0, incident_payloads: 5 },
    },
  ]);
  // A shell goes on living.
  const { incident } = await run.incidents.transitionIncident({ incidentId: ids[0] ?? '', state: ACKNOWLEDGED });
  t.like(incident, { state: ACKNOWLEDGED, payloadState: PayloadState.PURGED });
});

test('a purge of a run leaves the same of its incidents whether the run was hidden before or not', async (t) => {
  const seen = await Promise.all(
    [false, true].map(async (isHidden) => {
      const run = await fixture(t, `one-rule-${isHidden}`);
      const ids = [await run.open(), await run.open({ last: CLOSED })];
      const { incident } = await run.incidents.openIncident({
        environmentId: run.environmentId,
        title: 'without a payload',
        runId: run.runId,
        step: 'draft',
      });
      ids.push(incident?.id ?? '');
      if (isHidden) await run.softDelete(newId());
      const operationId = newId();
      while ((await run.purge(operationId, 2)).progress !== Progress.COMPLETE);
      const shells = await Promise.all(ids.map(async (incidentId) => run.incidents.getIncident({ incidentId })));
      const { openIncidentCount } = await run.incidents.getDriftDashboard({});
      return {
        shells: shells.map(({ incident: shell }) => [
          shell?.state,
          shell?.payloadState,
          shell?.payloadNotice,
          shell?.deleteTime,
        ]),
        listed: (await run.incidents.listIncidents({})).incidents.length,
        open: openIncidentCount,
      };
    }),
  );
  t.deepEqual(seen[1], seen[0]);
  t.like(seen[0], { listed: 3, open: 2n });
});

test('once a run is purged, no incident can be opened for it any more, by nobody', async (t) => {
  const run = await fixture(t, 'late');
  await run.purge(newId());
  const late = { code: Code.FailedPrecondition, reason: 'STEP_COMPENSATED' };
  t.like(await refusalOf(run.open()), late);
  t.like(await refusalOf(run.execute('draft')), late);
  t.deepEqual((await run.incidents.listIncidents({})).incidents, []);
});

test('a participant whose database is another one answers with the id of that one, without a new start', async (t) => {
  const run = await fixture(t, 'switched');
  const ids = async () => {
    const { dataId: previewed } = await run.participant.preview({ runId: run.runId });
    const { dataId: readBack } = await run.participant.verify({ runId: run.runId });
    return { previewed, readBack };
  };
  const { previewed: before } = await ids();
  // What a server that takes the place of another has: the same tables, and an id of its own.
  const [row] = await sql<{ id: string }>(t, 'update lethe_installation set id = gen_random_uuid() returning id', []);
  t.not(row?.id, before);
  t.deepEqual(await ids(), { previewed: row?.id ?? '', readBack: row?.id ?? '' });
});

test('a compensation closes the incidents of its step from any state, takes their payloads, and says so in the timeline', async (t) => {
  const run = await fixture(t, 'compensation');
  const ids: string[] = [];
  for (const last of [DETECTED, ACKNOWLEDGED, STABILIZED, RECONCILED, CLOSED]) ids.push(await run.open({ last }));
  const other = await run.open({ step: 'other' });
  const before = await Promise.all([...ids, other].map(run.get));
  const answer = await run.compensate('draft');
  t.is(answer.progress, Progress.COMPLETE);
  t.deepEqual(countsOf(answer.resourceCounts), {
    incident: { found: 4, deleted: 4, left: 0 },
    incident_payload: { found: 5, deleted: 5, left: 0 },
  });
  for (const [index, incidentId] of ids.entries()) {
    const { timeline, ...incident } = await run.get(incidentId);
    const earlier = before[index]?.timeline ?? [];
    t.like(incident, { state: CLOSED, payloadState: PayloadState.PURGED, driftSummary: undefined, nextStates: [] });
    t.deepEqual(timeline.slice(0, earlier.length), earlier);
    if (index < 4) {
      t.is(incident.closeCause, CloseCause.COMPENSATED);
      t.is(timeline.length, earlier.length + 1);
      t.like(timeline.at(-1), { state: CLOSED, actor: 'service:run', note: 'compensation' });
      t.deepEqual(timeline.at(-1)?.transitionTime, incident.closeTime);
    } else {
      t.is(incident.closeCause, CloseCause.RESOLVED, 'what went all its way is not closed again');
      t.is(timeline.length, earlier.length);
    }
  }
  t.deepEqual(await run.get(other), before.at(-1));
  t.deepEqual((await run.participant.verify({ runId: run.runId, step: 'draft' })).resourceCounts, []);
  t.deepEqual(await run.compensate('draft'), answer);
  t.is((await run.audit()).length, 1);
  const dashboard = await run.incidents.getDriftDashboard({});
  t.is(dashboard.openIncidentCount, 1n);
});

test('what a compensation has not closed yet is told by Verify', async (t) => {
  const run = await fixture(t, 'verify');
  const incidentId = await run.open();
  await run.compensate('draft');
  await sql(t, `update incidents set state = 'DETECTED' where id = $1`, [incidentId]);
  const { resourceCounts, samples } = await run.participant.verify({ runId: run.runId, step: 'draft' });
  t.deepEqual(countsOf(resourceCounts), { incident: { found: 1, deleted: 0, left: 1 } });
  t.deepEqual(
    samples.map(({ resourceId }) => resourceId),
    [incidentId],
  );
});

test('an action opens one incident that carries run, step and actor, and answers with its id for ever after', async (t) => {
  const run = await fixture(t, 'action');
  const answers = await Promise.all(Array.from({ length: 5 }, () => run.execute('draft')));
  const incidentId = String(answers[0]?.output?.['incident_id']);
  for (const { output, progress, resourceCounts } of answers) {
    t.is(progress, Progress.COMPLETE);
    t.deepEqual(output, { incident_id: incidentId });
    const one = { found: 1, deleted: 0, left: 1 };
    t.deepEqual(countsOf(resourceCounts), { incident: one, incident_payload: one });
  }
  const { incidents } = await run.incidents.listIncidents({ runId: run.runId });
  t.deepEqual(
    incidents.map(({ id, step, state, title }) => [id, step, state, title]),
    [[incidentId, 'draft', DETECTED, 'drift']],
  );
  t.like(await run.get(incidentId), { driftSummary: { a: 1 }, timeline: [{ actor: 'service:run' }] });

  const bare = { environment_id: run.environmentId, title: 'drift' };
  const without = await run.execute('bare', bare);
  t.deepEqual(Object.keys(countsOf(without.resourceCounts)), ['incident']);
});

test('an action that names what is not there can never succeed, and a malformed one is refused with every field named', async (t) => {
  const run = await fixture(t, 'inputs');
  const stranger = await fixture(t, 'inputs-2');
  for (const input of [
    { ...run.input, environment_id: newId() },
    { ...run.input, environment_id: stranger.environmentId },
    { ...run.input, drift_check_id: newId() },
  ]) {
    t.like(await refusalOf(run.execute('draft', input)), { code: Code.FailedPrecondition, reason: 'ACTION_REFUSED' });
  }
  for (const [field, input] of [
    ['input.environment_id,input.title', {}],
    ['input.environment_id', { ...run.input, environment_id: 7 }],
    ['input.title', { ...run.input, title: '' }],
    ['input.title', { ...run.input, title: 'x'.repeat(201) }],
    ['input.drift_check_id', { ...run.input, drift_check_id: 'x' }],
    ['input.drift_summary', { ...run.input, drift_summary: ['x'] }],
    ['input', { ...run.input, drift_sumary: {} }],
    ['input', { ...run.input, drift_summary: { text: 'x'.repeat(1_048_577) } }],
    ['input', { ...run.input, drift_summary: { 'a\u0000': 1 } }],
  ] as const) {
    const refusal = await refusalOf(run.execute('draft', input as JsonObject));
    t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID', metadata: { fields: field } });
  }
  const request = { runId: run.runId, action: 'open-incident', input: run.input };
  const otherKey = { ...request, key: { operationId: newId(), step: 'draft' } };
  t.is((await refusalOf(run.participant.execute(otherKey))).metadata['fields'], 'key.operation_id');
  t.deepEqual((await run.incidents.listIncidents({})).incidents, []);
  await t.notThrowsAsync(run.execute('draft'));
});

test('a hidden run is hidden from every read and every write, shown to admins who ask, and back byte for byte', async (t) => {
  const run = await fixture(t, 'hidden');
  const incidentId = await run.open({ last: STABILIZED });
  const { approval } = await run.incidents.requestApproval({ incidentId, requestedState: RECONCILED });
  const approvalId = approval?.id ?? '';
  const look = async () => ({
    get: await run.incidents.getIncident({ incidentId }),
    list: await run.incidents.listIncidents({}),
    ofRun: await run.incidents.listIncidents({ runId: run.runId }),
    approvals: await run.incidents.listApprovals({}),
    ofIncident: await run.incidents.listApprovals({ incidentId }),
    dashboard: await run.incidents.getDriftDashboard({}),
  });
  const before = await look();
  const hiding = newId();
  await run.softDelete(hiding);
  for (const call of [
    run.incidents.getIncident({ incidentId }),
    run.incidents.transitionIncident({ incidentId, state: RECONCILED }),
    run.incidents.requestApproval({ incidentId, requestedState: RECONCILED }),
  ]) {
    t.deepEqual(await refusalOf(call), await refusalOf(run.incidents.getIncident({ incidentId: newId() })));
  }
  const decide = (id: string) => run.admin.decideApproval({ approvalId: id, decision: ApprovalState.APPROVED });
  t.deepEqual(await refusalOf(decide(approvalId)), await refusalOf(decide(newId())));
  t.deepEqual((await run.incidents.listIncidents({})).incidents, []);
  t.deepEqual((await run.incidents.listApprovals({})).approvals, []);
  const dashboard = await run.incidents.getDriftDashboard({});
  t.true(dashboard.incidents.every(({ count }) => count === 0n));

  const shown = await run.get(incidentId);
  t.truthy(shown.deleteTime);
  t.not(shown.etag, before.get.incident?.etag);
  const same = { deleteTime: undefined, etag: '' };
  t.deepEqual({ ...shown, ...same }, { ...before.get.incident, ...same } as typeof shown & typeof same);
  const { incidents } = await run.admin.listIncidents({ showDeleted: true });
  t.deepEqual(
    incidents.map(({ id }) => id),
    [incidentId],
  );
  const [row] = await sql(t, 'select is_deleted, deleted_by, deleted_reason, hidden_by from incidents where id = $1', [
    incidentId,
  ]);
  t.deepEqual(row, {
    is_deleted: true,
    deleted_by: 'service:run',
    deleted_reason: 'no longer wanted',
    hidden_by: hiding,
  });

  t.deepEqual(countsOf((await run.restore(newId(), hiding)).resourceCounts), {
    incident: { found: 1, deleted: 1, left: 0 },
  });
  t.deepEqual(await look(), before);
  t.deepEqual(
    (await run.audit()).map((entry) => (entry as { action: string }).action),
    ['soft-delete', 'undelete'],
  );
});

test('a purge by age takes the payloads of hidden incidents too, and they come back as shells', async (t) => {
  const run = await fixture(t, 'hidden-and-old');
  await run.insertMany(2);
  const [incident] = (await run.incidents.listIncidents({})).incidents;
  const hiding = newId();
  await run.softDelete(hiding);
  const purger = agePurgerOf(t.context.owner, run.tenantId, 'incident_payloads');
  const request = { operationId: newId(), retentionDays: 180 };
  t.is((await purger.count(180)).expired, 2);
  await purger.purge(request);
  t.is(await run.payloads(), 0);
  await run.restore(newId(), hiding);
  const { incidents } = await run.incidents.listIncidents({});
  t.deepEqual(
    incidents.map(({ payloadState }) => payloadState),
    [PayloadState.PURGED, PayloadState.PURGED],
  );
  t.not(incidents[0]?.etag, incident?.etag, 'what came back is not what was hidden');
});

test('once a purge has begun nothing is hidden or brought back, and the audit tells who tried and why it was refused', async (t) => {
  const run = await fixture(t, 'refusals');
  await run.open();
  const hiding = newId();
  await run.softDelete(hiding);
  const operationId = newId();
  await run.purge(operationId);
  for (const call of [() => run.softDelete(newId()), () => run.restore(newId(), hiding)]) {
    const refusal = await refusalOf(call());
    t.like(refusal, { code: Code.Aborted, reason: 'OPERATION_IN_PROGRESS', metadata: { operation_id: operationId } });
  }
  const audit = await sql(
    t,
    'select action, actor, target_id, outcome from audit_entries where tenant_id = $1 order by at',
    [run.tenantId],
  );
  const of = (action: string, outcome: string) => ({ action, actor: 'service:run', target_id: run.runId, outcome });
  t.deepEqual(audit, [
    of('soft-delete', 'COMPLETE'),
    of('purge', 'COMPLETE'),
    of('soft-delete', 'OPERATION_IN_PROGRESS'),
    of('undelete', 'OPERATION_IN_PROGRESS'),
  ]);
});

test('only a service with the scope takes part, in the tenant of its credential; of another tenant it changes nothing', async (t) => {
  const run = await fixture(t, 'mine');
  const incidentId = await run.open({ last: CLOSED });
  const before = await run.get(incidentId);
  const { stack, connection } = t.context;
  const { runId } = run;
  const key = { operationId: newId(), step: 'lethe' };
  const stepKey = { operationId: runId, step: 'draft' };
  const calls = (participant: Participant): readonly (() => Promise<unknown>)[] => [
    () => participant.preview({ runId }),
    () => participant.verify({ runId }),
    () => participant.softDelete({ key, runId }),
    () => participant.restore({ key, runId, softDeleteOperationId: newId() }),
    () => participant.compensate({ key: stepKey, runId }),
    () => participant.purge({ key, runId, reason: 'r' }),
  ];
  const person = (role: 'owner' | 'platform') =>
    connection.client(ParticipantService, () => stack.token({ tenantId: 'mine', role }));
  const service = (changes: Parameters<typeof stackParticipant>[4]) =>
    stackParticipant(stack, connection, 'incident', 'mine', changes);
  const denied = Code.PermissionDenied;
  for (const [participant, reason, code] of [
    [person('owner'), 'TOKEN_INVALID', Code.Unauthenticated],
    [person('platform'), 'TOKEN_INVALID', Code.Unauthenticated],
    [service({ audience: 'lethe' }), 'TOKEN_INVALID', Code.Unauthenticated],
    [service({ audience: 'lethe-participant:job' }), 'TOKEN_INVALID', Code.Unauthenticated],
    [service({ scope: 'incidents:write' }), 'SCOPE_MISSING', denied],
    [service({ role: 'owner' }), 'ROLE_TOO_LOW', denied],
    [service({ actingService: 'service:retention' }), 'ROLE_TOO_LOW', denied],
    [service({ tenantId: undefined }), 'TENANT_MISSING', denied],
    [service({ runId: newId() }), 'TOKEN_MISMATCH', denied],
  ] as const) {
    for (const call of [
      ...calls(participant),
      () => participant.execute({ key: stepKey, runId, action: 'open-incident', input: run.input }),
    ]) {
      t.like(await refusalOf(call()), { code, reason });
    }
  }
  for (const call of calls(participantOf(t, 'strangers'))) {
    const { resourceCounts } = (await call()) as { resourceCounts: ResourceCount[] };
    t.deepEqual(resourceCounts, []);
  }
  t.deepEqual(await run.get(incidentId), before);
});

test('purges of a run and purges by age at once count every payload once, and end with none', async (t) => {
  const run = await fixture(t, 'together');
  await run.insertMany(2_300);
  const purger = agePurgerOf(t.context.owner, run.tenantId, 'incident_payloads');
  const untilComplete = async (call: () => Promise<{ progress: Progress; resourceCounts: ResourceCount[] }>) => {
    for (;;) {
      const { progress, resourceCounts } = await call();
      if (progress === Progress.COMPLETE) return countsOf(resourceCounts)['incident_payload']?.deleted ?? 0;
    }
  };
  const sums = await Promise.all([
    ...Array.from({ length: 3 }, () => {
      const operationId = newId();
      return untilComplete(() => run.purge(operationId, 300));
    }),
    ...Array.from({ length: 2 }, () => {
      const operationId = newId();
      return untilComplete(() => purger.purge({ operationId, retentionDays: 180, limit: 300 }));
    }),
  ]);
  t.is(
    sums.reduce((sum, deleted) => sum + deleted, 0),
    2_300,
  );
  t.is(await run.payloads(), 0);
  const [row] = await sql<{ stamped: number; shells: number }>(
    t,
    `select count(*)::int as shells, count(payload_purged_at)::int as stamped from incidents where tenant_id = $1`,
    [run.tenantId],
  );
  t.deepEqual(row, { shells: 2_300, stamped: 2_300 });
});

test('one key called by two at once is one purge with exact sums', async (t) => {
  const run = await fixture(t, 'same-key');
  await run.insertMany(1_700);
  const operationId = newId();
  const answers = await Promise.all(Array.from({ length: 4 }, () => run.purge(operationId)));
  for (const { progress, resourceCounts } of answers) {
    t.is(progress, Progress.COMPLETE);
    t.is(countsOf(resourceCounts)['incident_payload']?.deleted, 1_700);
  }
  t.is((await run.audit()).length, 1);
});

/** Lets the process die at the point while `call` is under way, and waits for the next one. */
async function killAt(
  t: T,
  point: string,
  call: () => Promise<unknown>,
  look: () => Promise<unknown> = async () => undefined,
): Promise<void> {
  const { crashFile, stack } = t.context;
  await rm(`${crashFile}.struck`, { force: true });
  // It stops itself first: the client repeats a call that broke off, and the next process may be done before the look.
  await writeFile(crashFile, `${point} stop`);
  const pid = stack.pid('incident');
  const called = call().catch(() => undefined);
  await until(`the process stands still at ${point}`, () => access(`${crashFile}.struck`).then(() => true));
  await look();
  if (pid !== undefined) process.kill(pid, 'SIGKILL');
  await called;
  await until('another one is there', async () => ![pid, undefined].includes(stack.pid('incident')));
  // Each client has a channel of its own, which has to notice.
  await until('it answers', async () => {
    await as(t, 'viewer', 'nobody').getDriftDashboard({});
    await participantOf(t, 'nobody').verify({ runId: newId() });
    return true;
  });
}

/** Repeats one call with one key, through refusals of a process that is not there, until it is COMPLETE. */
async function repeat<A extends { progress: Progress }>(call: () => Promise<A>): Promise<A> {
  let last: A | undefined;
  await until('COMPLETE', async () => {
    last = await call();
    return last.progress === Progress.COMPLETE;
  });
  if (!last) throw new Error('no answer');
  return last;
}

// Serial tests come first in a file, so that no other one meets a process that is not there.
for (const point of ['incident.cascade.after-intent', 'incident.cascade.after-batch']) {
  test.serial(
    `a purge of a run that is killed at ${point} is finished by the same key, with exact counts`,
    async (t) => {
      const run = await fixture(t, `kill-purge-${point.replaceAll('.', '-')}`);
      await run.insertMany(1_200);
      const operationId = newId();
      await killAt(t, point, () => run.purge(operationId));
      const { resourceCounts } = await repeat(() => run.purge(operationId));
      t.deepEqual(countsOf(resourceCounts), { incident_payload: { found: 1_200, deleted: 1_200, left: 0 } });
      t.is(await run.payloads(), 0);
      t.is((await run.audit()).length, 1);
    },
  );

  test.serial(`a compensation that is killed at ${point} is finished by the same key, with exact counts`, async (t) => {
    const run = await fixture(t, `kill-step-${point.replaceAll('.', '-')}`);
    await run.execute('draft');
    await killAt(t, point, () => run.compensate('draft'));
    const { resourceCounts } = await repeat(() => run.compensate('draft'));
    const one = { found: 1, deleted: 1, left: 0 };
    t.deepEqual(countsOf(resourceCounts), { incident: one, incident_payload: one });
    t.is((await refusalOf(run.execute('draft'))).reason, 'STEP_COMPENSATED');
    t.is(await run.payloads(), 0);
  });
}

test.serial('an action that is killed before its answer is done once by the same key', async (t) => {
  const run = await fixture(t, 'kill-action');
  await killAt(t, 'incident.execute.after-outcome', () => run.execute('draft'));
  const { output } = await repeat(() => run.execute('draft'));
  const { incidents } = await run.incidents.listIncidents({ runId: run.runId });
  t.deepEqual(
    incidents.map(({ id }) => id),
    [output?.['incident_id']],
  );
});

// The batch first: a process that has purged before takes larger ones, and might be done with a single one.
for (const point of ['owner.purge.after-batch', 'owner.purge.after-intent']) {
  test.serial(`a purge by age that is killed at ${point} goes on with its cutoff and exact counts`, async (t) => {
    const run = await fixture(t, `kill-age-${point.replaceAll('.', '-')}`);
    await run.insertMany(2_200);
    const purger = agePurgerOf(t.context.owner, run.tenantId, 'incident_payloads');
    const request = { operationId: newId(), retentionDays: 180 };
    const receipt = () =>
      sql<{ cutoff: string; deleted: string }>(
        t,
        'select cutoff::text, removed::text as deleted from owner_operations where tenant_id = $1',
        [run.tenantId],
      );
    let before: { cutoff: string; deleted: string } | undefined;
    await killAt(
      t,
      point,
      () => purger.purge(request),
      async () => {
        [before] = await receipt();
        const gone = 2_200 - Number(await run.payloads());
        t.is(Number(before?.deleted), gone, 'what was committed was counted');
        if (point.endsWith('batch')) t.true(gone > 0 && gone < 2_200, `${gone} are gone`);
        else t.is(gone, 0);
      },
    );
    const { resourceCounts } = await repeat(() => purger.purge(request));
    t.is(countsOf(resourceCounts)['incident_payload']?.deleted, 2_200);
    t.deepEqual(await receipt(), [{ cutoff: before?.cutoff ?? '', deleted: '2200' }]);
    t.is(await run.payloads(), 0);
  });
}
