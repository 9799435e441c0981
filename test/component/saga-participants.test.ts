import anyTest, { type TestFn } from 'ava';
import { connect, reasonOf } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { storedFiles } from '#test/support/stored-files.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['job', 'incident'] });
});
test.after.always((t) => t.context.stack?.dispose());

/** Every order of two actions and two compensations of one step. */
function orders(): string[] {
  const found = new Set<string>();
  const add = (so: string, left: string): void => {
    if (left === '') found.add(so);
    for (const [index, letter] of [...left].entries()) add(so + letter, left.slice(0, index) + left.slice(index + 1));
  };
  add('', 'EECC');
  return [...found];
}

const EVIDENCE = {
  job: "select 'job' as what from jobs where run_id = $1 union all select 'task' from job_tasks t join jobs j on j.id = t.job_id where j.run_id = $1",
  incident:
    "select 'payload' as what from incident_payloads p join incidents i on i.id = p.incident_id where i.run_id = $1 union all select 'open' from incidents where run_id = $1 and state <> 'CLOSED'",
} as const;

for (const name of ['job', 'incident'] as const) {
  test(`${name}: whatever the order of two actions and two compensations, the step's end is the same: nothing`, async (t) => {
    const { stack } = t.context;
    // Of its own: the other of the two looks for files of its tenant meanwhile.
    const tenantId = `orders-${name}`;
    const { environment } = await stack
      .clients({ tenantId, role: 'member' })
      .incidents.createEnvironment({ displayName: `for ${name}` });
    const input = {
      job: { display_name: 'a', task_names: ['render'], state: 'COMPLETED', assets: [{ name: 'a.txt', text: 'a' }] },
      incident: { environment_id: environment?.id ?? '', title: 'a', drift_summary: { score: 1 } },
    }[name];
    const action = { job: 'create-job', incident: 'open-incident' }[name];
    const connection = connect({ address: stack.addresses[name], token: async () => 'no token' });
    t.teardown(() => connection.close());
    const participant = stackParticipant(stack, connection, name, tenantId);
    for (const order of orders()) {
      const runId = newId();
      const key = { operationId: runId, step: 'draft' };
      let isCompensated = false;
      for (const letter of order) {
        if (letter === 'E') {
          const answer = participant.execute({ key, runId, action, input });
          if (isCompensated) t.is(reasonOf(await t.throwsAsync(answer, undefined, order)), 'STEP_COMPENSATED', order);
          else t.is((await answer).progress, 2, order);
        } else {
          isCompensated = true;
          for (let calls = 0; (await participant.compensate({ key, runId })).progress !== 2; calls += 1)
            t.true(calls < 50);
        }
      }
      t.deepEqual((await participant.verify({ runId, step: 'draft' })).resourceCounts, [], order);
      t.deepEqual(await queryOnce(stack.superuserUrl(name), EVIDENCE[name], [runId]), [], order);
    }
    t.deepEqual(await storedFiles(stack, { tenantId }), []);
  });
}
