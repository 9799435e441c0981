import { createHash, randomBytes } from 'node:crypto';
import { access, chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { makeKeyPair, readSigningKey } from '#libs/auth/keys.ts';
import { SCOPES } from '#libs/auth/policy.ts';
import { signToken, type TokenIssuer } from '#libs/auth/sign-token.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import type { Role } from '#libs/kernel/caller.ts';
import { type ProvisionedDatabase, provisionDatabase } from '#libs/postgres/provision.ts';
import { freePort } from './free-port.ts';
import { passableByOthers, startPostgresServer } from './postgres-server.ts';
import { runToEnd, type ServiceProcess, startServiceProcess } from './service-process.ts';

/** The four services, each with a database of its own. */
export const SERVICE_NAMES = ['run', 'job', 'incident', 'retention'] as const;

/** One of SERVICE_NAMES. */
export type ServiceName = (typeof SERVICE_NAMES)[number];

/** How the stack is brought up. */
export interface StackOptions {
  /** Everything that survives a restart is below it. */
  readonly folder: string;
  /** Data that nobody will miss: the database does without fsync. */
  readonly throwaway: boolean;
  /** Addresses that stay the same from one start to the next, as far as they are free; or any free ones. */
  readonly ports: 'fixed' | 'free';
  readonly onGivingUp: (service: string) => void;
  /** More settings for every service, or for one. */
  readonly env?: Readonly<Record<string, string>>;
  readonly envOf?: Partial<Readonly<Record<ServiceName, Readonly<Record<string, string>>>>>;
  /** Which services to start; all of them by default. */
  readonly services?: readonly ServiceName[];
  /** The databases in the folder were brought to the newest schema by `prepareStack`: nothing is migrated. */
  readonly isPrepared?: boolean;
  /** Services outside of the stack that take part in the deletions of runs, by name: host:port. */
  readonly foreignParticipants?: Readonly<Record<string, string>>;
  /** Services outside of the stack that own data which is purged by age, by name: host:port. */
  readonly foreignOwners?: Readonly<Record<string, string>>;
}

/** Who calls. */
export interface Identity {
  readonly role: Role;
  readonly tenantId?: string;
  readonly subject?: string;
  /** All scopes by default. */
  readonly scopes?: readonly string[];
}

/** Typed clients of all services, with one identity. */
export interface StackClients {
  readonly runs: Client<typeof RunService>;
  readonly jobs: Client<typeof JobService>;
  readonly incidents: Client<typeof IncidentService>;
  readonly retention: Client<typeof RetentionService>;
}

/** A running stack. */
export interface Stack {
  readonly folder: string;
  readonly addresses: Readonly<Record<ServiceName, string>>;
  /** Where the file store keeps its objects. */
  readonly objectFolder: string;
  /** The private key that signs the tokens of people and of the platform. */
  readonly userKeyFile: string;
  superuserUrl(service: ServiceName): string;
  token(identity: Identity, ttlSeconds?: number): Promise<string>;
  clients(identity: Identity): StackClients;
  pid(service: ServiceName): number | undefined;
  /** What a service is started with, for those who start one more of it. */
  environment(service: ServiceName): Readonly<Record<string, string>>;
  /** Stops a service and starts it with these settings over those it had at first; resolves when it answers. */
  restart(service: ServiceName, env?: Readonly<Record<string, string>>): Promise<void>;
  /** Stops the services, then the database. Nothing of the stack runs when it resolves. */
  stop(): Promise<void>;
}

const PARTICIPANTS = ['job', 'incident'] as const satisfies readonly ServiceName[];
const OWNERS = ['incident', 'run'] as const satisfies readonly ServiceName[];
const FIRST_PORT = 7_400;
const READY_DEADLINE_MS = 30_000;
const TOKEN_SECONDS = 3_600;
const ISSUER = 'lethe';
const AUDIENCE = 'lethe';

/** Brings up database, keys, schemas and services, and resolves when every service answers. */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { folder, throwaway, services = SERVICE_NAMES, isPrepared = false } = options;
  await mkdir(join(folder, 'logs'), { recursive: true });
  const objectFolder = join(folder, 'objects');
  const secrets = await readOrMakeSecrets(join(folder, 'keys'));
  const ports = await choosePorts(options.ports);
  const postgres = await startPostgresServer({
    folder: await databaseFolder(folder),
    port: ports.postgres,
    password: secrets.superuserPassword,
    throwaway,
  });

  const processes = new Map<ServiceName, ServiceProcess>();
  const environments = new Map<ServiceName, Readonly<Record<string, string>>>();
  const connections = new Map<ServiceName, Connection>();
  const stop = async (): Promise<void> => {
    for (const connection of connections.values()) connection.close();
    // Those who call stop before those who are called.
    for (const name of ['retention', 'run', 'job', 'incident'] as const) await processes.get(name)?.stop();
    await postgres.stop();
  };
  try {
    const addresses = Object.fromEntries(
      SERVICE_NAMES.map((name) => [name, `127.0.0.1:${ports.grpc[name]}`]),
    ) as Record<ServiceName, string>;
    const issuer: TokenIssuer = {
      key: await readSigningKey(secrets.keyFileOf('user')),
      issuer: ISSUER,
      audience: AUDIENCE,
    };
    const token = (
      { role, tenantId, subject = `${role}@${tenantId ?? 'platform'}`, scopes = SCOPES }: Identity,
      ttlSeconds = TOKEN_SECONDS,
    ) => signToken(issuer, { role, tenantId, subject, scopes }, ttlSeconds);

    await Promise.all(
      services.map(async (name) => {
        const database = await provision(name, postgres.url, secrets);
        if (!isPrepared) await migrate(name, database);
        const env = environmentOf(name, { database, addresses, ports, secrets, objectFolder, options });
        const logFile = join(folder, 'logs', `${name}.log`);
        environments.set(name, env);
        processes.set(
          name,
          await startServiceProcess({ name, program: programOf(name), env, logFile, onGivingUp: options.onGivingUp }),
        );
        connections.set(name, connect({ address: addresses[name], token: () => token({ role: 'platform' }) }));
      }),
    );
    await Promise.all(services.map((name) => waitUntilReady(name, ports.metrics[name], processes, folder)));

    return {
      folder,
      addresses,
      objectFolder,
      userKeyFile: secrets.keyFileOf('user'),
      superuserUrl: (service) => postgres.url.replace(/\/postgres$/, `/lethe_${service}`),
      token,
      clients(identity) {
        let current: { token: Promise<string>; until: number } | undefined;
        const ownToken = () => {
          if (!current || current.until < performance.now()) {
            current = { token: token(identity), until: performance.now() + (TOKEN_SECONDS * 1_000) / 2 };
          }
          return current.token;
        };
        const connectionOf = (name: ServiceName): Connection => {
          const connection = connections.get(name);
          if (!connection) throw new Error(`${name} was not started`);
          return connection;
        };
        return {
          get runs() {
            return connectionOf('run').client(RunService, ownToken);
          },
          get jobs() {
            return connectionOf('job').client(JobService, ownToken);
          },
          get incidents() {
            return connectionOf('incident').client(IncidentService, ownToken);
          },
          get retention() {
            return connectionOf('retention').client(RetentionService, ownToken);
          },
        };
      },
      pid: (service) => processes.get(service)?.pid(),
      environment: (service) => environments.get(service) ?? {},
      async restart(name, changes = {}) {
        await processes.get(name)?.stop();
        const env = { ...environments.get(name), ...changes };
        const logFile = join(folder, 'logs', `${name}.log`);
        const { onGivingUp } = options;
        processes.set(name, await startServiceProcess({ name, program: programOf(name), env, logFile, onGivingUp }));
        await waitUntilReady(name, ports.metrics[name], processes, folder);
        const connection = connections.get(name);
        if (connection) await waitUntilConnected(name, connection);
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Makes keys and the services' databases in a folder, migrated, for throwaway stacks that start in copies of it. */
export async function prepareStack(folder: string, services: readonly ServiceName[]): Promise<void> {
  const secrets = await readOrMakeSecrets(join(folder, 'keys'));
  const postgres = await startPostgresServer({
    folder: join(folder, 'postgres'),
    port: await freePort(),
    password: secrets.superuserPassword,
    throwaway: true,
  });
  try {
    await Promise.all(services.map(async (name) => migrate(name, await provision(name, postgres.url, secrets))));
  } finally {
    await postgres.stop();
  }
}

const programOf = (name: ServiceName): string => `services/${name}/main.ts`;

const provision = (name: ServiceName, superuserUrl: string, secrets: Secrets): Promise<ProvisionedDatabase> =>
  provisionDatabase({
    superuserUrl,
    database: `lethe_${name}`,
    ownerPassword: secrets.passwordOf(name, 'owner'),
    appPassword: secrets.passwordOf(name, 'app'),
  });

const migrate = (name: ServiceName, { ownerUrl, appRole }: ProvisionedDatabase): Promise<void> =>
  runToEnd([programOf(name), 'migrate'], { LETHE_DATABASE_OWNER_URL: ownerUrl, LETHE_DATABASE_APP_ROLE: appRole });

interface Ports {
  readonly postgres: number;
  readonly grpc: Readonly<Record<ServiceName, number>>;
  readonly metrics: Readonly<Record<ServiceName, number>>;
}

async function choosePorts(kind: 'fixed' | 'free'): Promise<Ports> {
  // In sequence: two look-ups at once could find the same port.
  const taken: number[] = [];
  const next = async (wanted: number): Promise<number> => {
    const port = await freePort({ ...(kind === 'fixed' ? { wanted } : {}), exclude: taken });
    taken.push(port);
    return port;
  };
  const postgres = await next(FIRST_PORT);
  const grpc: Partial<Record<ServiceName, number>> = {};
  const metrics: Partial<Record<ServiceName, number>> = {};
  for (const [index, name] of SERVICE_NAMES.entries()) {
    grpc[name] = await next(FIRST_PORT + 1 + index);
    metrics[name] = await next(FIRST_PORT + 11 + index);
  }
  return { postgres, grpc: grpc as Ports['grpc'], metrics: metrics as Ports['metrics'] };
}

interface Secrets {
  readonly superuserPassword: string;
  readonly jwksFile: string;
  keyFileOf(name: ServiceName | 'user'): string;
  passwordOf(service: ServiceName, role: 'owner' | 'app'): string;
}

/** Keys and passwords are made once and kept, readable for their owner only. */
async function readOrMakeSecrets(folder: string): Promise<Secrets> {
  await mkdir(folder, { recursive: true });
  const jwksFile = join(folder, 'jwks.json');
  const passwordFile = join(folder, 'postgres-password');
  const keyFileOf = (name: ServiceName | 'user'): string => join(folder, `${name}.private.json`);
  if (!(await exists(jwksFile))) {
    const keys = [];
    for (const name of ['user', ...SERVICE_NAMES] as const) {
      const { privateJwk, publicJwk } = await makeKeyPair();
      await writeFile(keyFileOf(name), JSON.stringify(privateJwk), { mode: 0o600 });
      keys.push(publicJwk);
    }
    await writeFile(passwordFile, randomBytes(24).toString('hex'), { mode: 0o600 });
    // Last and at once: a start that was cut off before here makes all of them anew.
    await writeFile(`${jwksFile}.new`, JSON.stringify({ keys }));
    await rename(`${jwksFile}.new`, jwksFile);
  }
  const superuserPassword = await readFile(passwordFile, 'utf8');
  const passwordOf = (service: ServiceName, role: 'owner' | 'app'): string =>
    createHash('sha256').update(`${superuserPassword}:${service}:${role}`).digest('hex');
  return { superuserPassword, jwksFile, keyFileOf, passwordOf };
}

/** Below the stack's folder, unless this is root and the server's own user could not get there. */
async function databaseFolder(folder: string): Promise<string> {
  const wanted = join(folder, 'postgres');
  if (process.getuid?.() !== 0 || (await passableByOthers(folder))) return wanted;
  const elsewhere = join('/var/tmp', `lethe-${createHash('sha256').update(folder).digest('hex').slice(0, 12)}`);
  await mkdir(elsewhere, { recursive: true });
  await chmod(elsewhere, 0o755);
  return elsewhere;
}

function environmentOf(
  name: ServiceName,
  given: {
    database: ProvisionedDatabase;
    addresses: Record<ServiceName, string>;
    ports: Ports;
    secrets: Secrets;
    objectFolder: string;
    options: StackOptions;
  },
): Record<string, string> {
  const { database, addresses, ports, secrets, objectFolder, options } = given;
  const started = { addresses, ...(options.services ? { services: options.services } : {}) };
  return {
    LETHE_GRPC_ADDRESS: addresses[name],
    LETHE_METRICS_ADDRESS: `127.0.0.1:${ports.metrics[name]}`,
    LETHE_DATABASE_URL: database.appUrl,
    LETHE_JWKS: secrets.jwksFile,
    LETHE_JWT_ISSUER: ISSUER,
    LETHE_JWT_AUDIENCE: AUDIENCE,
    LETHE_SERVICE_KEY: secrets.keyFileOf(name),
    LETHE_RUN_ADDRESS: addresses.run,
    LETHE_JOB_ADDRESS: addresses.job,
    LETHE_INCIDENT_ADDRESS: addresses.incident,
    LETHE_RETENTION_ADDRESS: addresses.retention,
    LETHE_OBJECT_STORE: 'file',
    LETHE_FILE_STORE_ROOT: objectFolder,
    LETHE_PARTICIPANTS: listOf(PARTICIPANTS, options.foreignParticipants, started),
    LETHE_RETENTION_OWNERS: listOf(OWNERS, options.foreignOwners, started),
    LETHE_POLL_MS: '200',
    LETHE_CATALOGUE_POLL_MS: '1000',
    ...options.env,
    ...options.envOf?.[name],
  };
}

/** The stack's own services among the named ones that are started, then the foreign ones, as `name=host:port,…`. */
function listOf(
  names: readonly ServiceName[],
  foreign: Readonly<Record<string, string>> = {},
  { addresses, services = SERVICE_NAMES }: { addresses: Record<ServiceName, string> } & Pick<StackOptions, 'services'>,
): string {
  const listed = [
    ...names.filter((name) => services.includes(name)).map((name) => [name, addresses[name]] as const),
    ...Object.entries(foreign),
  ];
  // None is no list: where nobody is started, those that are not there are named.
  const all = listed.length > 0 ? listed : names.map((name) => [name, addresses[name]] as const);
  return all.map(([name, address]) => `${name}=${address}`).join(',');
}

/** `/ready` answers well from the moment that a service takes calls. */
async function waitUntilReady(
  name: ServiceName,
  metricsPort: number,
  processes: ReadonlyMap<ServiceName, ServiceProcess>,
  folder: string,
): Promise<void> {
  const deadline = Date.now() + READY_DEADLINE_MS;
  for (;;) {
    const answered = await fetch(`http://127.0.0.1:${metricsPort}/ready`).then(
      (response) => response.ok,
      () => false,
    );
    if (answered) return;
    if (Date.now() > deadline || processes.get(name) === undefined) {
      const log = await readFile(join(folder, 'logs', `${name}.log`), 'utf8').catch(() => '');
      throw new Error(`${name} did not become ready in 30 s: ${log.slice(-2_000)}`);
    }
    await delay(25);
  }
}

/** Waits until the connection has found the service again: any answer of its own will do. */
async function waitUntilConnected(name: ServiceName, connection: Connection): Promise<void> {
  const ask: Readonly<Record<ServiceName, () => Promise<unknown>>> = {
    run: () => connection.client(RunService).getRun({}),
    job: () => connection.client(JobService).getJob({}),
    incident: () => connection.client(IncidentService).getIncident({}),
    retention: () => connection.client(RetentionService).getPurge({}),
  };
  for (const deadline = Date.now() + READY_DEADLINE_MS; Date.now() < deadline; await delay(25)) {
    const code = await ask[name]().then(
      () => undefined,
      (error: unknown) => ConnectError.from(error).code,
    );
    if (code !== Code.Unavailable) return;
  }
  throw new Error(`${name} was not reached in ${READY_DEADLINE_MS} ms`);
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
