import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { Progress, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { toDuration } from '#libs/grpc/timestamp.ts';
import { newId } from '#libs/kernel/id.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; connection: Connection }>;
type T = ExecutionContext<{ stack: TestStack; connection: Connection }>;

// About as long as one statement over all payloads of the run takes; a piece takes a small part of it.
const STATEMENT_MS = 1_000;
const INCIDENTS = 600;
const NUMBERS = 25_000;

test.before(async (t) => {
  const env = { LETHE_STATEMENT_TIMEOUT_MS: String(STATEMENT_MS) };
  const stack = await startTestStack({ services: ['incident'], env });
  const connection = connect({ address: stack.addresses.incident, token: async () => 'no token' });
  Object.assign(t.context, { stack, connection });
});
test.after.always(async (t) => {
  t.context.connection?.close();
  await t.context.stack?.dispose();
});

const sql = <Row>(t: T, text: string, values: readonly unknown[]): Promise<Row[]> =>
  queryOnce<Row>(t.context.stack.superuserUrl('incident'), text, values);

/** A run of which there are so many incidents, each with a payload of some 170 kB. */
async function fixture(t: T, tenantId: string) {
  const { stack, connection } = t.context;
  const { incidents } = stack.clients({ tenantId, role: 'member', subject: 'ada' });
  const { environment } = await incidents.createEnvironment({ displayName: 'production' });
  const runId = newId();
  const [payload] = await sql<{ bytes: number }>(
    t,
    `with payload as materialized (
       select jsonb_build_object('numbers', jsonb_agg(n * 7919 % 100003)) as json from generate_series(1, $5::int) n),
     i as (
       insert into incidents (tenant_id, id, environment_id, title, run_id, step)
       select $1, gen_random_uuid(), $2, 'drift ' || n, $3, 'draft' from generate_series(1, $4::int) n returning *),
     p as (
       insert into incident_payloads (tenant_id, incident_id, payload_json)
       select tenant_id, id, json from i, payload returning 1)
     select octet_length(json::text) as bytes from payload`,
    [tenantId, environment?.id, runId, INCIDENTS, NUMBERS],
  );
  const participant = stackParticipant(stack, connection, 'incident', tenantId, { actor: 'service:run' });
  return { participant, runId, bytes: BigInt(INCIDENTS * (payload?.bytes ?? 0)) };
}

const isOf = ({ resourceCounts }: { resourceCounts: ResourceCount[] }, type: string) =>
  resourceCounts.find(({ resourceType }) => resourceType === type);

test('however much the incidents of a run hold, it is previewed, purged and read back by statements that end in time', async (t) => {
  const { participant, runId, bytes } = await fixture(t, 'acme');
  const blockers = await participant.preview({ runId, blockersOnly: true });
  t.deepEqual([blockers.blockers, blockers.resourceCounts, blockers.cursor.length], [[], [], 0]);

  const whole = await participant.preview({ runId });
  t.like(isOf(whole, 'incident_payload'), { found: BigInt(INCIDENTS), left: BigInt(INCIDENTS), bytes });
  t.is(whole.cursor.length, 0, 'without a time budget the answer is whole');
  t.is(whole.samples.length, 100);

  const parts = { found: 0n, bytes: 0n, answers: 0, samples: new Set<string>() };
  for (let cursor: Uint8Array = new Uint8Array(), isFirst = true; isFirst || cursor.length > 0; isFirst = false) {
    const part = await participant.preview({ runId, timeBudget: toDuration(1), cursor });
    parts.found += isOf(part, 'incident_payload')?.found ?? 0n;
    parts.bytes += isOf(part, 'incident_payload')?.bytes ?? 0n;
    parts.answers += 1;
    for (const { resourceId } of part.samples) parts.samples.add(resourceId);
    cursor = part.cursor;
  }
  t.like(parts, { found: BigInt(INCIDENTS), bytes });
  t.is(parts.samples.size, INCIDENTS, 'each was seen once');
  t.true(parts.answers > 1, 'a budget of a millisecond is for a part');

  const key = { operationId: newId(), step: 'lethe' };
  const purge = () => participant.purge({ key, runId, reason: 'asked for', limit: INCIDENTS / 2 });
  const first = await purge();
  t.is(first.progress, Progress.PARTIAL);
  let last = first;
  for (let calls = 1; last.progress !== Progress.COMPLETE && calls < 10; calls += 1) last = await purge();
  t.is(last.progress, Progress.COMPLETE);
  t.like(isOf(last, 'incident_payload'), { deleted: BigInt(INCIDENTS), left: 0n, bytes });
  t.deepEqual((await participant.verify({ runId })).resourceCounts, []);
});
