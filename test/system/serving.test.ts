import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { create, type DescMethod, type DescService, toBinary } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import anyTest, { type TestFn } from 'ava';
import type { ServiceName, StackClients } from '#deploy/local/stack.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { ParticipantService, PurgeRequestSchema } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { openSigningKey } from '#libs/auth/keys.ts';
import { POLICY } from '#libs/auth/policy.ts';
import { makeOwnerCredential, makeParticipantCredential } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { readRunSettings } from '#services/run/config.ts';
import { PARTICIPANT_SCOPES, stackParticipant } from '#test/support/participant-clients.ts';
import { evidenceOf, incidentsOf, makeRunGraph } from '#test/support/run-graph.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack();
});
test.after.always(async (t) => {
  for (const client of bareClients.values()) client.close();
  await t.context.stack.dispose();
});

const bareClients = new Map<string, Client>();

/** A call by bare grpc-js, past everything of the product's own client. */
function bareCall(
  stack: TestStack,
  path: string,
  request: Uint8Array,
  token?: string,
  service: ServiceName = 'job',
): Promise<ServiceError | undefined> {
  const known = bareClients.get(stack.addresses[service]);
  const client = known ?? new Client(stack.addresses[service], credentials.createInsecure());
  bareClients.set(stack.addresses[service], client);
  const metadata = new Metadata();
  if (token) metadata.set('authorization', `Bearer ${token}`);
  const identity = (bytes: Buffer): Buffer => bytes;
  return new Promise((resolve) => {
    client.makeUnaryRequest(
      path,
      identity,
      identity,
      Buffer.from(request),
      metadata,
      { deadline: Date.now() + 10_000 },
      (error) => {
        resolve(error ?? undefined);
      },
    );
  });
}

test.serial('a call without a credential, with a malformed message and with an oversized one is refused', async (t) => {
  const { stack } = t.context;
  const path = '/lethe.job.v1.JobService/GetJob';
  const token = await stack.token({ role: 'owner', tenantId: 'acme' });
  const codeOf = async (request: Buffer, as?: string) => (await bareCall(stack, path, request, as))?.code as number;
  t.is(await codeOf(Buffer.alloc(0)), Code.Unauthenticated);
  t.is(await codeOf(Buffer.alloc(0), 'rubbish'), Code.Unauthenticated);
  t.is(await codeOf(Buffer.from([0xff, 0xff, 0xff]), token), Code.InvalidArgument);
  t.is(await codeOf(Buffer.alloc(5 * 1_024 * 1_024), token), Code.ResourceExhausted);
  const unknown = await bareCall(stack, '/lethe.job.v1.JobService/DropEverything', Buffer.alloc(0), token);
  t.is(unknown?.code as number, Code.Unimplemented);
});

test.serial('every RPC of the contract is built, and answers only those who may call it', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'acme', role: 'admin' });
  for (const [service, client] of [
    [RunService, clients.runs],
    [JobService, clients.jobs],
    [IncidentService, clients.incidents],
    [RetentionService, clients.retention],
  ] as const) {
    for (const { name, localName, methodKind } of service.methods) {
      if (methodKind !== 'unary') continue;
      const call = (client as unknown as Record<string, (request: object) => Promise<unknown>>)[localName];
      const code = await call?.({}).then(
        () => undefined,
        (error: unknown) => ConnectError.from(error).code,
      );
      t.not(code, Code.Unimplemented, name);
    }
  }
  const viewer = stack.clients({ tenantId: 'acme', role: 'viewer' }).runs;
  t.is((await refusalOf(viewer.recordExecutions({}))).code, Code.PermissionDenied);
});

/** Calls an RPC of any kind and throws what it answers. */
async function callAnyhow(client: object, { localName, methodKind }: DescMethod): Promise<void> {
  const call = (client as Record<string, (request: unknown) => unknown>)[localName];
  const isUpload = methodKind === 'client_streaming' || methodKind === 'bidi_streaming';
  const answer = call?.(isUpload ? (async function* () {})() : {});
  if (methodKind === 'server_streaming' || methodKind === 'bidi_streaming') {
    for await (const _ of answer as AsyncIterable<unknown>);
  } else await answer;
}

test.serial(
  'whoever is refused at any RPC of any service is in its audit, and what a token hides is not',
  async (t) => {
    const { stack } = t.context;
    const services = {
      run: [RunService, ParticipantService, RetentionOwnerService],
      job: [JobService, ParticipantService],
      incident: [IncidentService, ParticipantService, RetentionOwnerService],
      retention: [RetentionService],
    } as const;
    const listed = { run: 'runs', job: 'jobs', incident: 'incidents', retention: 'retention' } as const;
    for (const [name, contracts] of Object.entries(services)) {
      const service = name as keyof typeof services;
      const rpcs = contracts.flatMap((contract) => contract.methods.map((method) => ({ contract, method })));
      await Promise.all(
        rpcs.map(async ({ contract, method }) => {
          // A person for each RPC, since one person's refusals are counted after the tenth kind.
          const identity = { role: 'owner', tenantId: 'refused', subject: `ada-${method.name}`, scopes: [] } as const;
          const connection = connect({ address: stack.addresses[service], token: () => stack.token(identity) });
          try {
            const { code } = await refusalOf(callAnyhow(connection.client(contract), method));
            t.true(code === Code.PermissionDenied || code === Code.Unauthenticated, method.toString());
          } finally {
            connection.close();
          }
        }),
      );
      const refused = async () => {
        const audit = stack.clients({ role: 'admin', tenantId: 'refused' })[listed[service]];
        const filter = { action: 'call' };
        return (await audit.listAuditEntries({ pageSize: 200, filter })).entries;
      };
      await until('all refusals are in the audit', async () => (await refused()).length >= rpcs.length);
      t.deepEqual(
        (await refused())
          .map(({ actor, targetId, outcome, trustEntry }) => [actor, targetId, outcome, trustEntry])
          .toSorted(),
        rpcs
          .map(({ contract, method }) => [
            `ada-${method.name}`,
            `${contract.typeName}/${method.name}`,
            // What services serve to one another is for tokens that were made for it.
            contract === RetentionOwnerService || contract === ParticipantService ? 'TOKEN_INVALID' : 'SCOPE_MISSING',
            'user',
          ])
          .toSorted(),
      );
      // Too low a role in a handler, no tenant, and a token that nobody signed.
      const deleted = { showDeleted: true };
      const viewer = stack.clients({ role: 'viewer', tenantId: 'too-low' });
      if (service === 'run') await t.throwsAsync(viewer.runs.listRuns(deleted));
      const nobody = connect({ address: stack.addresses[service], token: async () => 'made-up' });
      await t.throwsAsync(nobody.client(contracts[0]).listAuditEntries({}));
      nobody.close();
      const readLog = () => readFile(join(stack.folder, `logs/${name}.log`), 'utf8');
      const said = ['"credential not believed"', '"reason":"TOKEN_INVALID"', '"actor":"ada-ListAuditEntries"'];
      await until('the refusals are in the log', async () => {
        const log = await readLog();
        return said.every((words) => log.includes(words));
      });
      t.false((await readLog()).includes('made-up'));
    }
    // A platform credential without a tenant, where one is needed: the refusal belongs to the installation.
    await t.throwsAsync(stack.clients({ role: 'platform', subject: 'operator' }).jobs.listJobs({}));
    const platform = stack.clients({ role: 'platform' });
    const installed = async () => (await platform.jobs.listAuditEntries({ filter: { actor: 'operator' } })).entries;
    await until('it is in the audit', async () => (await installed()).length > 0);
    t.like((await installed())[0], {
      tenantId: '',
      targetId: 'lethe.job.v1.JobService/ListJobs',
      outcome: 'TENANT_MISSING',
    });
    // Another tenant is answered as if it did not exist; the audit knows better.
    const curious = stack.clients({ role: 'owner', tenantId: 'curious', subject: 'eve' });
    const refusal = await refusalOf(curious.retention.getTenantPlan({ tenantId: 'refused' }));
    t.is(refusal.code, Code.NotFound);
    t.deepEqual((await curious.retention.listPurges({ tenantId: 'refused' })).purges, []);
    const { retention } = curious;
    await until('it is in the audit', async () => (await retention.listAuditEntries({})).entries.length >= 2);
    const entries = (await retention.listAuditEntries({})).entries;
    t.true(entries.every(({ actor, outcome }) => actor === 'eve' && outcome === 'TENANT_MISMATCH'));
    t.deepEqual(entries.map(({ targetId }) => targetId.split('/').at(-1)).toSorted(), ['GetTenantPlan', 'ListPurges']);
    const low = await stack.clients({ role: 'admin', tenantId: 'too-low' }).runs.listAuditEntries({});
    t.like(low.entries[0], { actor: 'viewer@too-low', outcome: 'ROLE_TOO_LOW' });
  },
);

test.serial('whoever purges a run is traced to a key in every service, also where a worker ends it', async (t) => {
  const { stack } = t.context;
  const graph = await makeRunGraph(stack, 'traced', { steps: 1, jobs: 1, objectsPerJob: 1, incidents: 1 });
  const clients = stack.clients({ tenantId: 'traced', role: 'owner' });
  await clients.runs.purgeRun({ runId: graph.runId, reason: 'asked for', force: true });
  const entriesOf = async (service: 'runs' | 'jobs' | 'incidents', action: string) =>
    (await clients[service].listAuditEntries({ filter: { action } })).entries.map(
      ({ subject, trustEntry, outcome }) => [subject, trustEntry, outcome],
    );
  const isOver = async () => (await entriesOf('runs', 'PURGE')).some(([, , outcome]) => outcome === 'COMPLETE');
  await until('the purge is over', isOver);
  t.deepEqual(await entriesOf('runs', 'PURGE'), [['owner@traced', 'user', 'COMPLETE']]);
  for (const service of ['jobs', 'incidents'] as const) {
    const { entries } = await clients[service].listAuditEntries({});
    const byRun = entries.filter(({ subject }) => subject === 'service:run');
    t.true(byRun.length > 0, service);
    t.true(
      byRun.every(({ trustEntry }) => trustEntry === 'run'),
      service,
    );
  }
});

/** Every RPC that a stack serves, and where. */
const SERVED: readonly (readonly [ServiceName, DescService])[] = [
  ['run', RunService],
  ['job', JobService],
  ['incident', IncidentService],
  ['retention', RetentionService],
  ['run', ParticipantService],
  ['job', ParticipantService],
  ['incident', ParticipantService],
  ['run', RetentionOwnerService],
  ['incident', RetentionOwnerService],
];

test.serial('a token between services is refused by every other RPC and service, and changes nothing', async (t) => {
  const { stack } = t.context;
  const graph = await makeRunGraph(stack, 'replayed', { incidents: 1 });
  const look = async () => [await evidenceOf(stack, graph), await incidentsOf(stack, graph)];
  const before = await look();
  const { tenantId, runId } = graph;
  const keyOf = (name: string) => openSigningKey(join(stack.folder, 'keys', `${name}.private.json`));
  const asRun = makeParticipantCredential({ key: await keyOf('run'), issuer: 'lethe' }, 'run');
  const asRetention = makeOwnerCredential({ key: await keyOf('retention'), issuer: 'lethe' }, 'retention');
  const operation = { operationId: newId(), step: 'job' };
  const call = { tenantId, runId, actor: 'ada', ...operation };
  const tokens = [
    ...(await Promise.all(
      [...new Set(Object.values(PARTICIPANT_SCOPES))].map(async (scope) => ({
        ...{ callee: 'job', scope },
        token: await asRun({ ...call, participant: 'job', scope }),
      })),
    )),
    ...(await Promise.all(
      (['owner:count', 'owner:purge'] as const).map(async (scope) => ({
        ...{ callee: 'incident', scope },
        token: await asRetention({ ...call, owner: 'incident', scope, subject: 'incident_payloads' }),
      })),
    )),
  ];
  const purge = toBinary(
    PurgeRequestSchema,
    create(PurgeRequestSchema, { key: operation, runId, reason: 'replayed with everything but its RPC right' }),
  );
  for (const { callee, scope, token } of tokens) {
    for (const [name, service] of SERVED) {
      for (const { name: rpc } of service.methods) {
        const path = `${service.typeName}/${rpc}`;
        const rule = POLICY[path];
        if (name === callee && rule && 'callee' in rule && rule.calleeScope === scope) continue;
        const code = (await bareCall(stack, `/${path}`, purge, token, name))?.code as number;
        t.true([Code.Unauthenticated, Code.PermissionDenied].includes(code), `${scope} of ${callee}: ${name} ${path}`);
      }
    }
  }
  t.deepEqual(await look(), before);
});

test.serial('a token between services is refused for another run, tenant, operation or step', async (t) => {
  const { stack } = t.context;
  const [mine, other, foreign] = await Promise.all([
    makeRunGraph(stack, 'bound', { incidents: 1 }),
    makeRunGraph(stack, 'bound', { incidents: 1 }),
    makeRunGraph(stack, 'bound-too', { incidents: 1 }),
  ]);
  const look = () =>
    Promise.all([mine, other, foreign].flatMap((graph) => [evidenceOf(stack, graph), incidentsOf(stack, graph)]));
  const before = await look();
  const bound = { runId: mine.runId, operationId: newId(), step: 'purge' };
  for (const name of ['job', 'incident', 'run'] as const) {
    const connection = connect({ address: stack.addresses[name], token: async () => 'no token' });
    t.teardown(() => connection.close());
    const participant = stackParticipant(stack, connection, name, 'bound', bound);
    const asked = { runId: mine.runId, key: { operationId: bound.operationId, step: bound.step }, reason: 'replayed' };
    for (const wrong of [
      { ...asked, runId: other.runId },
      { ...asked, runId: foreign.runId },
      { ...asked, key: { ...asked.key, operationId: newId() } },
      { ...asked, key: { ...asked.key, step: 'another' } },
    ]) {
      const stepKey = { runId: wrong.runId, key: { operationId: wrong.runId, step: 'step-1' } };
      for (const call of [
        participant.purge(wrong),
        participant.softDelete(wrong),
        participant.restore({ ...wrong, softDeleteOperationId: newId() }),
        participant.compensate(stepKey),
        participant.execute({ ...stepKey, action: 'create-job' }),
      ])
        t.like(await refusalOf(call), { code: Code.PermissionDenied, reason: 'TOKEN_MISMATCH' }, name);
    }
    for (const { runId } of [other, foreign])
      for (const call of [participant.preview({ runId }), participant.verify({ runId })])
        t.like(await refusalOf(call), { code: Code.PermissionDenied, reason: 'TOKEN_MISMATCH' }, name);
    t.deepEqual((await participant.preview({ runId: mine.runId })).blockers, [], 'and good for its own run');
  }
  t.deepEqual(await look(), before);
});

test.serial('a caller who asks too often is told how long to wait', async (t) => {
  const limited = await startTestStack({ services: ['job'], env: { LETHE_CALLS_PER_SECOND: '1' } });
  t.teardown(() => limited.dispose());
  const { jobs } = limited.clients({ tenantId: 'hasty', role: 'viewer' });
  const outcomes = await Promise.allSettled(Array.from({ length: 40 }, () => jobs.listJobs({})));
  const refused = outcomes.filter(({ status }) => status === 'rejected');
  t.true(refused.length >= 20 && refused.length < 40, String(refused.length));
  const other = limited.clients({ tenantId: 'patient', role: 'viewer' }).jobs;
  await t.notThrowsAsync(other.listJobs({}));
});

test.serial('SIGTERM under load: no call that was accepted fails', async (t) => {
  const { stack } = t.context;
  const token = await stack.token({ role: 'member', tenantId: 'loaded' });
  const connection = connect({ address: stack.addresses.job, token: async () => token });
  t.teardown(() => connection.close());
  const jobs = connection.client(JobService);
  const made: string[] = [];
  const refusals: ConnectError[] = [];
  let stopping = false;
  const load = Promise.all(
    Array.from({ length: 16 }, async () => {
      while (!stopping) {
        try {
          made.push((await jobs.createJob({})).job?.id ?? '');
        } catch (error) {
          refusals.push(ConnectError.from(error));
          await delay(10);
        }
      }
    }),
  );
  const isLoaded = (calls: number) => async () => made.length > calls;
  await until('it is under load', isLoaded(50), 60_000);
  const pid = stack.pid('job');
  if (pid) process.kill(pid, 'SIGTERM');
  await until('it was started anew', async () => (stack.pid('job') ?? pid) !== pid, 60_000);
  await until('it is under load again', isLoaded(made.length + 50), 60_000);
  stopping = true;
  await load;
  // While it is away a call can only be refused before it was accepted, and the client has tried again by itself.
  t.deepEqual(
    refusals.filter(({ code }) => code !== Code.Unavailable).map(({ message }) => message),
    [],
  );
  const stored = await Array.fromAsync(pages(jobs));
  t.deepEqual(new Set(stored).size, new Set(made).size);
});

test.serial('a service without a participant configured does not start, and says everything that is wrong', (t) => {
  const error = t.throws(() =>
    readRunSettings({
      LETHE_DATABASE_URL: '',
      WORKFLOW_MIN_PURGE_AGE_HOURS: '5d',
      LETHE_POLL_MS: '0',
      LETHE_PARTICIPANTS: 'x',
    }),
  );
  for (const name of [
    'LETHE_DATABASE_URL',
    'WORKFLOW_MIN_PURGE_AGE_HOURS',
    'LETHE_POLL_MS',
    'LETHE_PARTICIPANTS',
    'LETHE_TRUST_FILE',
  ]) {
    t.true(error?.message.includes(name), name);
  }
});

async function* pages(jobs: StackClients['jobs']): AsyncIterable<string> {
  for (let pageToken = '', first = true; first || pageToken !== ''; first = false) {
    const page = await jobs.listJobs({ pageSize: 200, pageToken });
    for (const { id } of page.jobs) yield id;
    pageToken = page.nextPageToken;
  }
}
