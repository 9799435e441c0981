import { toJson } from '@bufbuild/protobuf';
import test from 'ava';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { RunSchema, RunStepSchema } from '#gen/lethe/run/v1/run_pb.ts';
import { type Connection, connect, reasonOf } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import { participantContract } from './participant.ts';

let stack: TestStack;
let connection: Connection;

test.before(async () => {
  stack = await startTestStack({ services: ['run', 'job'] });
  connection = connect({ address: stack.addresses.run, token: async () => 'no token' });
});
test.after.always(async () => {
  connection?.close();
  await stack?.dispose();
});

/** A run under an id that the suite has chosen, which no RPC would let it; each step has made a brief and its intake. */
async function insertRun(tenantId: string, runId: string, steps: readonly string[], state: string): Promise<void> {
  const url = stack.superuserUrl('run');
  await queryOnce(
    url,
    `insert into workflow_runs (tenant_id, id, workflow, display_name, state) values ($1, $2, 'suite', '', $3)`,
    [tenantId, runId, state],
  );
  await queryOnce(
    url,
    `insert into workflow_run_steps (tenant_id, run_id, name, position, state, started_at, finished_at)
     select $1, $2, name, position, 'COMPLETED', now(), now()
     from unnest($3::text[]) with ordinality as step (name, position)`,
    [tenantId, runId, steps],
  );
  for (const step of steps) {
    const [briefId, intakeId] = [newId(), newId()];
    await queryOnce(
      url,
      `insert into onboarding_brief (tenant_id, run_id, step, id, client, product, audience, tone, goals, channels)
       values ($1, $2, $3, $4, '', '', '', '', '[]', '[]')`,
      [tenantId, runId, step, briefId],
    );
    await queryOnce(
      url,
      `insert into onboarding_intake (tenant_id, run_id, step, id, brief_id, summary) values ($1, $2, $3, $4, $5, '')`,
      [tenantId, runId, step, intakeId, briefId],
    );
  }
}

participantContract(test, 'RunService', () => ({
  participant: (tenantId, changes) => stackParticipant(stack, connection, 'run', tenantId, changes),
  forger: () => connection.client(ParticipantService),
  hasEffects: true,
  holdsMore: true,
  seed: (tenantId, runId, steps) => insertRun(tenantId, runId, steps, 'COMPLETED'),
  seedUnfinished: (tenantId, runId, steps) => insertRun(tenantId, runId, steps, 'RUNNING'),
  async read(tenantId, runId) {
    const { runs } = stack.clients({ tenantId, role: 'viewer' });
    try {
      const { run } = await runs.getRun({ runId });
      const { steps } = await runs.listRunSteps({ runId });
      return [run && toJson(RunSchema, run), ...steps.map((step) => toJson(RunStepSchema, step))];
    } catch (error) {
      if (reasonOf(error) === 'RUN_NOT_FOUND') return [];
      throw error;
    }
  },
  remains: (tenantId, runId) =>
    queryOnce(
      stack.superuserUrl('run'),
      `select 'run', id::text from workflow_runs where tenant_id = $1 and id = $2
       union all select 'step', name from workflow_run_steps where tenant_id = $1 and run_id = $2
       union all select 'brief', id::text from onboarding_brief where tenant_id = $1 and run_id = $2
       union all select 'intake', id::text from onboarding_intake where tenant_id = $1 and run_id = $2 order by 1, 2`,
      [tenantId, runId],
    ),
}));

test('RunService: what a step resulted in goes with its effects, and what another step or another run resulted in stays', async (t) => {
  const tenantId = 'outputs';
  const [runId, neighbour] = [newId(), newId()];
  for (const id of [runId, neighbour]) await insertRun(tenantId, id, ['one', 'two'], 'COMPENSATING');
  const setOutput = `update workflow_run_steps set output = '{"text": "of the client"}' where tenant_id = $1`;
  await queryOnce(stack.superuserUrl('run'), setOutput, [tenantId]);
  const participant = stackParticipant(stack, connection, 'run', tenantId);
  await participant.compensate({ key: { operationId: runId, step: 'two' }, runId });
  const left = await queryOnce(
    stack.superuserUrl('run'),
    'select run_id, name from workflow_run_steps where tenant_id = $1 and output is null',
    [tenantId],
  );
  t.deepEqual(left, [{ run_id: runId, name: 'two' }]);
});
