import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { access, chmod, mkdir, readFile, realpath } from 'node:fs/promises';
import { platform } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import { exportJWK, generateKeyPair, type JWK } from 'jose';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { makeKeyPair, readSigningKey } from '#libs/auth/keys.ts';
import { LETHE_KEYS, localUserKey, SUITE_KEY, toTrustFile, type WrittenEntry } from '#libs/auth/lethe-keys.ts';
import { SCOPES } from '#libs/auth/policy.ts';
import { signToken, type TokenIssuer } from '#libs/auth/sign-token.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import type { ClientTlsFiles } from '#libs/grpc/tls.ts';
import type { Role } from '#libs/kernel/caller.ts';
import { type ProvisionedDatabase, provisionDatabase } from '#libs/postgres/provision.ts';
import type { DevelopmentProvider, DevelopmentProviderOptions } from './development-provider.ts';
import { freePort } from './free-port.ts';
import { holdName } from './hold-name.ts';
import { passableByOthers, startPostgresServer } from './postgres-server.ts';
import { replaceFile } from './replace-file.ts';
import { runToEnd, type ServiceProcess, startServiceProcess } from './service-process.ts';
import { trustProvider } from './trust-provider.ts';

/** The four services, each with a database of its own. */
export const SERVICE_NAMES = ['run', 'job', 'incident', 'retention'] as const;

/** One of SERVICE_NAMES. */
export type ServiceName = (typeof SERVICE_NAMES)[number];

/** The programs of a stack, by their paths below the repository. */
export type StackProgram = `services/${ServiceName | 'console/server'}/main.ts`;

/** The file by which a program is started: its own, or a bundle of it. */
export type ProgramFile = (program: StackProgram) => Promise<string>;

const ownFile: ProgramFile = async (program) => program;

/** Hands the sessions of a database server to many clients in turn. */
export interface Pooler {
  /** Where clients reach a database of the server, by the URL that reaches it directly. */
  urlOf(databaseUrl: string): string;
  stop(): Promise<void>;
}

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
  /** Starts a pooler before the database of this URL, through which services reach theirs; directly by default. */
  readonly startPooler?: (superuserUrl: string) => Promise<Pooler>;
  /** By which files its programs are started; their own by default. */
  readonly fileOf?: ProgramFile;
  /** How long the user's tokens may live at most; a day by default. */
  readonly userTokenSeconds?: number;
  /** Services outside of the stack that take part in the deletions of runs, by name: host:port. */
  readonly foreignParticipants?: Readonly<Record<string, string>>;
  /** Services outside of the stack that own data which is purged by age, by name: host:port. */
  readonly foreignOwners?: Readonly<Record<string, string>>;
  /** How the stack's own clients speak TLS, where `env` has its services do so. */
  readonly clientTls?: ClientTlsFiles;
  /** Also start the console, which serves the page and the HTTP APIs; it is not started by default. */
  readonly console?: boolean;
  /** More settings for the console. */
  readonly consoleEnv?: Readonly<Record<string, string>>;
  /** How the provider of the console's sign-in differs from what it is by default. */
  readonly provider?: Pick<DevelopmentProviderOptions, 'people' | 'tokenSeconds' | 'refreshes' | 'moreClaims'>;
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
  /** Where the console is, e.g. `http://127.0.0.1:7405`. Undefined: it was not started. */
  readonly consoleUrl: string | undefined;
  /** The OpenID provider where the sample's people sign in to the console. Undefined: no console was started. */
  readonly provider: DevelopmentProvider | undefined;
  /** Where the file store keeps its objects. */
  readonly objectFolder: string;
  /** The private key that signs the tokens of people and of the platform. */
  readonly userKeyFile: string;
  /** The private key for what the suites of participants and owners have to see refused. */
  readonly suiteKeyFile: string;
  superuserUrl(service: ServiceName): string;
  token(identity: Identity, ttlSeconds?: number): Promise<string>;
  clients(identity: Identity): StackClients;
  pid(service: ServiceName): number | undefined;
  /** Shuts PostgreSQL down, as for maintenance: sessions are ended. */
  stopDatabase(): Promise<void>;
  /** Starts it again, at the same address. */
  startDatabase(): Promise<void>;
  /** What a service is started with, for those who start one more of it. */
  environment(service: ServiceName): Readonly<Record<string, string>>;
  /** Stops a service and starts it with these settings over those it had at first; resolves when it answers. */
  restart(service: ServiceName, env?: Readonly<Record<string, string>>): Promise<void>;
  /** Stops one service, by SIGTERM, until it is restarted; resolves when its process is gone. */
  halt(service: ServiceName): Promise<void>;
  /** Brings a service's database to the schema of this file of its program, whatever runs on it. */
  migrate(service: ServiceName, file: string): Promise<void>;
  /** Stops the services, then the database. Nothing of the stack runs when it resolves. */
  stop(): Promise<void>;
}

const PARTICIPANTS = ['job', 'incident'] as const satisfies readonly ServiceName[];
const OWNERS = ['incident', 'run'] as const satisfies readonly ServiceName[];
const FIRST_PORT = 7_400;
const READY_DEADLINE_MS = 120_000;
const TOKEN_SECONDS = 3_600;
const ISSUER = 'lethe';
const AUDIENCE = 'lethe';

/** Another stack has the folder. */
export class FolderInUseError extends Error {
  override readonly name = 'FolderInUseError';
}

/**
 * Brings up database, keys, schemas and services, and resolves when every service answers. A folder has one stack at a
 * time: FolderInUseError for a second one, which would stop the database of the first.
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const release = await holdFolder(options.folder);
  try {
    const stack = await bringUp(options);
    return { ...stack, stop: () => stack.stop().finally(release) };
  } catch (error) {
    release();
    throw error;
  }
}

/** Takes the folder for this process, and answers how to give it back. */
async function holdFolder(folder: string): Promise<() => void> {
  await mkdir(folder, { recursive: true });
  if (platform() !== 'linux') return () => undefined;
  const hash = createHash('sha256')
    .update(await realpath(folder))
    .digest('hex');
  const release = await holdName(`stack-${hash}`);
  if (release) return release;
  throw new FolderInUseError(
    `A stack already runs in ${folder}. Use it, or stop it by Ctrl-C where it was started. ` +
      'For another one beside it set LETHE_LOCAL_FOLDER to another folder.',
  );
}

async function bringUp(options: StackOptions): Promise<Stack> {
  const { folder, throwaway, services = SERVICE_NAMES, isPrepared = false, fileOf = ownFile } = options;
  await mkdir(join(folder, 'logs'), { recursive: true });
  const objectFolder = join(folder, 'objects');
  const ports = await choosePorts(options.ports);
  const providerUrl = options.console ? `http://127.0.0.1:${ports.provider}` : undefined;
  const secrets = await readOrMakeSecrets(join(folder, 'keys'), options.userTokenSeconds, providerUrl);
  const databaseOptions = {
    folder: await databaseFolder(folder),
    port: ports.postgres,
    password: secrets.superuserPassword,
    throwaway,
  };
  let postgres = await startPostgresServer(databaseOptions);

  const processes = new Map<ServiceName, ServiceProcess>();
  const databases = new Map<ServiceName, ProvisionedDatabase>();
  const environments = new Map<ServiceName, Readonly<Record<string, string>>>();
  const connections = new Map<ServiceName, Connection>();
  let consoleProcess: ServiceProcess | undefined;
  let provider: DevelopmentProvider | undefined;
  let pooler: Pooler | undefined;
  const stop = async (): Promise<void> => {
    for (const connection of connections.values()) connection.close();
    // Those who call stop before those who are called.
    await consoleProcess?.stop();
    await provider?.stop();
    for (const name of ['retention', 'run', 'job', 'incident'] as const) await processes.get(name)?.stop();
    await pooler?.stop();
    await postgres.stop();
  };
  try {
    pooler = await options.startPooler?.(postgres.url);
    const databaseUrlOf = pooler?.urlOf ?? ((url: string) => url);
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
        databases.set(name, database);
        if (!isPrepared) await migrate(await fileOf(programOf(name)), database);
        const databaseUrl = databaseUrlOf(database.appUrl);
        const env = environmentOf(name, { databaseUrl, addresses, ports, secrets, objectFolder, options });
        const logFile = join(folder, 'logs', `${name}.log`);
        environments.set(name, env);
        processes.set(
          name,
          await startServiceProcess({
            name,
            program: await fileOf(programOf(name)),
            env,
            logFile,
            onGivingUp: options.onGivingUp,
          }),
        );
        connections.set(
          name,
          connect({ address: addresses[name], token: () => token({ role: 'platform' }), tls: options.clientTls }),
        );
      }),
    );
    await Promise.all(services.map((name) => waitUntilReady(name, ports.metrics[name], processes, folder)));

    const consoleUrl = options.console ? `http://127.0.0.1:${ports.console}` : undefined;
    if (consoleUrl && providerUrl) {
      // Loaded here, since only this needs it, and a production image does not have it.
      const { startDevelopmentProvider } = await import('./development-provider.ts');
      const key = JSON.parse(await readFile(secrets.providerKeyFile, 'utf8')) as JWK;
      provider = await startDevelopmentProvider({
        isEmbeddedStack: true,
        issuer: providerUrl,
        consoleUrl,
        key,
        ...options.provider,
      });
      consoleProcess = await startServiceProcess({
        name: 'console',
        program: await fileOf('services/console/server/main.ts'),
        env: consoleEnvironment({ addresses, ports, secrets, options, consoleUrl, providerUrl }),
        logFile: join(folder, 'logs', 'console.log'),
        onGivingUp: options.onGivingUp,
      });
      await waitUntilAnswered('console', `${consoleUrl}/ready`, () => consoleProcess?.pid() !== undefined, folder);
    }

    return {
      folder,
      addresses,
      consoleUrl,
      provider,
      objectFolder,
      userKeyFile: secrets.keyFileOf('user'),
      suiteKeyFile: secrets.keyFileOf('suite'),
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
      stopDatabase: () => postgres.stop(),
      async startDatabase() {
        postgres = await startPostgresServer(databaseOptions);
      },
      environment: (service) => environments.get(service) ?? {},
      halt: async (service) => processes.get(service)?.stop(),
      async migrate(service, file) {
        const database = databases.get(service);
        if (!database) throw new Error(`${service} was not started`);
        await migrate(file, database);
      },
      async restart(name, changes = {}) {
        await processes.get(name)?.stop();
        const env = { ...environments.get(name), ...changes };
        const logFile = join(folder, 'logs', `${name}.log`);
        const { onGivingUp } = options;
        processes.set(
          name,
          await startServiceProcess({ name, program: await fileOf(programOf(name)), env, logFile, onGivingUp }),
        );
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
export async function prepareStack(
  folder: string,
  services: readonly ServiceName[],
  fileOf: ProgramFile,
): Promise<void> {
  const secrets = await readOrMakeSecrets(join(folder, 'keys'));
  const postgres = await startPostgresServer({
    folder: join(folder, 'postgres'),
    port: await freePort(),
    password: secrets.superuserPassword,
    throwaway: true,
  });
  try {
    await Promise.all(
      services.map(async (name) =>
        migrate(await fileOf(programOf(name)), await provision(name, postgres.url, secrets)),
      ),
    );
  } finally {
    await postgres.stop();
  }
}

const programOf = (name: ServiceName): StackProgram => `services/${name}/main.ts`;

const provision = (name: ServiceName, superuserUrl: string, secrets: Secrets): Promise<ProvisionedDatabase> =>
  provisionDatabase({
    superuserUrl,
    database: `lethe_${name}`,
    ownerPassword: secrets.passwordOf(name, 'owner'),
    appPassword: secrets.passwordOf(name, 'app'),
  });

async function migrate(program: string, { ownerUrl, appRole }: ProvisionedDatabase): Promise<void> {
  const env = { LETHE_DATABASE_OWNER_URL: ownerUrl, LETHE_DATABASE_APP_ROLE: appRole };
  await runToEnd([program, 'migrate'], env);
}

interface Ports {
  readonly postgres: number;
  readonly grpc: Readonly<Record<ServiceName, number>>;
  readonly metrics: Readonly<Record<ServiceName, number>>;
  readonly console: number;
  readonly consoleMetrics: number;
  readonly provider: number;
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
  const consolePort = await next(FIRST_PORT + 1 + SERVICE_NAMES.length);
  const consoleMetrics = await next(FIRST_PORT + 11 + SERVICE_NAMES.length);
  const provider = await next(FIRST_PORT + 2 + SERVICE_NAMES.length);
  return {
    postgres,
    grpc: grpc as Ports['grpc'],
    metrics: metrics as Ports['metrics'],
    console: consolePort,
    consoleMetrics,
    provider,
  };
}

interface Secrets {
  readonly superuserPassword: string;
  readonly trustFile: string;
  /** The private key of the development provider. */
  readonly providerKeyFile: string;
  /** What seals the console's cookies. */
  readonly sessionKeyFile: string;
  keyFileOf(name: Signer): string;
  passwordOf(service: ServiceName, role: 'owner' | 'app'): string;
}

/** Who signs in the local stack: its user, the two services that call others, and the suites for such services. */
const SIGNERS = ['user', 'run', 'retention', 'suite'] as const;
type Signer = (typeof SIGNERS)[number];
const USER_TOKEN_SECONDS = 86_400;

/**
 * Makes keys and passwords once and keeps them, readable for their owner only. The trust file says what each key may
 * sign; `providerUrl` is the issuer of the development provider, if there is one.
 */
async function readOrMakeSecrets(
  folder: string,
  longestSeconds = USER_TOKEN_SECONDS,
  providerUrl?: string,
): Promise<Secrets> {
  await mkdir(folder, { recursive: true });
  const trustFile = join(folder, 'trust.json');
  const passwordFile = join(folder, 'postgres-password');
  const providerKeyFile = join(folder, 'provider.private.json');
  const sessionKeyFile = join(folder, 'console-session-key');
  const keyFileOf = (name: Signer): string => join(folder, `${name}.private.json`);
  const makeOnce = async (path: string, make: () => Promise<string>): Promise<void> => {
    if (!(await exists(path))) await replaceFile(path, await make());
  };
  for (const name of SIGNERS) {
    await makeOnce(keyFileOf(name), async () => JSON.stringify((await makeKeyPair()).privateJwk));
  }
  await makeOnce(passwordFile, async () => randomBytes(24).toString('hex'));
  await makeOnce(sessionKeyFile, async () => randomBytes(32).toString('base64'));
  await makeOnce(providerKeyFile, async () => {
    const { privateKey } = await generateKeyPair('ES256', { extractable: true });
    return JSON.stringify({ ...(await exportJWK(privateKey)), kid: randomUUID(), alg: 'ES256', use: 'sig' });
  });
  const allowed = { ...LETHE_KEYS, user: localUserKey(longestSeconds), suite: SUITE_KEY };
  const entries: WrittenEntry[] = [];
  for (const name of SIGNERS) {
    const { d: _, ...publicJwk } = JSON.parse(await readFile(keyFileOf(name), 'utf8')) as JWK;
    const jwks = { keys: [publicJwk] };
    entries.push({ name, issuer: ISSUER, jwks, allow: allowed[name] });
    // For services of other makers, which believe the one that calls them.
    if (name === 'run' || name === 'retention')
      await replaceFile(join(folder, `${name}.jwks.json`), JSON.stringify(jwks), 0o644);
  }
  // An entry that was added by hand would be lost; a folder from before there were trust files gets one.
  if (!(await exists(trustFile)) || longestSeconds !== USER_TOKEN_SECONDS)
    await replaceFile(trustFile, toTrustFile(entries), 0o644);
  if (providerUrl !== undefined) await trustProvider(trustFile, { issuer: providerUrl, keyFile: providerKeyFile });
  const superuserPassword = await readFile(passwordFile, 'utf8');
  const passwordOf = (service: ServiceName, role: 'owner' | 'app'): string =>
    createHash('sha256').update(`${superuserPassword}:${service}:${role}`).digest('hex');
  return { superuserPassword, trustFile, providerKeyFile, sessionKeyFile, keyFileOf, passwordOf };
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
    databaseUrl: string;
    addresses: Record<ServiceName, string>;
    ports: Ports;
    secrets: Secrets;
    objectFolder: string;
    options: StackOptions;
  },
): Record<string, string> {
  const { databaseUrl, addresses, ports, secrets, objectFolder, options } = given;
  const started = { addresses, ...(options.services ? { services: options.services } : {}) };
  return {
    LETHE_GRPC_ADDRESS: addresses[name],
    LETHE_METRICS_ADDRESS: `127.0.0.1:${ports.metrics[name]}`,
    LETHE_DATABASE_URL: databaseUrl,
    LETHE_TRUST_FILE: secrets.trustFile,
    LETHE_JWT_ISSUER: ISSUER,
    ...(name === 'run' || name === 'retention' ? { LETHE_SERVICE_KEY: secrets.keyFileOf(name) } : {}),
    LETHE_RUN_ADDRESS: addresses.run,
    LETHE_JOB_ADDRESS: addresses.job,
    LETHE_INCIDENT_ADDRESS: addresses.incident,
    LETHE_RETENTION_ADDRESS: addresses.retention,
    LETHE_OBJECT_STORE: 'file',
    LETHE_FILE_STORE_ROOT: objectFolder,
    LETHE_PARTICIPANTS: listOf(PARTICIPANTS, options.foreignParticipants, started),
    LETHE_RETENTION_OWNERS: listOf(OWNERS, options.foreignOwners, started),
    LETHE_POLL_MS: '100',
    LETHE_CATALOGUE_POLL_MS: '1000',
    ...options.env,
    ...options.envOf?.[name],
  };
}

/** What the console is started with. */
function consoleEnvironment(given: {
  addresses: Record<ServiceName, string>;
  ports: Ports;
  secrets: Secrets;
  options: StackOptions;
  consoleUrl: string;
  providerUrl: string;
}): Record<string, string> {
  const { addresses, ports, secrets, options, consoleUrl, providerUrl } = given;
  const { clientTls } = options;
  return {
    LETHE_HTTP_ADDRESS: `127.0.0.1:${ports.console}`,
    LETHE_METRICS_ADDRESS: `127.0.0.1:${ports.consoleMetrics}`,
    LETHE_CONSOLE_URL: consoleUrl,
    LETHE_DEVELOPMENT_SIGN_IN: 'on',
    LETHE_OIDC_ISSUER: providerUrl,
    LETHE_OIDC_CLIENT_ID: 'lethe-console',
    LETHE_OIDC_SCOPE: ['openid', ...SCOPES].join(' '),
    LETHE_SESSION_KEY_FILE: secrets.sessionKeyFile,
    LETHE_RUN_ADDRESS: addresses.run,
    LETHE_JOB_ADDRESS: addresses.job,
    LETHE_INCIDENT_ADDRESS: addresses.incident,
    LETHE_RETENTION_ADDRESS: addresses.retention,
    ...(clientTls ? { LETHE_TLS_CA: clientTls.ca } : {}),
    ...(clientTls?.cert && clientTls.key
      ? { LETHE_TLS_CLIENT_CERT: clientTls.cert, LETHE_TLS_CLIENT_KEY: clientTls.key }
      : {}),
    ...options.consoleEnv,
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
const waitUntilReady = (
  name: ServiceName,
  metricsPort: number,
  processes: ReadonlyMap<ServiceName, ServiceProcess>,
  folder: string,
): Promise<void> => waitUntilAnswered(name, `http://127.0.0.1:${metricsPort}/ready`, () => processes.has(name), folder);

/** Waits until a URL is answered well; throws with the end of the service's log when it is not, or is not started. */
async function waitUntilAnswered(name: string, url: string, isStarted: () => boolean, folder: string): Promise<void> {
  const deadline = Date.now() + READY_DEADLINE_MS;
  for (;;) {
    const answered = await fetch(url).then(
      (response) => response.ok,
      () => false,
    );
    if (answered) return;
    if (Date.now() > deadline || !isStarted()) {
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
