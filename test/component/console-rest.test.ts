import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { pino } from 'pino';
import type { Identity } from '#deploy/local/stack.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { startServer } from '#libs/grpc/server.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { makeMetrics } from '#libs/telemetry/metrics.ts';
import type { RunningConsole } from '#services/console/server/start-console.ts';
import { addEnvironment, addIncidents, addRunningPurge, putPlan } from '#test/support/aged-data.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { hasProgram, testIfFound } from '#test/support/require.ts';
import { makeRestClient, type RestAnswer, type RestClient, type RestRequest } from '#test/support/rest-client.ts';
import { makeRunGraph } from '#test/support/run-graph.ts';
import { startTestConsole } from '#test/support/start-console.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; console: RunningConsole; rest: RestClient }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ envOf: { run: { WORKFLOW_MIN_PURGE_AGE_HOURS: '1' } } });
  t.context.console = await startTestConsole(t.context.stack);
  t.context.rest = await makeRestClient(t.context.console.url);
});
test.after.always(async (t) => {
  await t.context.console?.stop();
  await t.context.stack?.dispose();
});

type Context = ExecutionContext<{ stack: TestStack; rest: RestClient }>;

/** Asks as somebody, and fails the test where the answer is not as it is documented. */
const askerFor =
  (t: Context) =>
  async (who: Identity | undefined, method: string, path: string, request: RestRequest = {}): Promise<RestAnswer> => {
    const token = who && (await t.context.stack.token(who));
    const answer = await t.context.rest.ask(method, path, { ...request, ...(token ? { token } : {}) });
    t.deepEqual(answer.deviations, [], `${method} ${path}`);
    return answer;
  };

const admin = (tenantId: string): Identity => ({ tenantId, role: 'admin' });
const errorOf = ({ status, body }: RestAnswer) => ({ status, code: body?.error?.code });

const JOB_NOT_FOUND = { error: { code: 'job_not_found', message: 'Job not found' } };

test('DELETE of a run hides it at once with a receipt, again and again, and brings no other answer to anybody else', async (t) => {
  const ask = askerFor(t);
  const { runId } = await makeRunGraph(t.context.stack, 'soft', { jobs: 1 });
  const path = `/api/v1/workflows/runs/${runId}`;
  t.like((await ask(admin('soft'), 'GET', path)).body, { run: { id: runId, state: 'COMPLETED' } });
  t.deepEqual(errorOf(await ask(admin('strange'), 'DELETE', path)), { status: 404, code: 'run_not_found' });
  t.deepEqual(errorOf(await ask({ tenantId: 'soft', role: 'member' }, 'DELETE', path)), {
    status: 403,
    code: 'role_too_low',
  });
  const readOnly = { ...admin('soft'), scopes: ['workflows:read'] };
  t.deepEqual(errorOf(await ask(readOnly, 'DELETE', path)), { status: 403, code: 'scope_missing' });
  t.deepEqual(errorOf(await ask(undefined, 'DELETE', path)), { status: 401, code: 'token_missing' });

  const first = await ask(admin('soft'), 'DELETE', path, { body: { reason: 'no longer needed' } });
  t.is(first.status, 204);
  t.is(first.body, undefined);
  t.deepEqual(errorOf(await ask(admin('soft'), 'GET', path)), { status: 404, code: 'run_not_found' });
  t.deepEqual((await ask(admin('soft'), 'GET', '/api/v1/workflows/runs')).body.runs, []);
  const hidden = await ask(admin('soft'), 'GET', `${path}?show_deleted=true`);
  t.like(hidden.body.run, { delete_reason: 'no longer needed', deleted_by: 'admin@soft' });
  const second = await ask(admin('soft'), 'DELETE', path);
  t.deepEqual([second.status, second.headers.get('location')], [204, first.headers.get('location')]);

  const receipt = first.headers.get('location') ?? '';
  t.regex(receipt, /^\/api\/v1\/deletions\/[0-9a-f-]{36}$/);
  t.like((await ask(admin('soft'), 'GET', receipt)).body, { target_id: runId, mode: 'SOFT_DELETE' });
  t.deepEqual(errorOf(await ask(admin('strange'), 'GET', receipt)), { status: 404, code: 'deletion_not_found' });
});

test('DELETE ?hard=true ends a run for good, with a reason in body or header, when it is old enough or an owner forces it', async (t) => {
  const ask = askerFor(t);
  const { runId } = await makeRunGraph(t.context.stack, 'hard', { jobs: 1, incidents: 1 });
  const path = `/api/v1/workflows/runs/${runId}?hard=true`;
  const owner: Identity = { tenantId: 'hard', role: 'owner' };
  const reason = { 'x-delete-reason': 'Prüfung beendet' };
  const early = await ask(owner, 'DELETE', path, { headers: { 'x-delete-reason': 'over' } });
  t.deepEqual(errorOf(early), { status: 409, code: 'retention_guard' });
  t.truthy(early.body.error.metadata.purgeable_time);
  const unsaid = await ask(owner, 'DELETE', `${path}&force=true`);
  t.deepEqual(errorOf(unsaid), { status: 400, code: 'reason_required' });
  t.deepEqual(unsaid.body.error.fields, [{ field: 'reason', description: 'is required' }]);
  const low = await ask(admin('hard'), 'DELETE', `${path}&force=true`, { body: { reason: 'over' } });
  t.deepEqual(errorOf(low), { status: 403, code: 'role_too_low' });
  t.is((await ask(owner, 'GET', `/api/v1/workflows/runs/${runId}`)).status, 200);

  const key = newId();
  const utf8 = Buffer.from(reason['x-delete-reason']).toString('latin1');
  const headers = { 'x-delete-reason': utf8, 'idempotency-key': key };
  const gone = await ask(owner, 'DELETE', `${path}&force=true`, { headers });
  t.is(gone.status, 204);
  t.deepEqual(errorOf(await ask(owner, 'GET', `/api/v1/workflows/runs/${runId}?show_deleted=true`)), {
    status: 404,
    code: 'run_not_found',
  });
  const receipt = (await ask(owner, 'GET', gone.headers.get('location') ?? '')).body;
  t.like(receipt, { mode: 'PURGE', state: 'COMPLETE', reason: 'Prüfung beendet', force: true, request_id: key });
  t.deepEqual(receipt.participants.map(({ participant }: { participant: string }) => participant).toSorted(), [
    'incident',
    'job',
    'run',
  ]);
  const again = await ask(owner, 'DELETE', `${path}&force=true`, { headers });
  t.deepEqual([again.status, again.headers.get('location')], [204, gone.headers.get('location')]);
  const reused = await ask(owner, 'DELETE', `${path}&force=true`, {
    headers: { 'x-delete-reason': 'else', 'idempotency-key': key },
  });
  t.deepEqual(errorOf(reused), { status: 409, code: 'request_id_reused' });
  t.deepEqual(errorOf(await ask(owner, 'DELETE', `${path}&force=true`, { body: { reason: 'x' } })), {
    status: 404,
    code: 'run_not_found',
  });
});

test('a run that is active, and one with a job that is, is a conflict', async (t) => {
  const ask = askerFor(t);
  const { runs, jobs } = t.context.stack.clients(admin('busy'));
  const { runId } = await makeRunGraph(t.context.stack, 'busy', { isFinished: false, jobs: 0 });
  const path = `/api/v1/workflows/runs/${runId}`;
  t.deepEqual(errorOf(await ask(admin('busy'), 'DELETE', path)), { status: 409, code: 'run_not_terminal' });
  const hard = await ask(admin('busy'), 'DELETE', `${path}?hard=true`, { body: { reason: 'x' } });
  t.deepEqual(errorOf(hard), { status: 409, code: 'run_not_terminal' });
  const done = await makeRunGraph(t.context.stack, 'busy', { isFinished: false, jobs: 0 });
  await jobs.createJob({ runId: done.runId, step: 'step-1' });
  await runs.finishRun({ runId: done.runId, state: 3 });
  const blocked = await ask(admin('busy'), 'DELETE', `/api/v1/workflows/runs/${done.runId}`);
  t.deepEqual(errorOf(blocked), { status: 409, code: 'job_not_terminal' });
  t.is((await ask(admin('busy'), 'GET', `/api/v1/workflows/runs/${done.runId}`)).status, 200);
});

/** Starts a console before the stack's services and a RunService that does what it is told. Everybody is its owner. */
async function startBefore(
  t: Context,
  runs: Partial<ServiceImpl<typeof RunService>>,
  env: Readonly<Record<string, string>> = {},
): Promise<RestClient> {
  const server = await startServer({
    address: '127.0.0.1:0',
    services: [bindService(RunService, runs)],
    verifyToken: async () => ({
      subject: 'ada',
      kind: 'user',
      tenantId: 'acme',
      role: 'owner',
      actor: 'ada',
      scopes: new Set(['workflows:delete']),
    }),
    policy: Object.fromEntries(
      RunService.methods.map(({ name }) => [
        `${RunService.typeName}/${name}`,
        { scope: 'workflows:delete', role: 'admin' },
      ]),
    ),
    log: pino({ level: 'silent' }),
    metrics: makeMetrics('run'),
    limits: { drainMs: 200 },
  });
  t.teardown(() => server.stop());
  const addresses = { ...t.context.stack.addresses, run: `127.0.0.1:${server.port}` };
  const console = await startTestConsole({ addresses }, env);
  t.teardown(() => console.stop());
  return makeRestClient(console.url);
}

test('a hard deletion that takes long is answered by 202 with the deletion as it is', async (t) => {
  const deletion = { id: newId(), state: DeletionState.CASCADING };
  const rest = await startBefore(
    t,
    {
      purgeRun: async () => ({ deletion }),
      async *watchDeletion(_, { signal }) {
        yield { deletion };
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
      },
    },
    { LETHE_PURGE_WAIT_MS: '200' },
  );
  const answer = await rest.ask('DELETE', `/api/v1/workflows/runs/${newId()}?hard=true`, {
    token: 'any',
    body: { reason: 'x' },
  });
  t.deepEqual(answer.deviations, []);
  t.like(answer, { status: 202, body: { id: deletion.id, state: 'CASCADING' } });
  t.is(answer.headers.get('location'), `/api/v1/deletions/${deletion.id}`);
});

test('what fails behind the console is told by its status, and nothing of its inside', async (t) => {
  let failure: unknown;
  const rest = await startBefore(t, {
    async listRuns() {
      throw failure;
    },
  });
  const down = 'job service does not answer; try again.';
  for (const [error, status, body] of [
    [new Error('password is hunter2'), 500, { reason: 'INTERNAL' }],
    [new ConnectError('', Code.DeadlineExceeded), 504, { reason: 'DEADLINE_EXCEEDED' }],
    [
      new DomainError('unavailable', 'DEPENDENCY_UNAVAILABLE', down, { dependency: 'job service' }),
      503,
      { message: down },
    ],
    [
      new DomainError('resource-exhausted', 'RATE_LIMITED', 'Wait.', {}, { retryAfterMs: 1_500 }),
      429,
      { message: 'Wait.' },
    ],
    [new DomainError('data-loss', 'OBJECT_DAMAGED', 'The object is damaged.'), 500, { reason: 'OBJECT_DAMAGED' }],
  ] as const) {
    failure = error;
    const answer = await rest.ask('GET', '/api/v1/workflows/runs', { token: 'any' });
    t.deepEqual(answer.deviations, []);
    t.is(answer.status, status);
    t.like(answer.body.error, body);
    t.notRegex(JSON.stringify(answer.body), /hunter2/);
    t.is(answer.headers.get('retry-after'), status === 429 ? '2' : null);
  }
});

for (const [path, tenantId] of [
  ['/v1/audio/transcriptions', 'transcriptions'],
  ['/jobs', 'console-jobs'],
] as const) {
  test(`DELETE ${path}/{job_id} answers as seed 004 says, to the letter`, async (t) => {
    const ask = askerFor(t);
    const { jobs } = t.context.stack.clients(admin(tenantId));
    const { job } = await jobs.createJob({});
    const jobId = job?.id ?? '';
    const refused = async (id: string, who = admin(tenantId)) => {
      const { status, body } = await ask(who, 'DELETE', `${path}/${id}`);
      return [status, body];
    };
    const invalid = (message: string) => [400, { error: { code: 'invalid_state', message } }];
    t.deepEqual(await refused(jobId), invalid('Cannot delete pending job. Use cancel instead.'));
    await jobs.claimJob({ workerId: 'w' });
    t.deepEqual(await refused(jobId), invalid('Cannot delete running job. Use cancel instead.'));
    await jobs.cancelJob({ jobId });
    t.deepEqual(await refused(jobId), invalid('Cannot delete job while cancellation is in progress.'));
    t.deepEqual(await refused(newId()), [404, JOB_NOT_FOUND]);
    t.deepEqual(await refused(jobId, admin('strange')), [404, JOB_NOT_FOUND]);

    const done = (await jobs.createJob({})).job?.id ?? '';
    await jobs.cancelJob({ jobId: done });
    t.deepEqual(await refused(done, admin('strange')), [404, JOB_NOT_FOUND]);
    t.is((await ask({ tenantId, role: 'member' }, 'DELETE', `${path}/${done}`)).status, 403);
    t.is((await ask(undefined, 'DELETE', `${path}/${done}`)).status, 401);
    const gone = await ask(admin(tenantId), 'DELETE', `${path}/${done}`, {
      headers: { 'content-type': 'application/json' },
    });
    t.deepEqual([gone.status, gone.body], [204, undefined]);
    const seen = await ask(admin(tenantId), 'GET', `/v1/audio/transcriptions/${done}`);
    t.deepEqual([seen.status, seen.body], [404, JOB_NOT_FOUND]);
    const receipt = gone.headers.get('location') ?? '';
    await until(
      'the deletion is over',
      async () => (await ask(admin(tenantId), 'GET', receipt)).body.state === 'COMPLETE',
    );
    t.like((await ask(admin(tenantId), 'GET', receipt)).body, { target_type: 'job', target_id: done });
    t.is((await ask(admin('strange'), 'GET', receipt)).status, 404);
    t.deepEqual(await refused(done), [404, JOB_NOT_FOUND]);
  });

  test(`DELETE ${path}/{job_id} while the job is being removed is a conflict that names the deletion, and so is a reused key`, async (t) => {
    const ask = askerFor(t);
    const { stack } = t.context;
    const who = admin(`${tenantId}-conflict`);
    const { jobs } = stack.clients(who);
    const sql = (text: string) => queryOnce(stack.superuserUrl('job'), text);
    const newJob = async () => {
      const jobId = (await jobs.createJob({})).job?.id ?? '';
      await jobs.cancelJob({ jobId });
      return jobId;
    };
    const [jobId, other] = [await newJob(), await newJob()];
    const hold = `hold_${tenantId.replaceAll('-', '_')}`;
    await sql(`create function ${hold}() returns trigger language plpgsql as $$ begin raise 'held'; end $$`);
    await sql(
      `create trigger ${hold} before delete on jobs for each row when (old.id = '${jobId}') execute function ${hold}()`,
    );
    const headers = { 'idempotency-key': newId() };
    const first = await ask(who, 'DELETE', `${path}/${jobId}`, { headers });
    t.is(first.status, 204);
    const place = first.headers.get('location') ?? '';
    const second = await ask(who, 'DELETE', `${path}/${jobId}`);
    t.deepEqual(
      [second.status, second.body.error],
      [
        409,
        {
          code: 'operation_in_progress',
          reason: 'OPERATION_IN_PROGRESS',
          message: `Operation ${place.slice(-36)} is already under way.`,
          metadata: { operation_id: place.slice(-36) },
        },
      ],
    );
    t.is(second.headers.get('location'), place);
    const again = await ask(who, 'DELETE', `${path}/${jobId}`, { headers });
    t.deepEqual([again.status, again.headers.get('location')], [204, place]);
    const reused = await ask(who, 'DELETE', `${path}/${other}`, { headers });
    t.deepEqual(errorOf(reused), { status: 409, code: 'request_id_reused' });
    t.is((await ask(who, 'GET', `/v1/audio/transcriptions/${other}`)).status, 200);
    await sql(`drop trigger ${hold} on jobs`);
  });
}

test("another tenant's runs, jobs, incidents, environments and counts are not there", async (t) => {
  const ask = askerFor(t);
  const { runId, jobIds } = await makeRunGraph(t.context.stack, 'mine', { jobs: 2, incidents: 1 });
  const incidents = (await ask(admin('mine'), 'GET', '/api/v1/incidents')).body.incidents;
  const environments = (await ask(admin('mine'), 'GET', '/api/v1/environments')).body.environments;
  t.deepEqual([incidents.length, environments.length], [1, 1]);
  t.is((await ask(admin('mine'), 'GET', '/v1/audio/transcriptions')).body.jobs.length, 2);
  const hers = [
    [`/api/v1/workflows/runs/${runId}`, 'run_not_found'],
    [`/v1/audio/transcriptions/${jobIds[0]}`, 'job_not_found'],
    [`/api/v1/incidents/${incidents[0].id}`, 'incident_not_found'],
    [`/api/v1/environments/${environments[0].id}`, 'environment_not_found'],
  ] as const;
  for (const [path, code] of hers) {
    t.is((await ask(admin('mine'), 'GET', path)).status, 200, path);
    const strange = await ask(admin('other'), 'GET', path);
    const unknown = await ask(admin('other'), 'GET', path.replace(/[^/]+$/, newId()));
    t.deepEqual(errorOf(strange), { status: 404, code });
    t.deepEqual(strange.body.error.code, unknown.body.error.code);
    t.is(
      strange.body.error.message.replaceAll(/[0-9a-f-]{36}/g, ''),
      unknown.body.error.message.replaceAll(/[0-9a-f-]{36}/g, ''),
    );
  }
  for (const [path, property] of [
    ['/api/v1/workflows/runs', 'runs'],
    ['/v1/audio/transcriptions', 'jobs'],
    [`/v1/audio/transcriptions?run_id=${runId}`, 'jobs'],
    ['/api/v1/incidents', 'incidents'],
    [`/api/v1/incidents?run_id=${runId}`, 'incidents'],
    ['/api/v1/environments', 'environments'],
  ] as const) {
    t.deepEqual((await ask(admin('other'), 'GET', path)).body, { [property]: [], next_page_token: '' }, path);
  }
});

test('lists come in pages, and filters narrow them', async (t) => {
  const ask = askerFor(t);
  const ids = [];
  for (let index = 0; index < 3; index += 1) {
    ids.unshift((await makeRunGraph(t.context.stack, 'pages', { steps: 0, jobs: 0, isFinished: index > 0 })).runId);
  }
  const who = admin('pages');
  const found = [];
  for (let token = ''; ; ) {
    const page = await ask(who, 'GET', `/api/v1/workflows/runs?page_size=2&page_token=${encodeURIComponent(token)}`);
    found.push(...page.body.runs.map(({ id }: { id: string }) => id));
    token = page.body.next_page_token;
    if (token === '') break;
  }
  t.deepEqual(found, ids);
  for (const size of ['0', '201', '2147483647']) {
    const all = await ask(who, 'GET', `/api/v1/workflows/runs?page_size=${size}`);
    t.is(all.body.runs.length, 3, 'a page_size above 200 counts as 200');
  }
  const running = await ask(who, 'GET', '/api/v1/workflows/runs?state=RUNNING&workflow=transcribe');
  t.deepEqual(
    running.body.runs.map(({ id }: { id: string }) => id),
    ids.slice(-1),
  );
  const old = await ask(who, 'GET', '/api/v1/workflows/runs?max_create_time=2020-01-01T00:00:00Z');
  t.deepEqual(old.body.runs, []);
  const bad = await ask(who, 'GET', '/api/v1/workflows/runs?page_token=rubbish');
  t.deepEqual(errorOf(bad), { status: 400, code: 'field_invalid' });
});

test('an incident whose details were purged is there all the same, with the sentence of seed 002 as its banner', async (t) => {
  const ask = askerFor(t);
  const { stack } = t.context;
  await putPlan(stack, 'drifted', 'PRO');
  const environmentId = await addEnvironment(stack, 'drifted');
  const [old = '', young = ''] = await addIncidents(stack, 'drifted', environmentId, [
    { state: 'CLOSED', age: '200 days' },
    { state: 'CLOSED', age: '10 days' },
  ]);
  const path = (id: string) => `/api/v1/incidents/${id}`;
  for (const id of [old, young]) {
    const { body } = await ask(admin('drifted'), 'GET', path(id));
    t.like(body, { drift_summary: { workflow: 'call' }, payload_state: 'PRESENT', banner: null });
  }
  const who = admin('drifted');
  const { purge } = (await ask(who, 'POST', '/orgs/drifted/retention/purge')).body;
  await until('the purge is over', async () =>
    ['COMPLETE', 'PARTIAL'].includes((await ask(who, 'GET', `/api/v1/retention/purges/${purge.id}`)).body.purge.state),
  );
  const purged = (await ask(who, 'GET', path(old))).body;
  t.like(purged, { state: 'CLOSED', banner: 'Incident drift details were purged per retention policy.' });
  t.false('drift_summary' in purged);
  t.is(purged.timeline.length, 1);
  t.is((await ask(who, 'GET', path(young))).body.banner, null);
  t.is((await ask(who, 'GET', `/api/v1/environments/${environmentId}`)).body.drift_status, 'DRIFT');
});

test('POST retention/purge is for admins of the tenant and for the platform, and answers with the purge', async (t) => {
  const ask = askerFor(t);
  await putPlan(t.context.stack, 'swept', 'PRO');
  const path = '/orgs/swept/retention/purge';
  const platform: Identity = { role: 'platform' };
  t.deepEqual(errorOf(await ask({ tenantId: 'swept', role: 'member' }, 'POST', path)), {
    status: 403,
    code: 'role_too_low',
  });
  t.is((await ask(undefined, 'POST', path)).status, 401);
  const strange = await ask(admin('strange'), 'POST', path);
  const unknown = await ask(admin('strange'), 'POST', '/orgs/nobody/retention/purge');
  t.deepEqual(errorOf(strange), { status: 404, code: 'org_not_found' });
  t.deepEqual(strange.body, unknown.body);
  const headers = { 'idempotency-key': newId() };
  const first = await ask(admin('swept'), 'POST', path, { headers, body: { reason: 'now', validate_only: true } });
  t.is(first.status, 202);
  t.like(first.body, {
    purge: { trigger: 'PURGE_NOW', reason: 'now', validate_only: true },
    item: { tenant_id: 'swept' },
  });
  const place = first.headers.get('location') ?? '';
  t.is(place, `/api/v1/retention/purges/${first.body.purge.id}`);
  const again = await ask(admin('swept'), 'POST', path, { headers, body: { reason: 'now', validate_only: true } });
  t.is(again.headers.get('location'), place);
  t.is((await ask(admin('swept'), 'GET', place)).body.purge.id, first.body.purge.id);
  t.deepEqual(errorOf(await ask(admin('strange'), 'GET', place)), { status: 404, code: 'purge_not_found' });
  await until(
    'the purge is over',
    async () => (await ask(admin('swept'), 'GET', place)).body.purge.finish_time !== undefined,
  );
  t.is((await ask(platform, 'POST', path, { body: {} })).status, 202);
});

test('POST retention/purge while another purge works on the tenant is a conflict that names it, and so is a reused key', async (t) => {
  const ask = askerFor(t);
  await putPlan(t.context.stack, 'swept-twice', 'PRO');
  const path = '/orgs/swept-twice/retention/purge';
  const who = admin('swept-twice');
  const headers = { 'idempotency-key': newId() };
  const rehearsal = { headers, body: { validate_only: true } };
  t.is((await ask(who, 'POST', path, rehearsal)).status, 202);
  const reused = await ask(who, 'POST', path, { headers, body: { validate_only: true, reason: 'else' } });
  t.deepEqual(errorOf(reused), { status: 409, code: 'request_id_reused' });
  const running = await addRunningPurge(t.context.stack, 'swept-twice');
  const second = await ask(who, 'POST', path);
  t.deepEqual(
    [second.status, second.body.error],
    [
      409,
      {
        code: 'operation_in_progress',
        reason: 'OPERATION_IN_PROGRESS',
        message: `Operation ${running.purgeId} is already under way.`,
        metadata: { operation_id: running.purgeId },
      },
    ],
  );
  t.is(second.headers.get('location'), `/api/v1/retention/purges/${running.purgeId}`);
  await running.end('COMPLETE');
  t.is((await ask(who, 'POST', path)).status, 202);
});

test("policies and windows are the tenant's, change under If-Match, and another tenant's are not there", async (t) => {
  const ask = askerFor(t);
  const path = '/orgs/policed/retention/policies/executions';
  const who = admin('policed');
  t.deepEqual(errorOf(await ask(who, 'GET', path)), { status: 404, code: 'execution_policy_not_found' });
  t.deepEqual(errorOf(await ask(who, 'DELETE', path)), { status: 404, code: 'execution_policy_not_found' });
  t.deepEqual(errorOf(await ask(who, 'PUT', path)), { status: 400, code: 'field_invalid' });
  const made = await ask(who, 'PUT', path, { body: {} });
  t.like(made, {
    status: 200,
    body: { tenant_id: 'policed', retention_days: 90, is_enabled: true, min_executions_to_keep: 100 },
  });
  const etag = made.headers.get('etag') ?? '';
  const changed = await ask(who, 'PUT', path, {
    headers: { 'if-match': etag },
    body: { retention_days: 30, is_enabled: false, min_executions_to_keep: 5, stale_after_days: 2 },
  });
  t.like(changed.body, { retention_days: 30, is_enabled: false, min_executions_to_keep: 5, stale_after_days: 2 });
  t.not(changed.headers.get('etag'), etag);
  const stale = await ask(who, 'PUT', path, { headers: { 'if-match': etag }, body: { retention_days: 1 } });
  t.deepEqual(errorOf(stale), { status: 412, code: 'etag_mismatch' });
  t.deepEqual(errorOf(await ask(who, 'DELETE', path, { headers: { 'if-match': etag } })), {
    status: 412,
    code: 'etag_mismatch',
  });
  for (const other of ['0', 'W/"1"', '"none"']) {
    const answer = await ask(who, 'PUT', path, { headers: { 'if-match': other }, body: {} });
    t.deepEqual(errorOf(answer), { status: 412, code: 'etag_mismatch' }, other);
  }
  const absent = '/orgs/unpoliced/retention/policies/executions';
  t.is((await ask(admin('unpoliced'), 'PUT', absent, { headers: { 'if-match': '*' }, body: {} })).status, 404);
  const read = await ask({ tenantId: 'policed', role: 'viewer' }, 'GET', path);
  t.deepEqual([read.body.retention_days, read.headers.get('etag')], [30, changed.headers.get('etag')]);
  t.is((await ask({ tenantId: 'policed', role: 'member' }, 'PUT', path, { body: {} })).status, 403);
  t.is((await ask({ tenantId: 'policed', role: 'member' }, 'DELETE', path)).status, 403);
  const wrong = await ask(who, 'PUT', path, { body: { retention_days: 0, min_executions_to_keep: '5', other: 1 } });
  t.is(wrong.status, 400);
  t.deepEqual(wrong.body.error.fields.map(({ field }: { field: string }) => field).toSorted(), [
    'min_executions_to_keep',
    'other',
    'retention_days',
  ]);

  for (const method of ['GET', 'PUT', 'DELETE']) {
    const body = method === 'PUT' ? { body: {} } : {};
    const strange = await ask(admin('strange'), method, path, body);
    const unknown = await ask(admin('strange'), method, '/orgs/nobody/retention/policies/executions', body);
    t.is(strange.status, 404, method);
    t.deepEqual(strange.body, unknown.body);
  }
  const platform: Identity = { role: 'platform' };
  t.is((await ask(platform, 'GET', path)).body.retention_days, 30);

  await putPlan(t.context.stack, 'policed', 'PRO');
  const windows = await ask(who, 'GET', '/orgs/policed/retention');
  t.like(windows.body, { tenant_id: 'policed', plan_name: 'PRO' });
  const drift = windows.body.windows.find(
    ({ subject_name: name }: { subject_name: string }) => name === 'drift_checks',
  );
  t.like(drift, { kind: 'DAYS', retention_days: 30, source: 'PLAN', plan_name: 'PRO' });
  t.deepEqual(errorOf(await ask(admin('strange'), 'GET', '/orgs/policed/retention')), {
    status: 404,
    code: 'org_not_found',
  });
  t.is((await ask(platform, 'GET', '/orgs/policed/retention')).body.plan_name, 'PRO');

  const gone = await ask(who, 'DELETE', path, { headers: { 'if-match': changed.headers.get('etag') ?? '' } });
  t.deepEqual([gone.status, gone.body], [204, undefined]);
  t.is((await ask(who, 'GET', path)).status, 404);
});

const ANY = '0190f0f0-0000-7000-8000-000000000000';

test('what is wrong with a request is told by field, whatever its route', async (t) => {
  const ask = askerFor(t);
  const who = admin('wrong');
  const cases: readonly (readonly [string, string, RestRequest, number, string])[] = [
    ['DELETE', '/jobs/1', {}, 400, 'job_id'],
    ['DELETE', `/jobs/${ANY}x`, {}, 400, 'job_id'],
    ['DELETE', `/jobs/${'a'.repeat(3_000)}`, {}, 400, 'job_id'],
    ['DELETE', `/v1/audio/transcriptions/${ANY}?hard=true`, {}, 400, 'hard'],
    ['DELETE', `/api/v1/workflows/runs/${ANY}?hard=yes`, {}, 400, 'hard'],
    ['DELETE', `/api/v1/workflows/runs/${ANY}?hard=1&force=`, {}, 400, 'hard,force'],
    ['DELETE', `/api/v1/workflows/runs/${ANY}?hard=true&hard=false`, {}, 400, 'hard'],
    ['DELETE', `/api/v1/workflows/runs/${ANY}`, { body: { reason: 7 } }, 400, 'reason'],
    ['DELETE', `/api/v1/workflows/runs/${ANY}`, { body: { why: 'x' } }, 400, 'why'],
    ['DELETE', `/api/v1/workflows/runs/${ANY}`, { body: [] }, 400, 'body'],
    ['DELETE', `/api/v1/workflows/runs/${ANY}`, { headers: { 'idempotency-key': 'x' } }, 400, 'idempotency-key'],
    ['GET', '/api/v1/workflows/runs?page_size=-1&state=running', {}, 400, 'page_size,state'],
    ['GET', '/api/v1/workflows/runs?page_size=%205', {}, 400, 'page_size'],
    ['GET', '/api/v1/workflows/runs?min_create_time=yesterday', {}, 400, 'min_create_time'],
    ['GET', '/api/v1/incidents?environment_id=1', {}, 400, 'environment_id'],
    ['GET', '/orgs/A%20B/retention', {}, 400, 'orgId'],
    ['POST', '/orgs/wrong/retention/purge', { body: { reason: '' } }, 400, 'reason'],
    ['DELETE', `/jobs/${ANY}`, { body: 'null' }, 400, ''],
    ['DELETE', `/jobs/${ANY}`, { body: '{' }, 400, ''],
    ['DELETE', `/jobs/${ANY}`, { body: { reason: 'x'.repeat(70_000) } }, 413, ''],
    ['DELETE', `/jobs/${ANY}`, { body: 'x', headers: { 'content-type': 'text/plain' } }, 415, ''],
  ];
  for (const [method, path, request, status, fields] of cases) {
    const answer = await ask(who, method, path, request);
    t.is(answer.status, status, `${method} ${path.slice(0, 80)}`);
    const wrong = (answer.body.error.fields ?? []).map(({ field }: { field: string }) => field);
    t.is(wrong.join(), fields, `${method} ${path.slice(0, 80)}: ${answer.body.error.message}`);
    t.is(typeof answer.body.error.reason, 'string');
  }
});

/** The whole body of an error. */
const errorBody = (reason: string, message: string, metadata?: object, fields?: readonly object[]) => ({
  error: {
    code: reason.toLowerCase(),
    message,
    reason,
    ...(metadata ? { metadata } : {}),
    ...(fields ? { fields } : {}),
  },
});

test('the errors of the routes of seeds 000, 002 and 003 are these, whole', async (t) => {
  const ask = askerFor(t);
  const tenantId = 'whole';
  const who = admin(tenantId);
  const member: Identity = { tenantId, role: 'member' };
  await putPlan(t.context.stack, tenantId, 'PRO');
  const active = (await makeRunGraph(t.context.stack, tenantId, { isFinished: false, jobs: 0 })).runId;
  const young = (await makeRunGraph(t.context.stack, tenantId, { jobs: 0 })).runId;
  const run = (id: string) => `/api/v1/workflows/runs/${id}`;
  const policy = (org = tenantId) => `/orgs/${org}/retention/policies/executions`;
  const { finish_time: finished } = (await ask(who, 'GET', run(young))).body.run;
  const purgeableTime = Temporal.Instant.from(finished).add({ hours: 1 }).toString();
  const purge = (org = tenantId) => `/orgs/${org}/retention/purge`;
  const hard = { body: { reason: 'over' } };
  const noToken = errorBody('TOKEN_MISSING', 'The call has no bearer token.');
  const lowRole = errorBody('ROLE_TOO_LOW', 'This call needs the role admin.', { role: 'admin' });
  const noRun = errorBody('RUN_NOT_FOUND', 'Run not found.');
  const isRunning = errorBody('RUN_NOT_TERMINAL', 'The run is RUNNING; end it first.', { state: 'RUNNING' });
  const isYoung = errorBody('RETENTION_GUARD', `The run can be purged from ${purgeableTime}.`, {
    purgeable_time: purgeableTime,
  });
  const noOrg = errorBody('ORG_NOT_FOUND', 'Organisation not found.');
  const noPolicy = errorBody('EXECUTION_POLICY_NOT_FOUND', 'The tenant has no execution policy.');
  const stale = errorBody('ETAG_MISMATCH', 'The policy has changed since; read it again.', { etag: '"7"' });
  const noBody = errorBody('FIELD_INVALID', 'body is required; {} asks for the defaults.', { fields: 'body' }, [
    { field: 'body', description: 'is required; {} asks for the defaults' },
  ]);
  const cases: readonly (readonly [Identity | undefined, string, string, RestRequest, number, object])[] = [
    [undefined, 'DELETE', run(ANY), {}, 401, noToken],
    [member, 'DELETE', run(young), {}, 403, lowRole],
    [who, 'DELETE', run(ANY), {}, 404, noRun],
    [admin('strange'), 'DELETE', run(young), {}, 404, noRun],
    [who, 'DELETE', `${run(ANY)}?hard=true`, hard, 404, noRun],
    [admin('strange'), 'DELETE', `${run(young)}?hard=true`, hard, 404, noRun],
    [who, 'DELETE', run(active), {}, 409, isRunning],
    [who, 'DELETE', `${run(active)}?hard=true`, hard, 409, isRunning],
    [who, 'DELETE', `${run(young)}?hard=true`, hard, 409, isYoung],
    [undefined, 'POST', purge(), {}, 401, noToken],
    [member, 'POST', purge(), {}, 403, lowRole],
    [who, 'POST', purge('nobody'), {}, 404, noOrg],
    [undefined, 'GET', policy(), {}, 401, noToken],
    [who, 'GET', policy(), {}, 404, noPolicy],
    [who, 'GET', policy('nobody'), {}, 404, noPolicy],
    [who, 'PUT', policy(), {}, 400, noBody],
    [member, 'PUT', policy(), { body: {} }, 403, lowRole],
    [who, 'PUT', policy(), { body: {}, headers: { 'if-match': '"7"' } }, 412, stale],
    [who, 'DELETE', policy(), {}, 404, noPolicy],
    [who, 'GET', '/orgs/nobody/retention', {}, 404, noOrg],
  ];
  for (const [as, method, path, request, status, body] of cases) {
    const answer = await ask(as, method, path, request);
    t.deepEqual([answer.status, answer.body], [status, body], `${method} ${path}`);
  }
});

test('/openapi.json says of each operation, parameter and field what it is, and names both ways to sign requests', async (t) => {
  const document = (await (await fetch(`${t.context.console.url}/openapi.json`)).json()) as OpenApi;
  const undescribed: string[] = [];
  const visit = (node: unknown, place: string): void => {
    if (typeof node !== 'object' || node === null) return;
    for (const [key, value] of Object.entries(node)) {
      visit(value, `${place}.${key}`);
      if (key !== 'properties') continue;
      for (const [name, property] of Object.entries(value as Record<string, { description?: string }>)) {
        if (!property.description) undescribed.push(`${place}.${name}`);
      }
    }
  };
  visit(document, '');
  for (const [path, operations] of Object.entries(document.paths)) {
    for (const [method, { summary, description, tags, parameters = [], responses }] of Object.entries(operations)) {
      const place = `${method} ${path}`;
      if (!summary || !description) undescribed.push(place);
      for (const parameter of parameters) if (!parameter.description) undescribed.push(`${place} ${parameter.name}`);
      for (const [status, response] of Object.entries(responses))
        if (!response.description) undescribed.push(`${place} ${status}`);
      t.true(tags.every((tag) => document.tags.some(({ name, description: about }) => name === tag && about)));
    }
  }
  for (const [name, { description }] of Object.entries(document.components.schemas))
    if (!description) undescribed.push(name);
  t.deepEqual(undescribed, [], 'undescribed; run npm run generate if these are fields of messages');

  t.deepEqual(document.security, [{ bearer: [] }, { cookie: [] }]);
  t.like(document.components.securitySchemes, {
    bearer: { type: 'http', scheme: 'bearer' },
    cookie: { type: 'apiKey', in: 'cookie', name: 'lethe-session' },
  });
  const secured = await startTestConsole(t.context.stack, { LETHE_CONSOLE_URL: 'https://lethe.example.com' });
  t.teardown(() => secured.stop());
  const other = (await (await fetch(`${secured.url}/openapi.json`)).json()) as OpenApi;
  t.is(other.components.securitySchemes.cookie?.name, '__Host-lethe-session');
});

interface OpenApi {
  readonly paths: Readonly<
    Record<
      string,
      Readonly<
        Record<
          string,
          {
            readonly summary?: string;
            readonly description?: string;
            readonly tags: readonly string[];
            readonly parameters?: readonly { readonly name: string; readonly description?: string }[];
            readonly responses: Readonly<Record<string, { readonly description?: string }>>;
          }
        >
      >
    >
  >;
  readonly components: {
    readonly schemas: Readonly<Record<string, { readonly description?: string }>>;
    readonly securitySchemes: Readonly<Record<string, { readonly name?: string }>>;
  };
  readonly security: readonly object[];
  readonly tags: readonly { readonly name: string; readonly description?: string }[];
}

test('another method is 405 with those that there are, and an unknown path 404', async (t) => {
  const { rest } = t.context;
  for (const [method, path, allow] of [
    ['PATCH', `/jobs/${ANY}`, 'DELETE'],
    ['GET', `/jobs/${ANY}`, 'DELETE'],
    ['POST', `/api/v1/workflows/runs/${ANY}`, 'DELETE, GET, HEAD'],
    ['DELETE', '/orgs/a/retention', 'GET, HEAD'],
  ] as const) {
    const answer = await rest.ask(method, path, { token: 'any' });
    t.deepEqual([answer.status, answer.headers.get('allow')], [405, allow], `${method} ${path}`);
    t.is(answer.body.error.code, 'method_not_allowed');
  }
  t.deepEqual(errorOf(await rest.ask('GET', '/api/v1/nothing', { token: 'any' })), {
    status: 404,
    code: 'route_not_found',
  });
  t.deepEqual(errorOf(await rest.ask('GET', '/%zz')), { status: 400, code: 'path_invalid' });
});

test('more requests than are allowed are told to wait, each credential by itself', async (t) => {
  const console = await startTestConsole(t.context.stack, { LETHE_REQUESTS_PER_MINUTE: '3' });
  t.teardown(() => console.stop());
  const rest = await makeRestClient(console.url);
  const token = await t.context.stack.token(admin('hasty'));
  const statuses = [];
  for (let call = 0; call < 4; call += 1) {
    const answer = await rest.ask('GET', '/api/v1/workflows/runs', { token });
    statuses.push(answer.status);
    if (answer.status !== 429) continue;
    t.deepEqual(answer.deviations, []);
    t.is(answer.body.error.reason, 'RATE_LIMITED');
    t.true(Number(answer.headers.get('retry-after')) > 0);
  }
  t.deepEqual(statuses, [200, 200, 200, 429]);
  const other = await t.context.stack.token(admin('patient'));
  t.is((await rest.ask('GET', '/api/v1/workflows/runs', { token: other })).status, 200);
});

test('a service that does not answer is 503 with its name, and the receipt of the other service is found all the same', async (t) => {
  const ask = askerFor(t);
  const { jobs } = t.context.stack.clients(admin('half'));
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  await jobs.cancelJob({ jobId });
  const place = (await ask(admin('half'), 'DELETE', `/jobs/${jobId}`)).headers.get('location') ?? '';
  const addresses = { ...t.context.stack.addresses, run: '127.0.0.1:9' };
  const console = await startTestConsole({ addresses });
  t.teardown(() => console.stop());
  const rest = await makeRestClient(console.url);
  const token = await t.context.stack.token(admin('half'));
  const down = await rest.ask('GET', '/api/v1/workflows/runs', { token });
  t.deepEqual([down.status, down.body.error.metadata], [503, { dependency: 'run service' }]);
  t.truthy(down.headers.get('retry-after'));
  t.is((await rest.ask('GET', place, { token })).body.target_id, jobId);
  // One service says that it does not know it, and the other cannot be asked.
  t.is((await rest.ask('GET', `/api/v1/deletions/${newId()}`, { token })).status, 503);
});

test('every route refuses nobody, a token without its scope, and a parameter that it does not know', async (t) => {
  const ask = askerFor(t);
  const { routes } = t.context.rest;
  t.true(routes.length >= 18);
  for (const { method, path } of routes) {
    const place = path.replace('{orgId}', 'scopes').replaceAll(/\{\w+\}/g, ANY);
    const request = method === 'PUT' ? { body: {} } : {};
    const nobody = await ask(undefined, method, place, request);
    t.deepEqual(errorOf(nobody), { status: 401, code: 'token_missing' }, `${method} ${path}`);
    t.is(nobody.headers.get('www-authenticate'), 'Bearer');
    const forged = await ask(undefined, method, place, { ...request, headers: { authorization: 'Bearer rubbish' } });
    t.deepEqual(errorOf(forged), { status: 401, code: 'token_invalid' }, `${method} ${path}`);
    const basic = await ask(undefined, method, place, { ...request, headers: { authorization: 'Basic YTpi' } });
    t.deepEqual(errorOf(basic), { status: 401, code: 'token_invalid' }, `${method} ${path}`);
    const unscoped = { ...admin('scopes'), scopes: ['audit:read'] };
    t.deepEqual(errorOf(await ask(unscoped, method, place, request)), { status: 403, code: 'scope_missing' }, path);
    const unknown = await ask(admin('scopes'), method, `${place}?nope=1`, request);
    t.deepEqual(errorOf(unknown), { status: 400, code: 'field_invalid' }, `${method} ${path}`);
    t.is(unknown.body.error.fields[0].field, 'nope');
  }
});

testIfFound(test, hasProgram('schemathesis'), 'schemathesis', 'schemathesis finds nothing in any route', async (t) => {
  const { stack } = t.context;
  const console = await startTestConsole(stack, { LETHE_REQUESTS_PER_MINUTE: '10000000', LETHE_PURGE_WAIT_MS: '1000' });
  t.teardown(() => console.stop());
  const token = await stack.token({ tenantId: 'fuzzed', role: 'owner' });
  const args = ['--config-file', fileURLToPath(new URL('../support/rest-fuzz/schemathesis.toml', import.meta.url))];
  args.push('run', `${console.url}/openapi.json`, '--header', `Authorization: Bearer ${token}`, '--checks', 'all');
  args.push('--max-examples', '10', '--phases', 'coverage,fuzzing', '--seed', '4', '--no-color');
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-fuzz-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const { code, output } = await new Promise<{ code: number | null; output: string }>((resolve, reject) => {
    // What it keeps for a replay goes below its folder.
    const child = spawn('schemathesis', args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk;
    });
    child.stderr.on('data', (chunk: Buffer) => {
      text += chunk;
    });
    child.once('error', reject).once('close', (ended) => resolve({ code: ended, output: text }));
  });
  t.is(code, 0, output.slice(-6_000));
  t.regex(output, /Tested: 1[89]|Tested: [2-9]\d/);
});

test.after('every status that a route documents was met, but for what fails inside or takes too long', (t) => {
  const { routes, seen } = t.context.rest;
  const passing = new Set(['413', '415', '429', '500', '503', '504']);
  const documented = routes.flatMap(({ operationId, statuses }) =>
    statuses.filter((status) => !passing.has(status)).map((status) => `${operationId} ${status}`),
  );
  // It is met with a service of its own.
  const elsewhere = ['deleteRun 202'];
  t.deepEqual(
    documented.filter((one) => !seen.has(one) && !elsewhere.includes(one)),
    [],
  );
});
