import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { PurgeItemState, PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import {
  addChecks,
  addEnvironment,
  addIncidents,
  census,
  less,
  purge,
  putPlan,
  removedBy,
  rowsOf,
} from '#test/support/aged-data.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { makeTcpGate, type TcpGate } from '#test/support/tcp-gate.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  readonly stack: TestStack;
  readonly gate: TcpGate;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const gate = await makeTcpGate();
  const stack = await startTestStack({
    services: ['incident', 'retention'],
    env: { LETHE_LOCK_TIMEOUT_MS: '30000', LETHE_STATEMENT_TIMEOUT_MS: '30000' },
    envOf: {
      retention: {
        LETHE_RETENTION_OWNERS: `incident=${gate.address}`,
        LETHE_OWNER_MAX_WAIT: '2',
        LETHE_PURGE_CEILING_SHARE: 'off',
        // One tenant after the other, so that the test knows whose turn it is.
        LETHE_PURGE_WORKERS: '1',
        LETHE_PURGE_ATTEMPTS: '3',
        LETHE_PURGE_BACKOFF_MS: '500',
        LETHE_PURGE_ROWS_PER_CALL: '1000',
        // A lease is twice that.
        LETHE_OWNER_TIMEOUT_MS: '5000',
      },
    },
  });
  gate.open(stack.addresses.incident);
  Object.assign(t.context, { stack, gate });
});
test.after.always(async (t) => {
  await t.context.stack.dispose();
  await t.context.gate.close();
});

const platformOf = (t: T) => t.context.stack.clients({ role: 'platform' }).retention;

const setDue = (t: T, tenantId: string, after: string) =>
  queryOnce(
    t.context.stack.superuserUrl('retention'),
    `update retention_purge_items set due_at = now() + $2::interval where tenant_id = $1 and state = 'PENDING'`,
    [tenantId, after],
  );

/** Whether a statement waits for the row that is held. */
const isWaiting = async (t: T): Promise<boolean> => {
  const rows = await queryOnce(
    t.context.stack.superuserUrl('incident'),
    "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
  );
  return rows.length > 0;
};

async function addTenant(t: T, tenantId: string, checks = 2_000): Promise<void> {
  const { stack } = t.context;
  await putPlan(stack, tenantId, 'PRO');
  const environmentId = await addEnvironment(stack, tenantId);
  await addChecks(stack, tenantId, environmentId, Array(checks).fill('31 days'));
  await addIncidents(stack, tenantId, environmentId, [{ state: 'CLOSED', age: '181 days' }]);
}

const GONE = { drift_check: 2_000, drift_check_workflow: 4_000, incident_payload: 1, approval: 1 };

interface OperationRow {
  readonly id: string;
  readonly subject: string;
  readonly days: number;
  /** In seconds since 1970, as text, since a Date would lose the microseconds. */
  readonly cutoff: string;
}

/** What IncidentService was asked to remove of the tenant. */
const operationsOf = (t: T, tenantId: string): Promise<OperationRow[]> =>
  queryOnce<OperationRow>(
    t.context.stack.superuserUrl('incident'),
    `select operation_id as id, subject, retention_days as days, extract(epoch from cutoff)::text as cutoff
     from owner_operations where tenant_id = $1 and retention_days is not null order by subject, created_at`,
    [tenantId],
  );

/** The cutoffs in the receipt of a purge, of the subjects that were removed from. */
const receiptOf = (t: T, tenantId: string, purgeId: string) =>
  queryOnce<Pick<OperationRow, 'id' | 'cutoff'>>(
    t.context.stack.superuserUrl('retention'),
    `select operation_id as id, extract(epoch from cutoff)::text as cutoff from retention_purge_subjects
     where tenant_id = $1 and purge_id = $2 and operation_id is not null order by subject`,
    [tenantId, purgeId],
  );

const named = ({ subject, days }: OperationRow) => `${subject} ${days}`;

const isOf = (tenantId: string) => (item: { readonly tenantId: string }) => item.tenantId === tenantId;

/** A check of the second batch is held: a purge of the tenant removes the first one and waits. */
async function holdSecondBatch(t: T, tenantId: string): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: t.context.stack.superuserUrl('incident') });
  client.on('error', () => undefined);
  await client.connect();
  await client.query('begin');
  await client.query(
    `select from drift_checks where tenant_id = $1 and id = (
       select id from drift_checks where tenant_id = $1 order by checked_at, id offset 1200 limit 1) for update`,
    [tenantId],
  );
  return async () => {
    await client.query('rollback');
    await client.end();
  };
}

test.serial(
  'IncidentService is down for one tenant’s turn: that one is PARTIAL with the reason, the others are done, and the next purge completes it',
  async (t) => {
    const { stack, gate } = t.context;
    const tenants = ['down-a', 'down-b', 'down-c'];
    // More than the call that is cut off may still remove, so that the next purge has its part.
    const checks = 3_500;
    const gone = { ...GONE, drift_check: checks, drift_check_workflow: 2 * checks };
    for (const tenantId of tenants) await addTenant(t, tenantId, tenantId === 'down-b' ? checks : 2_000);
    // Purged before, so that they are less overdue than the ones before them, and have their turns in this order.
    await queryOnce(
      stack.superuserUrl('retention'),
      `with p as (insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint)
                values (gen_random_uuid(), 'PURGE', false, 'a', 'a', '') returning id)
     insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, finished_at)
     select t, id, 'COMPLETE', false, 'a', now() - interval '9 days' + n * interval '1 day'
     from p, unnest($1::text[]) with ordinality u(t, n)`,
      [tenants],
    );
    const before = await census(stack, 'down-b');
    const release = await holdSecondBatch(t, 'down-b');
    const order: string[] = [];
    const whole = purge(stack, { tenantIds: tenants }, (event) => {
      if (event.case === 'tenantFinished') order.push(event.value.item?.tenantId ?? '');
    });
    await until(
      'the first batch of the second tenant is gone',
      async () => (await rowsOf(stack, 'drift_checks', 'down-b')) < checks,
    );
    // The third one's turn comes when the service is back.
    await setDue(t, 'down-c', '1 hour');
    gate.shut();
    await release();
    await until('the second tenant’s turn is over', async () => order.includes('down-b'), 60_000);
    gate.open(stack.addresses.incident);
    await setDue(t, 'down-c', '0 seconds');
    const { summary, items } = await whole;
    t.deepEqual(order, tenants, 'most overdue first');
    t.like(summary, { state: PurgeState.PARTIAL, completeTenantCount: 2, failedTenantCount: 1 });
    const [first, second, third] = tenants.map((tenantId) => items.find((item) => item.tenantId === tenantId));
    for (const done of [first, third]) {
      t.is(done?.state, PurgeItemState.COMPLETE);
      t.deepEqual(removedBy(done?.resourceCounts ?? []), GONE);
    }
    t.is(second?.state, PurgeItemState.PARTIAL);
    t.is(second?.error, 'DEPENDENCY_UNAVAILABLE: The owner incident is unavailable; try again later.');

    // However often it was tried, each subject has one operation with one cutoff, and the receipt tells that one.
    const operations = await operationsOf(t, 'down-b');
    t.deepEqual(operations.map(named), ['approvals 180', 'drift_checks 30']);
    // Payloads had their operation decided, and not begun.
    t.deepEqual(
      (await receiptOf(t, 'down-b', summary.id)).slice(0, 2),
      operations.map(({ id, cutoff }) => ({ id, cutoff })),
    );

    // What the cut-off call removed is counted as soon as the service can be asked.
    const between = less(before, await census(stack, 'down-b'));
    t.true((between['drift_check'] ?? 0) >= 1_000);
    const receipt = async () =>
      removedBy(
        (await platformOf(t).getPurge({ purgeId: summary.id })).items.find(isOf('down-b'))?.resourceCounts ?? [],
      );
    await until('the receipt is exact', async () => (await receipt())['drift_check'] === between['drift_check']);
    t.deepEqual(await receipt(), between);
    const next = await purge(stack, { tenantIds: ['down-b'] });
    t.is(next.summary.state, PurgeState.COMPLETE);
    t.deepEqual(less(before, await census(stack, 'down-b')), gone);
    t.deepEqual(removedBy(next.summary.resourceCounts), less(gone, between), 'and each row once');
    const all = await operationsOf(t, 'down-b');
    t.deepEqual(all.map(named), ['approvals 180', 'drift_checks 30', 'drift_checks 30', 'incident_payloads 180']);
    t.true(Number(all[2]?.cutoff) > Number(all[1]?.cutoff), 'another purge has a cutoff of its own');
  },
);

test.serial(
  'IncidentService is down from the start: the tenant is PARTIAL with the reason, nothing is gone, and the next purge completes it',
  async (t) => {
    const { stack, gate } = t.context;
    await addTenant(t, 'dark');
    const before = await census(stack, 'dark');
    gate.shut();
    const dark = await purge(stack, { tenantIds: ['dark'] });
    t.is(dark.summary.state, PurgeState.PARTIAL);
    t.is(dark.items[0]?.state, PurgeItemState.PARTIAL);
    t.regex(dark.items[0]?.error ?? '', /^DEPENDENCY_UNAVAILABLE: /);
    t.is(dark.items[0]?.attempts, 1, 'waiting is no attempt');
    t.deepEqual(await census(stack, 'dark'), before);
    gate.open(stack.addresses.incident);
    const { summary } = await purge(stack, { tenantIds: ['dark'] });
    t.is(summary.state, PurgeState.COMPLETE);
    t.deepEqual(removedBy(summary.resourceCounts), GONE);
  },
);

for (const killed of [false, true]) {
  const how = killed ? 'while its worker is killed' : 'on the way';
  test.serial(`a plan that is raised ${how} keeps what is left of the tenant, and the receipt is exact`, async (t) => {
    const { stack } = t.context;
    const tenantId = killed ? 'raised-killed' : 'raised';
    await addTenant(t, tenantId, 4_000);
    const before = await census(stack, tenantId);
    const release = await holdSecondBatch(t, tenantId);
    const request = { tenantIds: [tenantId], requestId: newId() };
    const whole = purge(stack, request).catch(() => undefined);
    await until('the first batch is gone', async () => (await rowsOf(stack, 'drift_checks', tenantId)) < 4_000);
    await until('the second one waits', () => isWaiting(t));
    await platformOf(t).setTenantPlan({ tenantId, planName: 'ENTERPRISE' });
    const pid = stack.pid('retention');
    if (killed && pid !== undefined) process.kill(pid, 'SIGKILL');
    await release();
    let ended = await whole;
    await until(
      'the purge has ended',
      async () => {
        ended ??= await purge(stack, request);
        return true;
      },
      60_000,
    );
    t.is(ended?.summary.state, PurgeState.COMPLETE, ended?.items[0]?.error);
    t.like(ended?.items[0], { planName: 'ENTERPRISE', planVersion: 2n });
    const gone = less(before, await census(stack, tenantId));
    // Approvals had their turn before.
    t.deepEqual(gone, { drift_check: 2_000, drift_check_workflow: 4_000, incident_payload: 0, approval: 1 });
    t.deepEqual(removedBy(ended?.summary.resourceCounts ?? []), gone);
    // Two operations of checks, before and after, and one of each other subject; no cutoff moves on within one item.
    const operations = await operationsOf(t, tenantId);
    t.deepEqual(operations.map(named), [
      'approvals 180',
      'drift_checks 30',
      'drift_checks 180',
      'incident_payloads 2555',
    ]);
    const [, pro, enterprise] = operations.map(({ cutoff }) => Number(cutoff));
    t.true(Number(enterprise) < Number(pro));
    t.deepEqual(
      await receiptOf(t, tenantId, ended?.summary.id ?? ''),
      operations
        .filter((operation) => named(operation) !== 'drift_checks 30')
        .map(({ id, cutoff }) => ({ id, cutoff })),
    );
  });
}
