import anyTest, { type TestFn } from 'ava';
import { DriftFlag, DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import type { Connection } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { loseAnswer } from '#test/support/lose-answer.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { settled } from '#test/support/run-graph.ts';
import { inputOf } from '#test/support/saga-harness.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run', 'incident'] });
});
test.after.always((t) => t.context.stack?.dispose());

type Service = 'run' | 'incident';

/** How many rows of a tenant there are, by hand-written SQL. */
async function count(stack: TestStack, service: Service, from: string, tenantId: string): Promise<number> {
  const sql = `select count(*)::int as count from ${from} and tenant_id = $1`;
  const [row] = await queryOnce<{ count: number }>(stack.superuserUrl(service), sql, [tenantId]);
  return row?.count ?? 0;
}

interface Lossy {
  readonly title: string;
  /** What the call is made with where that matters; without a request id otherwise. */
  readonly given?: string;
  readonly service: Service;
  /** What there is one of afterwards: a table with the start of a predicate. */
  readonly from: string;
  /** Makes what the call needs, and gives the call. */
  prepare(stack: TestStack, tenantId: string): Promise<(connection: Connection) => Promise<unknown>>;
}

const runs = (connection: Connection) => connection.client(RunService);
const incidents = (connection: Connection) => connection.client(IncidentService);

async function finishedRun(stack: TestStack, tenantId: string): Promise<string> {
  const client = stack.clients({ tenantId, role: 'member' }).runs;
  const runId = (await client.createRun({ workflow: 'call' })).run?.id ?? '';
  await client.finishRun({ runId, state: RunState.COMPLETED });
  return runId;
}

async function environmentOf(stack: TestStack, tenantId: string): Promise<string> {
  const { incidents: client } = stack.clients({ tenantId, role: 'member' });
  return (await client.createEnvironment({ displayName: 'production' })).environment?.id ?? '';
}

const WITH_ETAG = 'with the etag just read';

async function runningRun(stack: TestStack, tenantId: string): Promise<{ runId: string; etag: string }> {
  const { run } = await stack.clients({ tenantId, role: 'member' }).runs.createRun({ workflow: 'call' });
  return { runId: run?.id ?? '', etag: run?.etag ?? '' };
}

const LOSSY: readonly Lossy[] = [
  {
    title: 'CreateRun',
    service: 'run',
    from: 'workflow_runs where true',
    prepare: async () => (connection) => runs(connection).createRun({ workflow: 'call' }),
  },
  {
    title: 'StartRun',
    service: 'run',
    from: 'workflow_runs where true',
    async prepare(stack, tenantId) {
      const input = inputOf({ environment_id: await environmentOf(stack, tenantId) }) as never;
      return (connection) => runs(connection).startRun({ workflow: 'client_to_delivery', input });
    },
  },
  {
    title: 'FinishRun',
    service: 'run',
    from: `workflow_runs where state = 'COMPLETED'`,
    async prepare(stack, tenantId) {
      const { run } = await stack.clients({ tenantId, role: 'member' }).runs.createRun({ workflow: 'call' });
      const end = { runId: run?.id ?? '', state: RunState.COMPLETED, output: { words: 7 } };
      return (connection) => runs(connection).finishRun(end);
    },
  },
  {
    title: 'DeleteRun',
    service: 'run',
    from: `deletions where mode = 'SOFT_DELETE'`,
    async prepare(stack, tenantId) {
      const runId = await finishedRun(stack, tenantId);
      return (connection) => runs(connection).deleteRun({ runId });
    },
  },
  {
    title: 'PurgeRun',
    service: 'run',
    from: `deletions where mode = 'PURGE'`,
    async prepare(stack, tenantId) {
      const runId = await finishedRun(stack, tenantId);
      return async (connection) => {
        const { deletion } = await runs(connection).purgeRun({ runId, reason: 'asked for' });
        return settled(stack, tenantId, deletion?.id);
      };
    },
  },
  {
    title: 'CreateEnvironment',
    service: 'incident',
    from: 'environments where true',
    prepare: async () => (connection) => incidents(connection).createEnvironment({ displayName: 'production' }),
  },
  {
    title: 'OpenIncident',
    service: 'incident',
    from: 'incidents where true',
    async prepare(stack, tenantId) {
      const environmentId = await environmentOf(stack, tenantId);
      return (connection) => incidents(connection).openIncident({ environmentId, title: 'drift' });
    },
  },
  {
    title: 'FinishRun',
    given: WITH_ETAG,
    service: 'run',
    from: `workflow_runs where state = 'COMPLETED'`,
    async prepare(stack, tenantId) {
      const end = { ...(await runningRun(stack, tenantId)), state: RunState.COMPLETED, output: { b: 7, a: [1.5] } };
      return (connection) => runs(connection).finishRun(end);
    },
  },
  {
    title: 'FailRun',
    given: WITH_ETAG,
    service: 'run',
    from: `workflow_runs where state in ('COMPENSATING', 'COMPENSATED')`,
    async prepare(stack, tenantId) {
      const failed = { ...(await runningRun(stack, tenantId)), error: 'no' };
      return (connection) => runs(connection).failRun(failed);
    },
  },
  {
    title: 'CancelRun',
    given: WITH_ETAG,
    service: 'run',
    from: `workflow_runs where state in ('COMPENSATING', 'CANCELLED')`,
    async prepare(stack, tenantId) {
      const cancelled = await runningRun(stack, tenantId);
      return (connection) => runs(connection).cancelRun(cancelled);
    },
  },
  {
    title: 'RetryRun',
    given: WITH_ETAG,
    service: 'run',
    from: `workflow_runs where state = 'COMPENSATING'`,
    async prepare(stack, tenantId) {
      const runId = newId();
      // A participant that is not configured holds its compensation up for as long as there are attempts.
      await queryOnce(
        stack.superuserUrl('run'),
        `with run as (
           insert into workflow_runs (tenant_id, id, workflow, display_name, state, driver, parked_reason, attempts)
           values ($1, $2, 'call', 'call', 'FAILED', 'CALLER', 'it did not answer', 10) returning *)
         insert into workflow_run_steps (tenant_id, run_id, name, position, state, participants)
         select tenant_id, id, 'draft', 1, 'COMPENSATING', '{nobody}' from run`,
        [tenantId, runId],
      );
      const { run } = await stack.clients({ tenantId, role: 'member' }).runs.getRun({ runId });
      return (connection) => runs(connection).retryRun({ runId, etag: run?.etag ?? '' });
    },
  },
];

for (const { title, given = 'without a request id', service, from, prepare } of LOSSY) {
  test(`a ${title} ${given} whose answer was lost, and that the transport repeats, is done once and no refusal`, async (t) => {
    const { stack } = t.context;
    const tenantId = `loses-${title.toLowerCase()}-${given.split(' ').at(-1)}`;
    const call = await prepare(stack, tenantId);
    const lost = loseAnswer({
      address: stack.addresses[service],
      token: () => stack.token({ tenantId, role: 'owner' }),
      open: (connection) =>
        service === 'run' ? runs(connection).listRuns({}) : incidents(connection).listIncidents({}),
      call,
      isDone: async () => (await count(stack, service, from, tenantId)) > 0,
    });
    await t.notThrowsAsync(lost);
    t.is(await count(stack, service, from, tenantId), 1);
  });
}

test('under the etag of before, a run that ended otherwise than is asked for is a mismatch', async (t) => {
  const { stack } = t.context;
  const { runs: client } = stack.clients({ tenantId: 'otherwise', role: 'admin' });
  const mismatch = async (call: Promise<unknown>) => t.is((await refusalOf(call)).reason, 'ETAG_MISMATCH');
  const made = async () => {
    const { run } = await client.createRun({ workflow: 'call' });
    return { runId: run?.id ?? '', etag: run?.etag ?? '' };
  };
  const completed = await made();
  const output = { words: 7, of: { a: 1, b: 2 } };
  const end = { ...completed, state: RunState.COMPLETED };
  const { run } = await client.finishRun({ ...end, output });
  t.is((await client.finishRun({ ...end, output })).run?.etag, run?.etag, 'the same end is none');
  await mismatch(client.finishRun({ ...end, output: { words: 8 } }));
  await mismatch(client.finishRun(end));
  await mismatch(client.finishRun({ ...completed, state: RunState.FAILED, error: 'no' }));
  await mismatch(client.cancelRun(completed));
  await mismatch(client.failRun({ ...completed, error: 'no' }));
  await mismatch(client.retryRun(completed));
  await mismatch(client.finishRun({ ...end, output, etag: '"700"' }));

  const failed = await made();
  await client.finishRun({ ...failed, state: RunState.FAILED, error: 'one' });
  await mismatch(client.finishRun({ ...failed, state: RunState.FAILED, error: 'another' }));

  const compensated = await made();
  await client.failRun({ ...compensated, error: 'one' });
  await mismatch(client.failRun({ ...compensated, error: 'another' }));
  await mismatch(client.cancelRun(compensated));
  for await (const _ of client.watchRun({ runId: compensated.runId }));
  await mismatch(client.failRun({ ...compensated, error: 'another' }));
  t.is((await client.failRun({ ...compensated, error: 'one' })).run?.state, RunState.COMPENSATED);

  // Both are CANCELLED in the end: the one keeps its effects, the other's are removed.
  const kept = await made();
  await client.finishRun({ ...kept, state: RunState.CANCELLED });
  await mismatch(client.cancelRun(kept));
  const removed = await made();
  await client.cancelRun(removed);
  for await (const _ of client.watchRun({ runId: removed.runId }));
  await mismatch(client.finishRun({ ...removed, state: RunState.CANCELLED }));
  t.is((await client.cancelRun(removed)).run?.state, RunState.CANCELLED);
});

// Half a megabyte as JSON, and almost three as a message.
const numbers = { n: Array.from({ length: 250_000 }, () => 1) };
const text = { text: 'x'.repeat(1_048_000) };

test('what would not fit an answer is refused before anything is committed', async (t) => {
  const { stack } = t.context;
  const { runs: client, incidents: incident } = stack.clients({ tenantId: 'large', role: 'member' });
  const refused = await refusalOf(client.createRun({ workflow: 'call', input: numbers }));
  t.like(refused, { reason: 'FIELD_INVALID', metadata: { fields: 'input' } });
  t.is(await count(stack, 'run', 'workflow_runs where true', 'large'), 0);
  const runId = (await client.createRun({ workflow: 'call', input: text })).run?.id ?? '';
  const end = { runId, state: RunState.COMPLETED };
  t.like(await refusalOf(client.finishRun({ ...end, output: numbers })), {
    reason: 'FIELD_INVALID',
    metadata: { fields: 'output' },
  });
  t.is((await client.getRun({ runId })).run?.state, RunState.RUNNING);
  t.is((await client.finishRun({ ...end, output: text })).run?.state, RunState.COMPLETED);
  t.is((await client.getRun({ runId })).run?.output?.['text'], text.text, 'the largest of both fits');
  const { runs: admin } = stack.clients({ tenantId: 'large', role: 'admin' });
  const hidden = await admin.deleteRun({ runId });
  await settled(stack, 'large', hidden.deletion?.id);
  t.is((await admin.getRun({ runId, showDeleted: true })).run?.output?.['text'], text.text, 'also of a hidden run');
  await settled(stack, 'large', (await admin.undeleteRun({ runId })).deletion?.id);
  const [watched] = (await Array.fromAsync(client.watchRun({ runId }))).slice(-1);
  t.deepEqual([watched?.run?.input, watched?.run?.output], [text, text]);
  const environmentId = await environmentOf(stack, 'large');
  const checked = await incident.recordDriftCheck({
    environmentId,
    status: DriftStatus.DRIFT,
    summary: text,
    workflows: Array.from({ length: 1_000 }, (_, index) => ({
      workflow: `${index}`.padEnd(200, '話'),
      flag: DriftFlag.MODIFIED,
    })),
  });
  const { driftCheck } = await incident.getDriftCheck({ driftCheckId: checked.driftCheck?.id ?? '' });
  t.deepEqual([driftCheck?.summary, driftCheck?.workflows.length], [text, 1_000]);
  const opened = await incident.openIncident({ environmentId, title: 'x', driftSummary: text });
  const found = await incident.getIncident({ incidentId: opened.incident?.id ?? '' });
  t.deepEqual(found.incident?.driftSummary, text);
  const payload = await refusalOf(incident.openIncident({ environmentId, title: 'x', driftSummary: numbers }));
  t.like(payload, { reason: 'FIELD_INVALID', metadata: { fields: 'drift_summary' } });
});

test('a page of deletions that would not fit one answer is cut, and the next goes on from there', async (t) => {
  const { stack } = t.context;
  const tenantId = 'pages';
  const runId = await finishedRun(stack, tenantId);
  const { runs: client } = stack.clients({ tenantId, role: 'admin' });
  await settled(stack, tenantId, (await client.deleteRun({ runId })).deletion?.id);
  // As a participant with very many types may make them: 40 receipts of 200 kB.
  await queryOnce(
    stack.superuserUrl('run'),
    `with d as (
       insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint)
       select $1, gen_random_uuid(), $2, 'UNDELETE', 'COMPLETE', 'a', 'a', 'f' from generate_series(1, 40) returning *)
     insert into deletion_steps (tenant_id, deletion_id, position, participant, state, last_error)
     select tenant_id, id, 0, 'notes', 'COMPLETE', repeat('x', 200000) from d`,
    [tenantId, runId],
  );
  const seen = new Set<string>();
  let pages = 0;
  for (let pageToken = ''; pages === 0 || pageToken !== ''; pages += 1) {
    const page = await client.listDeletions({ pageSize: 200, pageToken });
    for (const { id } of page.deletions) seen.add(id);
    pageToken = page.nextPageToken;
  }
  t.is(seen.size, 41);
  t.true(pages > 1);
});
