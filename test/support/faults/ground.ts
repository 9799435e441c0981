import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import { ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { type S3Front, startS3Front } from '#test/support/s3-front.ts';
import { makeTcpGate, type TcpGate } from '#test/support/tcp-gate.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import { DATABASE_NAME } from './preload.ts';

/** Two calls of a service that nobody makes again by himself. */
export interface Probe {
  read(): Promise<unknown>;
  write(): Promise<unknown>;
}

/** A stack all of whose ways to what it stands on can be broken, one by one. */
export interface Ground {
  readonly stack: TestStack;
  /** The way of every service to its database. */
  readonly database: TcpGate;
  /** The ways from RunService to its participants and from RetentionService to its owners. */
  readonly peers: Readonly<Record<Peer, TcpGate>>;
  /** The way of JobService to its object store; undefined where no S3 server was found: it has a folder then. */
  readonly objects: S3Front | undefined;
  readonly probes: Readonly<Record<ServiceName, Probe>>;
  /** A download and an upload. */
  readonly objectProbe: Probe;
  /** As the superuser, past every gate. */
  sql<Row>(service: ServiceName, text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** Opens every gate. */
  openAll(): void;
  /** Starts a service anew, with these settings over those it had at first. */
  restart(service: ServiceName, env?: Readonly<Record<string, string>>): Promise<void>;
  /** Whether the database's name is known. */
  nameDatabase(isKnown: boolean): Promise<void>;
  dispose(): Promise<void>;
}

/** A service as another one's neighbour. */
export type Peer = 'participant job' | 'participant incident' | 'owner incident' | 'owner run';
/** All of them. */
export const PEERS = ['participant job', 'participant incident', 'owner incident', 'owner run'] as const;
const BUCKET = 'faults';
const STATEMENT_MS = 1_000;
const PROBE_DEADLINE_MS = 20_000;
/** Who makes the probes' calls. */
const TENANT = 'prober';

/** The settings of a service that is started with a wrong clock; none: its clock is right again. */
export const withClock = (aheadMs: number) => ({ FAULT_CLOCK_MS: String(aheadMs) });

/** Starts it; every gate is open. */
export async function layGround(): Promise<Ground> {
  const [database, ...gates] = await Promise.all([makeTcpGate(), ...PEERS.map(() => makeTcpGate())]);
  const peers = Object.fromEntries(PEERS.map((peer, index) => [peer, gates[index]])) as Record<Peer, TcpGate>;
  const addressOf = (peer: Peer) => `${peer.split(' ')[1]}=${peers[peer].address}`;
  let gateway: CephGateway | undefined;
  let objects: S3Front | undefined;
  if (hasCeph()) {
    gateway = await startCephGateway();
    await gateway.createBucket(BUCKET, { versioned: true });
    objects = await startS3Front(gateway.endpoint);
  }
  const stack = await startTestStack({
    env: {
      LETHE_STATEMENT_TIMEOUT_MS: String(STATEMENT_MS),
      LETHE_LOCK_TIMEOUT_MS: String(STATEMENT_MS / 2),
      LETHE_DELETION_BACKOFF_MS: '100',
      LETHE_DELETION_BACKOFF_MAX_MS: '1000',
      LETHE_DELETION_LEASE_MS: '3000',
      LETHE_BULK_LEASE_MS: '3000',
      LETHE_RUN_LEASE_MS: '3000',
      LETHE_RUN_ATTEMPTS: '1000',
      LETHE_RUN_BACKOFF_MAX_MS: '1000',
      LETHE_OWNER_TIMEOUT_MS: '2000',
      LETHE_PARTICIPANT_TIMEOUT_MS: '3000',
    },
    envOf: {
      run: { LETHE_PARTICIPANTS: [addressOf('participant job'), addressOf('participant incident')].join() },
      retention: { LETHE_RETENTION_OWNERS: [addressOf('owner incident'), addressOf('owner run')].join() },
      job: gateway && objects ? { ...gateway.environment(BUCKET), LETHE_S3_ENDPOINT: objects.endpoint } : {},
    },
  });
  const nameFile = join(stack.folder, 'database-is-known');
  const openAll = (): void => {
    database.open(new URL(stack.superuserUrl('run')).host);
    for (const peer of PEERS) peers[peer].open(stack.addresses[peer.split(' ')[1] as ServiceName]);
    objects?.behave();
  };
  const nameDatabase = (isKnown: boolean): Promise<void> =>
    isKnown ? writeFile(nameFile, '') : rm(nameFile, { force: true });
  const preload = fileURLToPath(new URL('preload.ts', import.meta.url));
  const settingsOf = (name: ServiceName) => {
    const url = new URL(stack.environment(name)['LETHE_DATABASE_URL'] ?? '');
    url.host = `${DATABASE_NAME}:${database.address.split(':')[1]}`;
    return { LETHE_DATABASE_URL: url.toString(), NODE_OPTIONS: `--import ${preload}`, FAULT_NAME_FILE: nameFile };
  };
  openAll();
  await nameDatabase(true);
  const connections: Connection[] = [];
  const to = (name: ServiceName): Connection => {
    const token = () => stack.token({ role: 'admin', tenantId: TENANT });
    const address = stack.addresses[name];
    const connection = connect({ address, token, retries: false, deadlineMs: PROBE_DEADLINE_MS });
    connections.push(connection);
    return connection;
  };
  const ground: Ground = {
    stack,
    database,
    peers,
    objects,
    probes: makeProbes(to),
    objectProbe: await makeObjectProbe(stack, to('job').client(JobService)),
    sql: (service, text, values) => queryOnce(stack.superuserUrl(service), text, values),
    openAll,
    restart: (name, env = {}) => stack.restart(name, { ...settingsOf(name), ...env }),
    nameDatabase,
    async dispose() {
      for (const connection of connections) connection.close();
      await stack.dispose();
      await Promise.all([database, ...gates].map((gate) => gate?.close()));
      objects?.close();
      await gateway?.stop();
    },
  };
  await Promise.all(SERVICE_NAMES.map((name) => ground.restart(name)));
  return ground;
}

function makeProbes(to: (name: ServiceName) => Connection): Ground['probes'] {
  const runs = to('run').client(RunService);
  const jobs = to('job').client(JobService);
  const incidents = to('incident').client(IncidentService);
  const retention = to('retention').client(RetentionService);
  let days = 0;
  return {
    run: { read: () => runs.listRuns({}), write: () => runs.createRun({ workflow: 'call' }) },
    job: { read: () => jobs.listJobs({}), write: () => jobs.createJob({}) },
    incident: {
      read: () => incidents.listEnvironments({}),
      write: () => incidents.createEnvironment({ displayName: `production ${crypto.randomUUID()}` }),
    },
    retention: {
      read: () => retention.listExecutionPolicies({}),
      write: () => retention.upsertExecutionPolicy({ retentionDays: (days++ % 300) + 1 }),
    },
  };
}

async function makeObjectProbe(stack: TestStack, jobs: Client<typeof JobService>): Promise<Probe> {
  const ours = stack.clients({ role: 'admin', tenantId: TENANT }).jobs;
  const jobId = (await ours.createJob({})).job?.id ?? '';
  const upload = (to: Client<typeof JobService>, name: string) =>
    uploadArtifact(to, jobId, { kind: ArtifactKind.INPUT, name, contentType: 'a/b', content: Buffer.from('sound') });
  await upload(ours, 'first');
  return {
    async read() {
      for await (const _ of jobs.downloadArtifact({ jobId, kind: ArtifactKind.INPUT, name: 'first' }));
    },
    write: () => upload(jobs, crypto.randomUUID()),
  };
}

/** How a call ended, e.g. `answers`, `UNAVAILABLE READ_ONLY` or `ABORTED CONCURRENT_UPDATE`. */
export async function outcomeOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'answers';
  } catch (error) {
    const refused = ConnectError.from(error);
    const info = refused.findDetails(ErrorInfoSchema)[0];
    const name = (Code[refused.code] ?? '').replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase();
    const why = info?.metadata['fault'] ?? info?.metadata['code'] ?? info?.reason ?? 'by nobody';
    const isPassing = refused.code === Code.Unavailable || refused.code === Code.Aborted;
    const lacksRetryInfo = info && isPassing && refused.findDetails(RetryInfoSchema).length === 0;
    return `${name} ${why}${lacksRetryInfo ? ' without a RetryInfo' : ''}`;
  }
}
