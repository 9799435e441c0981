import type { Client } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { loseAnswer as loseAnswerOf } from '#test/support/lose-answer.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['job'] });
});
test.after.always((t) => t.context.stack.dispose());

type Jobs = Client<typeof JobService>;

/** How many jobs of the tenant are in this state, by hand-written SQL. */
async function count(stack: TestStack, tenantId: string, state: string): Promise<number> {
  const sql = 'select count(*)::int as count from jobs where tenant_id = $1 and state = $2';
  const [row] = await queryOnce<{ count: number }>(stack.superuserUrl('job'), sql, [tenantId, state]);
  return row?.count ?? 0;
}

/** Makes one call whose first answer is lost after `isDone`, so that the transport repeats it. */
const loseAnswer = <T>(
  stack: TestStack,
  tenantId: string,
  call: (jobs: Jobs) => Promise<T>,
  isDone: () => Promise<boolean>,
): Promise<T> =>
  loseAnswerOf({
    address: stack.addresses.job,
    token: () => stack.token({ tenantId, role: 'admin' }),
    open: (connection) => connection.client(JobService).listJobs({}),
    call: (connection) => call(connection.client(JobService)),
    isDone,
  });

test('a CreateJob without a request id whose answer was lost, and that the transport repeats, makes one job', async (t) => {
  const { stack } = t.context;
  const isDone = async () => (await count(stack, 'creator', 'PENDING')) > 0;
  const { job } = await loseAnswer(stack, 'creator', (jobs) => jobs.createJob({ displayName: 'x' }), isDone);
  t.is(await count(stack, 'creator', 'PENDING'), 1);
  t.is(job?.displayName, 'x');
});

test('a ClaimJob whose answer was lost, and that the transport repeats, sets one job RUNNING', async (t) => {
  const { stack } = t.context;
  const { jobs } = stack.clients({ tenantId: 'claimer', role: 'admin' });
  for (let index = 0; index < 3; index += 1) await jobs.createJob({});
  const isDone = async () => (await count(stack, 'claimer', 'RUNNING')) > 0;
  const claim = await loseAnswer(stack, 'claimer', (faulty) => faulty.claimJob({ workerId: 'w' }), isDone);
  t.is(await count(stack, 'claimer', 'RUNNING'), 1);
  t.is(await count(stack, 'claimer', 'PENDING'), 2);
  const end = { jobId: claim.job?.id ?? '', leaseToken: claim.leaseToken, state: JobState.COMPLETED };
  t.is((await jobs.finishJob(end)).job?.state, JobState.COMPLETED, 'the lease that was told holds');
});

test('a CancelJob with the etag just read whose answer was lost, and that the transport repeats, is no refusal', async (t) => {
  const { stack } = t.context;
  const { jobs } = stack.clients({ tenantId: 'canceller', role: 'admin' });
  const { job } = await jobs.createJob({});
  const cancelled = { jobId: job?.id ?? '', etag: job?.etag ?? '' };
  const isDone = async () => (await count(stack, 'canceller', 'CANCELLED')) > 0;
  const answer = await loseAnswer(stack, 'canceller', (faulty) => faulty.cancelJob(cancelled), isDone);
  t.is(answer.job?.state, JobState.CANCELLED);
});

test('a claim of one request id made twenty times at once is one claim', async (t) => {
  const { stack } = t.context;
  const { jobs } = stack.clients({ tenantId: 'repeater', role: 'admin' });
  for (let index = 0; index < 5; index += 1) await jobs.createJob({});
  const requestId = newId();
  const claims = await Promise.all(Array.from({ length: 20 }, () => jobs.claimJob({ workerId: 'w', requestId })));
  t.is(new Set(claims.map(({ job, leaseToken }) => `${job?.id} ${leaseToken}`)).size, 1);
  t.is(await count(stack, 'repeater', 'RUNNING'), 1);
  const [first] = claims;
  await jobs.cancelJob({ jobId: first?.job?.id ?? '' });
  t.is((await jobs.claimJob({ workerId: 'w', requestId })).job?.state, JobState.CANCELLING, 'it is told as it stands');
  t.not((await jobs.claimJob({ workerId: 'w' })).job?.id, first?.job?.id, 'another request takes another job');
});
