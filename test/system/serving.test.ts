import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import anyTest, { type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { readRunSettings } from '#services/run/config.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack();
});
test.after.always((t) => t.context.stack.dispose());

/** A call by bare grpc-js, past everything of the product's own client. */
function bareCall(stack: TestStack, path: string, request: Buffer, token?: string): Promise<ServiceError | undefined> {
  const client = new Client(stack.addresses.job, credentials.createInsecure());
  const metadata = new Metadata();
  if (token) metadata.set('authorization', `Bearer ${token}`);
  const identity = (bytes: Buffer): Buffer => bytes;
  return new Promise((resolve) => {
    client.makeUnaryRequest(path, identity, identity, request, metadata, { deadline: Date.now() + 10_000 }, (error) => {
      client.close();
      resolve(error ?? undefined);
    });
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
        (await refused()).map(({ actor, targetId, outcome }) => [actor, targetId, outcome]).toSorted(),
        rpcs
          .map(({ contract, method }) => [
            `ada-${method.name}`,
            `${contract.typeName}/${method.name}`,
            contract === RetentionOwnerService ? 'TOKEN_INVALID' : 'SCOPE_MISSING',
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
      const log = await readFile(join(stack.folder, `logs/${name}.log`), 'utf8');
      t.true(log.includes('"credential not believed"') && log.includes('"reason":"TOKEN_INVALID"'));
      t.true(log.includes(`"actor":"ada-ListAuditEntries"`));
      t.false(log.includes('made-up'));
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
    'LETHE_JWKS',
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
