import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { create, type DescService, toBinary } from '@bufbuild/protobuf';
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
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import type { CalleeScope, OwnerScope, ParticipantScope } from '#libs/auth/authorize.ts';
import { openSigningKey } from '#libs/auth/keys.ts';
import { POLICY } from '#libs/auth/policy.ts';
import { makeOwnerCredential, makeParticipantCredential } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import type { CalleeKind, Role } from '#libs/kernel/caller.ts';
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

/** Every service of a stack, with what it serves. */
const SERVED = {
  run: [RunService, ParticipantService, RetentionOwnerService, StatusService],
  job: [JobService, ParticipantService, StatusService],
  incident: [IncidentService, ParticipantService, RetentionOwnerService, StatusService],
  retention: [RetentionService, StatusService],
} as const satisfies Record<ServiceName, readonly DescService[]>;

const SERVICES = Object.keys(SERVED) as ServiceName[];

/** The RPCs of a service by their full names. */
const rpcsOf = (service: ServiceName): readonly string[] =>
  (SERVED[service] as readonly DescService[]).flatMap(({ typeName, methods }) =>
    methods.map(({ name }) => `${typeName}/${name}`),
  );

/** Which services are callees of each kind. */
const CALLEES: Readonly<Record<CalleeKind, readonly ServiceName[]>> = {
  participant: ['run', 'job', 'incident'],
  owner: ['run', 'incident'],
};

/** What a token for each kind of callee may allow. */
const CALLEE_SCOPES: Readonly<Record<CalleeKind, readonly CalleeScope[]>> = {
  participant: [...new Set(Object.values(PARTICIPANT_SCOPES))],
  owner: ['owner:read', 'owner:count', 'owner:purge'],
};

/** Signs a token for one kind of call of one callee, as the service does that makes such calls. */
type CalleeCredentials = (call: {
  readonly callee: CalleeKind;
  readonly name: ServiceName;
  readonly scope: CalleeScope;
  readonly actor: string;
}) => Promise<string>;

async function calleeCredentials(
  stack: TestStack,
  tenantId: string,
  limits: { readonly runId?: string; readonly operationId?: string; readonly step?: string } = {},
): Promise<CalleeCredentials> {
  const keyOf = (name: string) => openSigningKey(join(stack.folder, 'keys', `${name}.private.json`));
  const participants = makeParticipantCredential({ key: await keyOf('run'), issuer: 'lethe' }, 'run');
  const owners = makeOwnerCredential({ key: await keyOf('retention'), issuer: 'lethe' }, 'retention');
  return ({ callee, name, scope, actor }) =>
    callee === 'participant'
      ? participants({ participant: name, scope: scope as ParticipantScope, actor, tenantId, ...limits })
      : owners({
          ...{ owner: name, scope: scope as OwnerScope, actor, subject: 'incident_payloads', ...limits },
          // What it lists is not of one tenant.
          ...(scope === 'owner:read' ? {} : { tenantId }),
        });
}

/** A caller that an RPC refuses for one of the things that it asks for. */
interface Stranger {
  readonly tenantId: string;
  readonly actor: string;
  readonly subject: string;
  readonly trustEntry: string;
  readonly reason: string;
  readonly token: () => Promise<string>;
}

const LOWER = { member: 'viewer', admin: 'member', owner: 'admin' } as const;

/** One caller for each thing that the rule of an RPC asks for: scope, role, and a token that was made for it. */
function strangersOf(stack: TestStack, service: ServiceName, rpc: string, sign: CalleeCredentials): Stranger[] {
  const rule = POLICY[rpc];
  if (!rule || 'public' in rule) throw new Error(`${rpc} asks for nothing`);
  // A caller for each, since one caller's refusals are counted after the tenth kind.
  const actor = `ada-${rpc.split('/')[1]}`;
  const person = (role: Role, tenantId: string, scopes?: readonly string[]) => ({
    ...{ tenantId, actor, subject: actor, trustEntry: 'user' },
    token: () => stack.token({ role, tenantId, subject: actor, ...(scopes ? { scopes } : {}) }),
  });
  if ('callee' in rule) {
    const caller = { owner: 'retention', participant: 'run' }[rule.callee];
    const by = { tenantId: 'too-low', actor, subject: `service:${caller}`, trustEntry: caller };
    const others = CALLEE_SCOPES[rule.callee].filter((each) => each !== rule.calleeScope && each !== 'owner:read');
    const scope = others[0] ?? rule.calleeScope;
    return [
      { ...person('owner', 'refused'), reason: 'TOKEN_INVALID' },
      { ...by, reason: 'SCOPE_MISSING', token: () => sign({ callee: rule.callee, name: service, scope, actor }) },
    ];
  }
  const unscoped = { ...person('owner', 'refused', []), reason: 'SCOPE_MISSING' };
  if (rule.role === 'viewer') return [unscoped];
  return [unscoped, { ...person(rule.role ? LOWER[rule.role] : 'owner', 'too-low'), reason: 'ROLE_TOO_LOW' }];
}

/** What the log of a service says of each refusal, as the audit has it. */
async function refusalsInLog(stack: TestStack, service: ServiceName, tenantId: string): Promise<readonly string[][]> {
  const lines = (await readFile(join(stack.folder, `logs/${service}.log`), 'utf8')).split('\n');
  return lines
    .filter((line) => line.includes('"call refused"'))
    .map((line) => JSON.parse(line) as Record<string, string>)
    .filter((line) => line['tenantId'] === tenantId)
    .map(({ actor = '', subject = '', rpc = '', outcome = '', trustEntry = '' }) => [
      ...[actor, subject, rpc, outcome, trustEntry],
    ]);
}

test.serial(
  'whoever is refused at any RPC of any service for scope, role or token is in its audit and its log, and what a token hides is not',
  async (t) => {
    const { stack } = t.context;
    const sign = await calleeCredentials(stack, 'too-low');
    const listed = { run: 'runs', job: 'jobs', incident: 'incidents', retention: 'retention' } as const;
    for (const service of SERVICES) {
      const strangers = rpcsOf(service).flatMap((rpc) =>
        strangersOf(stack, service, rpc, sign).map((stranger) => ({ ...stranger, rpc })),
      );
      await Promise.all(
        strangers.map(async ({ rpc, token, reason }) => {
          const code = (await bareCall(stack, `/${rpc}`, new Uint8Array(), await token(), service))?.code as number;
          t.is(code, reason === 'TOKEN_INVALID' ? Code.Unauthenticated : Code.PermissionDenied, `${service} ${rpc}`);
        }),
      );
      for (const tenantId of ['refused', 'too-low']) {
        const expected = strangers
          .filter((stranger) => stranger.tenantId === tenantId)
          .map(({ actor, subject, rpc, reason, trustEntry }) => [actor, subject, rpc, reason, trustEntry])
          .toSorted();
        const refused = async () => {
          const audit = stack.clients({ role: 'admin', tenantId })[listed[service]];
          return (await audit.listAuditEntries({ pageSize: 200, filter: { action: 'call' } })).entries;
        };
        await until('all refusals are in the audit', async () => (await refused()).length >= expected.length);
        t.deepEqual(
          (await refused())
            .map(({ actor, subject, targetId, outcome, trustEntry }) => [
              ...[actor, subject, targetId, outcome, trustEntry],
            ])
            .toSorted(),
          expected,
        );
        t.deepEqual((await refusalsInLog(stack, service, tenantId)).toSorted(), expected);
      }
      // Too low a role in a handler, no tenant, and a token that nobody signed.
      const deleted = { showDeleted: true };
      const viewer = stack.clients({ role: 'viewer', tenantId: 'handler' });
      if (service === 'run') await t.throwsAsync(viewer.runs.listRuns(deleted));
      await bareCall(stack, `/${rpcsOf(service)[0]}`, new Uint8Array(), 'made-up', service);
      const readLog = () => readFile(join(stack.folder, `logs/${service}.log`), 'utf8');
      const said = ['"credential not believed"', '"reason":"TOKEN_INVALID"'];
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
    const low = await stack.clients({ role: 'admin', tenantId: 'handler' }).runs.listAuditEntries({});
    t.like(low.entries[0], { actor: 'viewer@handler', outcome: 'ROLE_TOO_LOW' });
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

test.serial('a token between services is refused by every other RPC and service, and changes nothing', async (t) => {
  const { stack } = t.context;
  const graph = await makeRunGraph(stack, 'replayed', { incidents: 1 });
  const look = async () => [await evidenceOf(stack, graph), await incidentsOf(stack, graph)];
  const before = await look();
  const { tenantId, runId } = graph;
  const operation = { operationId: newId(), step: 'job' };
  const sign = await calleeCredentials(stack, tenantId, { runId, ...operation });
  const purge = toBinary(
    PurgeRequestSchema,
    create(PurgeRequestSchema, { key: operation, runId, reason: 'replayed with everything but its RPC right' }),
  );
  let replays = 0;
  for (const callee of ['participant', 'owner'] as const) {
    for (const name of SERVICES.filter((service) => CALLEES[callee].includes(service))) {
      for (const scope of CALLEE_SCOPES[callee]) {
        const token = await sign({ callee, name, scope, actor: 'ada' });
        const replay = async (at: ServiceName, rpc: string): Promise<void> => {
          const rule = POLICY[rpc];
          const isOwn = rule && 'callee' in rule && rule.callee === callee && rule.calleeScope === scope;
          if (at === name && isOwn) return;
          const code = (await bareCall(stack, `/${rpc}`, purge, token, at))?.code as number;
          replays += 1;
          t.true([Code.Unauthenticated, Code.PermissionDenied].includes(code), `${scope} of ${name}: ${at} ${rpc}`);
        };
        for (const at of SERVICES) await Promise.all(rpcsOf(at).map((rpc) => replay(at, rpc)));
      }
    }
  }
  t.log(`${replays} replays`);
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
      for (const call of [
        participant.preview({ runId }),
        participant.verify({ runId }),
        participant.checkAction({ runId, action: 'create-job' }),
      ])
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
