import { toJsonString } from '@bufbuild/protobuf';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { type Deletion, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { IncidentSchema, IncidentState, PayloadState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { settled } from '#test/support/run-graph.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;
type T = ExecutionContext<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run', 'incident'] });
});
test.after.always((t) => t.context.stack.dispose());

/** A finished run of a tenant with an open and a closed incident, both with payloads. */
async function runWithIncidents(t: T, tenantId: string) {
  const { runs, incidents } = t.context.stack.clients({ tenantId, role: 'admin' });
  const { run } = await runs.createRun({ workflow: 'deploy', displayName: 'a run' });
  const runId = run?.id ?? '';
  await runs.recordStep({ runId, name: 'check', state: StepState.RUNNING, participants: ['incident'] });
  await runs.recordStep({ runId, name: 'check', state: StepState.COMPLETED });
  const { environment } = await incidents.createEnvironment({ displayName: 'production' });
  const ids: string[] = [];
  for (const title of ['open', 'closed']) {
    const driftSummary = { title, files: ['a', 'b'] };
    const opened = { environmentId: environment?.id ?? '', title, driftSummary, runId, step: 'check' };
    const { incident } = await incidents.openIncident(opened);
    ids.push(incident?.id ?? '');
  }
  const [openId = '', closedId = ''] = ids;
  const { ACKNOWLEDGED, STABILIZED, RECONCILED, CLOSED } = IncidentState;
  for (const state of [ACKNOWLEDGED, STABILIZED, RECONCILED, CLOSED]) {
    await incidents.transitionIncident({ incidentId: closedId, state });
  }
  await runs.finishRun({ runId, state: RunState.COMPLETED });
  const look = async (showDeleted: boolean) => {
    const { incidents: listed } = await incidents.listIncidents({ runId, showDeleted });
    const whole = await Promise.all(
      [openId, closedId].map((incidentId) =>
        incidents.getIncident({ incidentId, showDeleted }).then(
          ({ incident }) => (incident ? toJsonString(IncidentSchema, incident) : ''),
          async (error) => (await refusalOf(Promise.reject(error))).reason,
        ),
      ),
    );
    return { whole, listed: listed.map((incident) => toJsonString(IncidentSchema, incident)) };
  };
  return { runs, incidents, runId, openId, closedId, look };
}

const countsOf = (deletion: Deletion) =>
  deletion.participants
    .find(({ participant }) => participant === 'incident')
    ?.resourceCounts.map(({ resourceType, found, deleted, left }) => [resourceType, found, deleted, left]);

test('the incidents of a deleted run are hidden with it, shown to admins, and back byte for byte with it', async (t) => {
  const { stack } = t.context;
  const { runs, incidents, runId, openId, look } = await runWithIncidents(t, 'hides');
  const before = await look(false);
  t.is(before.listed.length, 2);
  const { deletion } = await runs.deleteRun({ runId, reason: 'by mistake' });
  const hidden = await settled(stack, 'hides', deletion?.id);
  t.is(hidden.state, DeletionState.COMPLETE);
  t.deepEqual(countsOf(hidden), [['incident', 2n, 2n, 0n]]);
  t.deepEqual(await look(false), { whole: ['INCIDENT_NOT_FOUND', 'INCIDENT_NOT_FOUND'], listed: [] });
  t.is((await look(true)).listed.length, 2);
  const { incident } = await incidents.getIncident({ incidentId: openId, showDeleted: true });
  const late = { environmentId: incident?.environmentId ?? '', title: 'late', runId, step: 'late' };
  t.is((await refusalOf(incidents.openIncident(late))).reason, 'RUN_DELETED');
  const { deletion: undelete } = await runs.undeleteRun({ runId });
  const back = await settled(stack, 'hides', undelete?.id);
  t.is(back.state, DeletionState.COMPLETE);
  t.deepEqual(countsOf(back), [['incident', 2n, 2n, 0n]]);
  t.deepEqual(await look(false), before);
  t.is((await incidents.openIncident(late)).incident?.title, 'late');
});

test('the purge of a run takes the payloads that its preview told of, and the shells stay', async (t) => {
  const { stack } = t.context;
  const tenantId = 'purges';
  const { runs, incidents, runId, openId, closedId } = await runWithIncidents(t, tenantId);
  const neighbour = await runWithIncidents(t, 'neighbours');
  const untouched = await neighbour.look(false);
  const preview = await runs.previewPurgeRun({ runId });
  const told = preview.participants.find(({ participant }) => participant === 'incident');
  t.deepEqual(
    told?.resourceCounts.map(({ resourceType, found }) => [resourceType, found]),
    [['incident_payload', 2n]],
  );
  const { deletion } = await runs.purgeRun({ runId, reason: 'asked for' });
  const receipt = await settled(stack, tenantId, deletion?.id);
  t.is(receipt.state, DeletionState.COMPLETE);
  t.deepEqual(countsOf(receipt), [['incident_payload', 2n, 2n, 0n]]);
  t.is(
    receipt.participants.find(({ participant }) => participant === 'incident')?.resourceCounts[0]?.bytes,
    told?.resourceCounts[0]?.bytes,
  );
  const left = await queryOnce(stack.superuserUrl('incident'), 'select * from incident_payloads where tenant_id = $1', [
    tenantId,
  ]);
  t.deepEqual(left, []);
  for (const [incidentId, state] of [
    [openId, IncidentState.DETECTED],
    [closedId, IncidentState.CLOSED],
  ] as const) {
    const { incident } = await incidents.getIncident({ incidentId });
    t.like(incident, { state, payloadState: PayloadState.PURGED, runId, step: 'check' });
  }
  const [audit] = await queryOnce<{ actor: string; subject: string; reason: string }>(
    stack.superuserUrl('incident'),
    "select actor, subject, reason from audit_entries where tenant_id = $1 and action = 'purge'",
    [tenantId],
  );
  t.deepEqual(audit, { actor: `admin@${tenantId}`, subject: 'service:run', reason: 'asked for' });
  t.deepEqual(await neighbour.look(false), untouched);
});
