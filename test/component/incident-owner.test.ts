import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { Progress, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { newId } from '#libs/kernel/id.ts';
import { addChecks, addEnvironment, addIncidents, rowsOf } from '#test/support/aged-data.ts';
import { NIGHT_TOKEN, type OwnerAccess, openOwner } from '#test/support/owner-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; owner: OwnerAccess }>;
type T = ExecutionContext<{ stack: TestStack; owner: OwnerAccess }>;

test.before(async (t) => {
  const stack = await startTestStack({ services: ['incident'] });
  const owner = await openOwner({ address: stack.addresses.incident, name: 'incident', keyFile: stack.suiteKeyFile });
  Object.assign(t.context, { stack, owner });
});
test.after.always(async (t) => {
  t.context.owner?.close();
  await t.context.stack?.dispose();
});

const ruleOf = (subject: string, retentionDays: number) => ({
  subject,
  retentionDays,
  latestCutoffTime: toTimestamp(Temporal.Now.instant().subtract({ hours: 24 * retentionDays - 1 })),
});

const deletedBy = (counts: readonly ResourceCount[]): Record<string, number> =>
  Object.fromEntries(counts.map(({ resourceType, deleted }) => [resourceType, Number(deleted)]));

/** Purges to the end, as RetentionService does; what went by type. */
async function purge(t: T, tenantId: string, subject: string, retentionDays: number) {
  const operationId = newId();
  const client = t.context.owner.client({ ...NIGHT_TOKEN, tenantId, subject, operationId });
  for (;;) {
    const { progress } = await client.purge({ operationId, rule: ruleOf(subject, retentionDays) });
    if (progress === Progress.COMPLETE) break;
  }
  const end = await client.end({ operationId, subject });
  t.is(end.progress, Progress.COMPLETE);
  t.true(end.resourceCounts.every(({ left }) => left === 0n));
  return deletedBy(end.resourceCounts);
}

const sql = <Row>(t: T, text: string, values: readonly unknown[]): Promise<Row[]> =>
  queryOnce<Row>(t.context.stack.superuserUrl('incident'), text, values);

test('its subjects are listed with the id of its data set', async (t) => {
  const client = t.context.owner.client({ ...NIGHT_TOKEN, scope: 'owner:read' });
  const { subjects, dataId, contract } = await client.listSubjects({});
  t.deepEqual(
    subjects.map(({ name, resourceType, dependentTypes, hasFloor }) => [name, resourceType, dependentTypes, hasFloor]),
    [
      ['approval_notes', 'approval_note', [], false],
      ['approvals', 'approval', [], false],
      ['drift_checks', 'drift_check', ['drift_check_workflow'], false],
      ['incident_payloads', 'incident_payload', [], false],
    ],
  );
  t.is(contract, 1);
  t.deepEqual(await sql(t, 'select data_id from owner_data', []), [{ data_id: dataId }]);
});

test('every subject goes with what hangs on it, and an environment keeps its badge', async (t) => {
  const tenantId = 'whole';
  const { stack } = t.context;
  const environmentId = await addEnvironment(stack, tenantId);
  await addChecks(stack, tenantId, environmentId, ['40 days', '20 days', null]);
  await addIncidents(stack, tenantId, environmentId, [
    { state: 'CLOSED', age: '200 days' },
    { state: 'CLOSED', age: '20 days' },
    { state: 'DETECTED', age: '200 days' },
  ]);
  t.deepEqual(await purge(t, tenantId, 'drift_checks', 30), { drift_check: 1, drift_check_workflow: 2 });
  t.deepEqual(await purge(t, tenantId, 'incident_payloads', 180), { incident_payload: 1 });
  t.deepEqual(await purge(t, tenantId, 'approvals', 180), { approval: 1 });
  const left = ['drift_checks', 'drift_check_workflows', 'incident_payloads', 'approvals', 'incidents'];
  t.deepEqual(await Promise.all(left.map((table) => rowsOf(stack, table, tenantId))), [2, 4, 2, 2, 3]);
});

test('an undecided approval of a closed incident goes by the closing, and the incident tells that it went', async (t) => {
  const tenantId = 'undecided';
  const { stack } = t.context;
  const environmentId = await addEnvironment(stack, tenantId);
  const [old = '', young = '', open = ''] = await addIncidents(stack, tenantId, environmentId, [
    { state: 'CLOSED', age: '200 days', approval: 'PENDING' },
    { state: 'CLOSED', age: '20 days', approval: 'PENDING' },
    { state: 'RECONCILED', age: '200 days', approval: 'PENDING' },
  ]);
  // Undecided: a decision's instant on such a row means nothing.
  t.deepEqual(await purge(t, tenantId, 'approvals', 180), { approval: 1 });
  const { incidents } = stack.clients({ tenantId, role: 'admin' });
  const get = async (incidentId: string) => (await incidents.getIncident({ incidentId })).incident;
  const told = await get(old);
  t.is(told?.approvalsNotice, 'Approvals of this incident were purged per retention policy.');
  t.truthy(told?.approvalsPurgeTime);
  for (const incidentId of [young, open]) {
    t.like(await get(incidentId), { approvalsNotice: '', approvalsPurgeTime: undefined });
    t.is((await incidents.listApprovals({ incidentId })).approvals.length, 1);
  }
  t.is((await incidents.listApprovals({ incidentId: old })).approvals.length, 0);
});

for (const [subject, type] of [
  ['approvals', 'approval'],
  ['approval_notes', 'approval_note'],
] as const)
  test(`${subject}: an approval that is decided while a purge waits for it is judged by its decision, and stays`, async (t) => {
    const tenantId = `decided-${type.replace('_', '-')}`;
    const { stack } = t.context;
    const environmentId = await addEnvironment(stack, tenantId);
    await addIncidents(stack, tenantId, environmentId, [{ state: 'CLOSED', age: '200 days', approval: 'PENDING' }]);
    await sql(t, "update approvals set request_notes = 'why' where tenant_id = $1", [tenantId]);
    const deciding = new pg.Client(stack.superuserUrl('incident'));
    await deciding.connect();
    t.teardown(() => deciding.end());
    await deciding.query('begin');
    const decide =
      "update approvals set state = 'APPROVED', decided_by = 'eve', decided_at = now() where tenant_id = $1";
    await deciding.query(decide, [tenantId]);
    const [{ pid } = { pid: 0 }] = (await deciding.query<{ pid: number }>('select pg_backend_pid() as pid')).rows;
    const purging = purge(t, tenantId, subject, 180);
    const waiting = 'select from pg_stat_activity where $1 = any(pg_blocking_pids(pid))';
    await until('the purge waits for it', async () => (await sql(t, waiting, [pid])).length > 0);
    await deciding.query('commit');
    t.deepEqual(await purging, { [type]: 0 });
    const left = `select a.request_notes, i.approvals_purged_at
                from approvals a join incidents i on i.tenant_id = a.tenant_id and i.id = a.incident_id
                where a.tenant_id = $1`;
    t.deepEqual(await sql(t, left, [tenantId]), [{ request_notes: 'why', approvals_purged_at: null }]);
  });

test('an incident tells when the first of its approvals went, also after others', async (t) => {
  const tenantId = 'first-of-approvals';
  const { stack } = t.context;
  const environmentId = await addEnvironment(stack, tenantId);
  const [incidentId = ''] = await addIncidents(stack, tenantId, environmentId, [{ state: 'CLOSED', age: '200 days' }]);
  await sql(
    t,
    `insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at)
     select $1, gen_random_uuid(), $2, 'CLOSED', 'APPROVED', 'ada', now() - interval '100 days'`,
    [tenantId, incidentId],
  );
  const { incidents } = stack.clients({ tenantId, role: 'admin' });
  t.deepEqual(await purge(t, tenantId, 'approvals', 180), { approval: 1 });
  const { incident: first } = await incidents.getIncident({ incidentId });
  t.truthy(first?.approvalsPurgeTime);
  t.deepEqual(await purge(t, tenantId, 'approvals', 90), { approval: 1 });
  t.is(await rowsOf(stack, 'approvals', tenantId), 0);
  t.deepEqual((await incidents.getIncident({ incidentId })).incident, first);
});
