import { type DescMethod, type DescService, fromJson, type JsonObject, toJson } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { ConnectError, createClient, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import anyTest, { type TestFn } from 'ava';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DriftStatus, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { ArtifactKind, JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { ExecutionState, RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { POLICY } from '#libs/auth/policy.ts';
import { newId } from '#libs/kernel/id.ts';
import { UPSTREAMS, type UpstreamName } from '#services/console/server/connect-upstreams.ts';
import { type ConsoleBrowser, signIn } from '#test/support/console-browser.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

// Everything here belongs to globex; whoever signs in from acme must get the answers of a tenant that has nothing.
const OWNER = 'globex';
const MARK = 'only-globex-may-read-this';

/** Values of request fields by service and field name, such as `run_id`. */
type Ids = Readonly<Record<string, string>>;

interface Context {
  stack: TestStack;
  url: string;
  ids: Readonly<Record<UpstreamName, Ids>>;
  own: ConsoleBrowser;
  strange: ConsoleBrowser;
}

const test = anyTest as TestFn<Context>;

test.before(async (t) => {
  const stack = await startTestStack({ console: true });
  t.context.stack = stack;
  const url = stack.consoleUrl ?? '';
  const ids = await fill(stack);
  const own = await signIn(url, 'admin@globex');
  const strange = await signIn(url, 'admin@acme');
  Object.assign(t.context, { url, ids, own, strange });
});
test.after.always((t) => t.context.stack?.dispose());

/** Gives the tenant something of every kind, in every service. */
async function fill(stack: TestStack): Promise<Context['ids']> {
  const { runs, jobs, incidents, retention } = stack.clients({ tenantId: OWNER, role: 'owner' });
  const platform = stack.clients({ role: 'platform' }).retention;
  const newRun = async (workflow = MARK) => (await runs.createRun({ workflow, displayName: MARK })).run?.id ?? '';
  const [runId, hiddenId, bulkId] = [await newRun(), await newRun(), await newRun('bulk')];
  for (const id of [runId, hiddenId, bulkId]) await runs.finishRun({ runId: id, state: RunState.COMPLETED });
  const deleted = await runs.deleteRun({ runId: hiddenId, reason: MARK });
  const runBulk = await runs.purgeRuns({ filter: { workflow: 'bulk' }, reason: MARK });
  await runs.recordExecutions({
    executions: [
      {
        id: newId(),
        workflow: MARK,
        status: 'success',
        state: ExecutionState.ENDED,
        createTime: timestampFromMs(Date.now()),
      },
    ],
  });

  const newJob = async () => (await jobs.createJob({})).job?.id ?? '';
  const [jobId, goneId] = [await newJob(), await newJob()];
  await jobs.uploadArtifact(
    (async function* () {
      yield { part: { case: 'header' as const, value: { jobId, kind: ArtifactKind.INPUT, name: MARK } } };
      yield { part: { case: 'chunk' as const, value: new TextEncoder().encode(MARK) } };
    })(),
  );
  await jobs.cancelJob({ jobId: goneId, reason: MARK });
  const jobDeletion = await jobs.deleteJob({ jobId: goneId, reason: MARK });
  const jobBulk = await jobs.deleteJobs({ filter: { states: [JobState.PENDING] }, reason: MARK });

  const { environment } = await incidents.createEnvironment({ displayName: MARK });
  const environmentId = environment?.id ?? '';
  const { driftCheck } = await incidents.recordDriftCheck({ environmentId, status: DriftStatus.DRIFT });
  const { incident } = await incidents.openIncident({
    environmentId,
    title: MARK,
    driftSummary: { secret: MARK },
    runId,
  });
  await incidents.requestApproval({ incidentId: incident?.id ?? '', requestedState: IncidentState.ACKNOWLEDGED });

  await platform.setTenantPlan({ tenantId: OWNER, planName: 'PRO' });
  await retention.upsertExecutionPolicy({ tenantId: OWNER, retentionDays: 30, minExecutionsToKeep: 7n });
  const { purge } = await retention.purgeNow({ tenantId: OWNER, reason: MARK });

  await until('the bulk deletion has ended', async () => {
    const { bulkDeletion } = await runs.getBulkDeletion({ bulkDeletionId: runBulk.bulkDeletion?.id ?? '' });
    return bulkDeletion?.state === BulkDeletionState.COMPLETE;
  });
  return {
    run: {
      run_id: runId,
      deletion_id: deleted.deletion?.id ?? '',
      bulk_deletion_id: runBulk.bulkDeletion?.id ?? '',
      workflow: MARK,
    },
    job: {
      job_id: jobId,
      run_id: runId,
      deletion_id: jobDeletion.deletion?.id ?? '',
      bulk_deletion_id: jobBulk.bulkDeletion?.id ?? '',
      kind: 'ARTIFACT_KIND_INPUT',
      name: MARK,
    },
    incident: {
      environment_id: environmentId,
      drift_check_id: driftCheck?.id ?? '',
      incident_id: incident?.id ?? '',
      run_id: runId,
    },
    // Plans are everybody's: they are read by who has none as by who has one.
    retention: { name: 'PRO', tenant_id: OWNER, purge_id: purge?.id ?? '' },
  };
}

/** Connect as a page of this browser speaks it: with the browser's cookies and nothing else. */
function transportOf(url: string, { cookies }: ConsoleBrowser): Transport {
  const cookie: Interceptor = (next) => (request) => {
    request.header.set('cookie', [...cookies].map(([name, value]) => `${name}=${value}`).join('; '));
    request.header.set('sec-fetch-site', 'same-origin');
    return next(request);
  };
  return createConnectTransport({ baseUrl: `${url}/rpc`, httpVersion: '1.1', interceptors: [cookie] });
}

/** What one call answers: its messages as JSON, or its refusal, whole. */
async function answerOf(
  transport: Transport,
  service: DescService,
  method: DescMethod,
  request: JsonObject,
): Promise<string> {
  const client = createClient(service, transport) as unknown as Record<
    string,
    (message: object, options: object) => unknown
  >;
  const message = fromJson(method.input, request);
  const call = client[method.localName]?.(message, { timeoutMs: 20_000 });
  try {
    const answers: unknown[] = [];
    if (method.methodKind === 'server_streaming') {
      for await (const each of call as AsyncIterable<never>) {
        answers.push(toJson(method.output, each));
        // Of a watch the first message is what there is now.
        break;
      }
    } else answers.push(toJson(method.output, (await call) as never));
    return JSON.stringify(answers);
  } catch (error) {
    const { code, rawMessage, ...refused } = ConnectError.from(error);
    const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
    return JSON.stringify({
      refused: code,
      rawMessage,
      reason: info?.reason,
      metadata: info?.metadata,
      name: refused.name,
    });
  }
}

/** A person's read: every RPC whose rule a viewer, or an admin who audits, passes. */
const isRead = (service: DescService, method: DescMethod): boolean => {
  const rule = POLICY[`${service.typeName}/${method.name}`];
  return (
    rule !== undefined &&
    'role' in rule &&
    (rule.role === 'viewer' || /^(Get|List|Count|Watch|Preview)/.test(method.name))
  );
};

/** The request with everything that can name something of the tenant set to these values. */
const requestOf = (method: DescMethod, ids: Ids): JsonObject =>
  Object.fromEntries(
    method.input.fields.flatMap(({ name, jsonName }) => (ids[name] === undefined ? [] : [[jsonName, ids[name]]])),
  );

/** As random as what they stand for, and of nobody. */
const strangersOf = (ids: Ids): Ids =>
  Object.fromEntries(
    Object.entries(ids).map(([name, value]) => [
      name,
      name === 'kind' || value === 'PRO'
        ? value
        : name === 'tenant_id'
          ? 'nobody'
          : /_id$/.test(name)
            ? newId()
            : 'of-nobody',
    ]),
  );

const without = (text: string, ids: Ids): string =>
  Object.entries(ids).reduce(
    (rest, [name, value]) => (name === 'kind' || value === 'PRO' ? rest : rest.replaceAll(value, `<${name}>`)),
    text,
  );

for (const [name, service] of Object.entries(UPSTREAMS) as [UpstreamName, DescService][]) {
  for (const method of service.methods.filter((each) => isRead(service, each))) {
    test(`${service.typeName}/${method.name}: of another tenant's there is no more than of what never was`, async (t) => {
      const { url, ids, own, strange } = t.context;
      const [ownTransport, transport] = [transportOf(url, own), transportOf(url, strange)];
      const wanted = ids[name];
      const nobodys = strangersOf(wanted);
      const request = requestOf(method, wanted);

      // Who it belongs to gets it: there is something to be hidden.
      const answer = await answerOf(ownTransport, service, method, request);
      t.notRegex(answer, /^{"refused"/, 'the request itself is good');

      const named = await answerOf(transport, service, method, request);
      const unknown = await answerOf(transport, service, method, requestOf(method, nobodys));
      // Refusals of these very tests are audited, in the tenant of who was refused.
      if (method.name === 'ListAuditEntries') t.deepEqual(tenantsIn(named).difference(new Set(['acme'])), new Set());
      else t.is(without(named, wanted), without(unknown, nobodys), 'what is asked for by name');
      const listed = await answerOf(transport, service, method, {});
      for (const secret of [
        MARK,
        ...Object.entries(wanted).flatMap(([field, value]) => (/_id$/.test(field) ? [value] : [])),
      ]) {
        t.false(listed.includes(secret), `what is listed: ${secret}`);
      }
      // Counts: where the owner's answer has something to count, the other's has none.
      t.deepEqual(countsIn(listed), [], 'counts');
    });
  }
}

/** What a REST route answers this browser's page: status, place and body. */
async function restAnswerOf(url: string, browser: ConsoleBrowser, method: string, path: string): Promise<string> {
  const hasBody = method === 'PUT' || method === 'POST';
  const response = await browser.fetch(url + path, {
    method,
    headers: { 'sec-fetch-site': 'same-origin', ...(hasBody ? { 'content-type': 'application/json' } : {}) },
    ...(hasBody ? { body: '{}' } : {}),
  });
  return `${response.status} ${response.headers.get('location')} ${await response.text()}`;
}

/** Every REST route with its parameters filled in, and lists also by each filter that can name something of a tenant. */
function pathsOf(openapi: OpenApi, ids: Ids): { method: string; path: string; route: string }[] {
  return Object.entries(openapi.paths).flatMap(([route, operations]) =>
    Object.entries(operations).flatMap(([method, { parameters = [] }]) => {
      const path = route.replaceAll(/\{(\w+)\}/g, (_, name: string) => ids[name] ?? `no-${name}`);
      const queries = parameters.flatMap(({ in: place, name }) =>
        place === 'query' && ids[name] !== undefined ? [`?${name}=${encodeURIComponent(ids[name])}`] : [],
      );
      if (parameters.some(({ in: place, name }) => place === 'query' && name === 'show_deleted'))
        queries.push('?show_deleted=true');
      return ['', ...queries].map((query) => ({
        method: method.toUpperCase(),
        path: path + query,
        route: `${method.toUpperCase()} ${route}${query.split('=')[0]}`,
      }));
    }),
  );
}

interface OpenApi {
  readonly paths: Readonly<
    Record<string, Readonly<Record<string, { parameters?: readonly { in: string; name: string }[] }>>>
  >;
}

test("REST: of another tenant's there is no more than of what never was, by every route, and nothing changes", async (t) => {
  const { url, ids, own } = t.context;
  // Of a tenant of its own: its refusals are in that tenant's audit.
  const strange = await signIn(url, 'admin@hobby');
  const openapi = (await (await fetch(`${url}/openapi.json`)).json()) as OpenApi;
  const { run, job, incident, retention } = ids;
  const wanted = {
    ...run,
    ...job,
    ...incident,
    ...retention,
    orgId: OWNER,
    run_id: run.run_id ?? '',
    deletion_id: run.deletion_id ?? '',
  };
  const nobodys = { ...strangersOf(wanted), orgId: 'nobody' };
  const routes = pathsOf(openapi, wanted);
  t.true(routes.length >= 24, 'every route and its filters');
  const ownReads = () =>
    Promise.all(
      routes
        .filter(({ method }) => method === 'GET')
        .map(async ({ path }) => (await restAnswerOf(url, own, 'GET', path)).replaceAll(/"\w*_time":"[^"]*"/g, '')),
    );
  const before = await ownReads();
  for (const answer of before) t.regex(answer, /^200 /, 'there is something to be hidden');

  const unknowns = pathsOf(openapi, nobodys);
  for (const [index, { method, path, route }] of routes.entries()) {
    const named = await restAnswerOf(url, strange, method, path);
    const unknown = await restAnswerOf(url, strange, method, unknowns[index]?.path ?? '');
    t.is(without(named, wanted), without(unknown, nobodys), route);
    for (const secret of [
      MARK,
      OWNER,
      ...Object.entries(wanted).flatMap(([name, id]) => (/_id$/.test(name) ? [id] : [])),
    ]) {
      t.false(named.includes(secret) && !path.includes(secret), `${route}: ${secret}`);
    }
    t.deepEqual(countsIn(named), [], `${route}: counts`);
    // What names something in its path is not found; a list is empty.
    t.regex(named, /\{\w+\}/.test(route) ? /^404 null / : /^200 null \{"\w+":\[\],/, route);
  }
  t.deepEqual(await ownReads(), before, 'its owner finds everything as it was');
});

const tenantsIn = (answer: string): Set<string> =>
  new Set([...answer.matchAll(/"tenantId":"([^"]*)"/g)].map(([, tenant = '']) => tenant));

/** Every count and size in an answer that is more than nothing. */
const countsIn = (answer: string): readonly string[] =>
  [...answer.matchAll(/"(\w*(?:count|total|matched)\w*)":"?([1-9]\d*)/gi)].map(([found]) => found);
