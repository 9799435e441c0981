import anyTest, { type TestFn } from 'ava';
import { queryOnce } from '#test/support/postgres.ts';
import { startRunReplica } from '#test/support/run-replica.ts';
import { COMPLETE, countTen, inputOf } from '#test/support/saga-harness.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['run', 'job', 'incident'],
    envOf: { run: { LETHE_RUN_LEASE_MS: '1000', LETHE_PARTICIPANT_TIMEOUT_MS: '30000', LETHE_RUN_ATTEMPTS: '1000' } },
  });
});
test.after.always((t) => t.context.stack?.dispose());

const TENANT = 'replicas';

test('a replica that is stopped past its leases and goes on writes nothing: the other has finished its runs', async (t) => {
  const { stack } = t.context;
  const replica = await startRunReplica(stack, 'run-2');
  t.teardown(() => replica.stop());
  const identity = { tenantId: TENANT, role: 'member' } as const;
  const { incidents } = stack.clients(identity);
  const { environment } = await incidents.createEnvironment({ displayName: 'production' });
  const environmentId = environment?.id ?? '';
  const runs = replica.runs(identity);
  const query = <Row>(sql: string) => queryOnce<Row>(stack.superuserUrl('run'), sql);
  const pid = replica.pid() ?? 0;

  // So many at once that the replica is in the middle of some of them, whenever it is stopped.
  const begun = await Promise.all(
    Array.from({ length: 40 }, (_, index) => {
      const flags = index % 2 === 0 ? {} : { force_qc_fail: true };
      return runs.startRun({
        workflow: 'client_to_delivery',
        input: inputOf({ environment_id: environmentId, ...flags }) as never,
      });
    }),
  );
  process.kill(pid, 'SIGSTOP');
  t.teardown(async () => void process.kill(pid, 'SIGCONT'));
  const unfinished = await query('select 1 from workflow_runs where finished_at is null');
  t.true(unfinished.length > 0, 'it was stopped in the middle');
  t.log(`stopped with ${unfinished.length} of ${begun.length} runs under way`);
  await until(
    'the other replica has finished them',
    async () => (await query('select 1 from workflow_runs where finished_at is null')).length === 0,
    120_000,
  );
  const dump = async () => ({
    runs: await query('select id, state, version, claim_token, updated_at::text from workflow_runs order by id'),
    steps: await query('select run_id, name, state, attempts, error from workflow_run_steps order by run_id, position'),
    audit: await query('select target_id, action, outcome from audit_entries order by at'),
    rows: await countTen({ query: (sql, values) => queryOnce(stack.superuserUrl('run'), sql, values) }, TENANT),
  });
  const before = await dump();
  t.deepEqual(before.rows, Object.fromEntries(Object.entries(COMPLETE).map(([table, count]) => [table, count * 20])));

  process.kill(pid, 'SIGCONT');
  // It is awake once it has done something new from beginning to end.
  const { run } = await runs.startRun({
    workflow: 'client_to_delivery',
    input: inputOf({ environment_id: environmentId, force_delivery_fail: true }) as never,
  });
  for await (const _ of runs.watchRun({ runId: run?.id ?? '' }));
  const after = await dump();
  t.deepEqual(
    after.runs.filter((row) => (row as { id: string }).id !== run?.id),
    before.runs,
  );
  t.deepEqual(
    after.steps.filter((row) => (row as { run_id: string }).run_id !== run?.id),
    before.steps,
  );
  t.deepEqual(after.audit.slice(0, before.audit.length), before.audit);
  t.deepEqual(after.rows, before.rows);
});
