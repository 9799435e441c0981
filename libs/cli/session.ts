import { readFile } from 'node:fs/promises';
import { decodeJwt } from 'jose';
import { ROLES, readSigningKey } from '#libs/auth/keys.ts';
import { SCOPES } from '#libs/auth/policy.ts';
import { signToken } from '#libs/auth/sign-token.ts';
import { type Addresses, SERVICE_NAMES } from '#libs/client/services.ts';
import type { ClientTlsFiles } from '#libs/grpc/tls.ts';
import { readClientTls } from '#libs/grpc/tls-settings.ts';
import type { Role } from '#libs/kernel/caller.ts';
import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { readProfiles, type StoredProfile } from './profiles.ts';
import type { Terminal } from './terminal.ts';
import { UsageError } from './usage-error.ts';

/** What a command line says about who calls. */
export interface IdentityOptions {
  /** A file with addresses and the path of a key, as the local stack writes it. */
  readonly profile?: string;
  /** A private JWK that signs tokens. */
  readonly key?: string;
  readonly tenant?: string | undefined;
  readonly role?: Role;
  /** Who acts, for the audit. */
  readonly as?: string;
  /** As ClientTlsFiles. */
  readonly tlsCa?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

/** Where the services are, and how tokens are signed. */
export interface Profile {
  readonly addresses: Addresses;
  readonly keyFile: string | undefined;
  /** Who acts where the command line does not say. */
  readonly actor: string | undefined;
  /** How to speak TLS; undefined for plaintext. */
  readonly tls: ClientTlsFiles | undefined;
  /** A token that was kept at a sign-in. */
  readonly token?: string | undefined;
  /** In which tenant and with which role to act where the command line says neither. */
  readonly tenant?: string | undefined;
  readonly role?: Role | undefined;
  /** Where all this is from, for people. */
  readonly origin?: string;
  readonly issuer: string;
  readonly audience: string;
}

/** What a signed token is for. */
export interface TokenOptions {
  readonly scopes?: readonly string[];
  readonly ttlSeconds?: number;
}

const TOKEN_SECONDS = 300;
const TOKEN = /^[\w.~+/=-]+$/;
/** The profile that the local stack writes, below the folder it runs in. */
export const DEFAULT_PROFILE = '.lethe/cli.json';
const MAX_ACTOR = 256;
// Accounts that many people and programs share: they do not say who acts.
const SHARED_ACCOUNTS: ReadonlySet<string> = new Set(['root', 'node', 'nobody']);

/**
 * Where the services are and how to sign: the command line before the environment (LETHE_RUN_ADDRESS and its like,
 * LETHE_SERVICE_KEY, LETHE_ACTOR, LETHE_JWT_ISSUER, LETHE_JWT_AUDIENCE) before the profile: the named one, else that of
 * the local stack in this folder, else the user's current one. A UsageError for a profile that was named and cannot be
 * read, and for one that is no profile.
 */
export async function readProfile(options: IdentityOptions, env: Environment, configFolder?: string): Promise<Profile> {
  const { origin, stored } = await loadProfile(options.profile ?? (env['LETHE_PROFILE'] || undefined), configFolder);
  const keyFile = options.key ?? (env['LETHE_SERVICE_KEY'] || undefined);
  return {
    origin,
    addresses: Object.fromEntries(
      SERVICE_NAMES.map((name) => [name, env[`LETHE_${name.toUpperCase()}_ADDRESS`] || stored.addresses?.[name]]),
    ),
    keyFile: keyFile ?? stored.keyFile,
    token: keyFile === undefined ? stored.token : undefined,
    tenant: stored.tenant,
    role: stored.role,
    actor: env['LETHE_ACTOR'] || stored.actor,
    tls: tlsOf(options, env, stored.tls),
    issuer: env['LETHE_JWT_ISSUER'] || stored.issuer || 'lethe',
    audience: env['LETHE_JWT_AUDIENCE'] || stored.audience || 'lethe',
  };
}

/** As whom to act: what the command line says, and where it says neither tenant nor role what the profile does. */
export function identityOf<T extends IdentityOptions>(options: T, profile: Profile): T {
  if (profile.token !== undefined || options.tenant !== undefined || options.role !== undefined) return options;
  const { tenant, role } = profile;
  return { ...options, ...(tenant === undefined ? {} : { tenant }), ...(role === undefined ? {} : { role }) };
}

/** A file is named by its path, a profile of the user's by its name. */
const isPath = (profile: string): boolean => /[/\\]|\.json$/.test(profile);

async function loadProfile(
  wanted: string | undefined,
  configFolder: string | undefined,
): Promise<{ origin: string; stored: StoredProfile }> {
  if (wanted !== undefined && !isPath(wanted)) {
    const stored = configFolder && (await readProfiles(configFolder)).profiles[wanted];
    if (!stored) throw new UsageError(`there is no profile ${wanted}; \`lethe profiles list\` shows those there are`);
    return { origin: `the profile ${wanted}`, stored };
  }
  const path = wanted ?? DEFAULT_PROFILE;
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text !== undefined) return { origin: path, stored: parseProfile(path, text) };
  if (wanted !== undefined) throw new UsageError(`the profile ${path} cannot be read`);
  const { current, profiles } = configFolder === undefined ? { profiles: {} } : await readProfiles(configFolder);
  const stored = current === undefined ? undefined : profiles[current];
  return stored ? { origin: `the profile ${current}`, stored } : { origin: 'no profile', stored: {} };
}

function tlsOf(
  { tlsCa, tlsCert, tlsKey }: IdentityOptions,
  env: Environment,
  profile: Partial<ClientTlsFiles> = {},
): ClientTlsFiles | undefined {
  const settings = {
    LETHE_TLS_CA: tlsCa ?? (env['LETHE_TLS_CA'] || profile.ca),
    LETHE_TLS_CLIENT_CERT: tlsCert ?? (env['LETHE_TLS_CLIENT_CERT'] || profile.cert),
    LETHE_TLS_CLIENT_KEY: tlsKey ?? (env['LETHE_TLS_CLIENT_KEY'] || profile.key),
  };
  try {
    return readSettings(settings, (reader) => ({ tls: readClientTls(reader) })).tls;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function parseProfile(path: string, text: string): StoredProfile {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value;
  } catch {
    // Told below, without the text.
  }
  throw new UsageError(`the profile ${path} is no JSON object`);
}

/** Asks a person a question; undefined where no terminal is. */
export type Ask = ((question: string) => Promise<string>) | undefined;

/** How to ask in this terminal. */
export const askOf = (terminal: Pick<Terminal, 'isInteractive' | 'ask'>): Ask =>
  terminal.isInteractive ? (question) => terminal.ask(question) : undefined;

/**
 * The person who acts: the command line before LETHE_ACTOR, the profile, the account that runs the command, and whoever
 * answers. A shared account such as root is nobody. A UsageError where nobody is known: the audit never names a tool.
 */
async function actorOf({ actor }: Profile, { as }: IdentityOptions, env: Environment, ask: Ask): Promise<string> {
  const account = [env['USER'], env['LOGNAME']].find((name) => name && !SHARED_ACCOUNTS.has(name));
  const known = as ?? actor ?? account ?? (await ask?.('Who acts? It goes into the audit:'));
  const name = known?.trim() ?? '';
  if (name === '')
    throw new UsageError('say who acts, for the audit: --as NAME, LETHE_ACTOR, or "actor" in the profile');
  if (name.length > MAX_ACTOR) throw new UsageError(`who acts must have at most ${MAX_ACTOR} characters`);
  return name;
}

/** Makes the function that signs tokens; it asks who acts at most once. UsageErrors as of mintToken. */
async function makeMint(profile: Profile, identity: IdentityOptions, env: Environment, ask: Ask) {
  const { keyFile } = profile;
  if (keyFile === undefined) {
    throw new UsageError(
      'nobody is signed in: use `lethe login`, set LETHE_TOKEN, LETHE_TOKEN_FILE or LETHE_SERVICE_KEY, or start the local stack',
    );
  }
  const subject = await actorOf(profile, identity, env, ask);
  return (options: TokenOptions = {}) => sign(profile, keyFile, identity, subject, options);
}

/**
 * Signs a token with the profile's key: as platform, or as the owner of a named tenant, unless a role is given. A
 * UsageError when there is no key that can be used, or nobody who acts.
 */
export async function mintToken(
  profile: Profile,
  identity: IdentityOptions,
  env: Environment,
  ask: Ask,
  options: TokenOptions = {},
): Promise<string> {
  const mint = await makeMint(profile, identity, env, ask);
  return mint(options);
}

async function sign(
  profile: Profile,
  keyFile: string,
  { tenant, role = tenant === undefined ? 'platform' : 'owner' }: IdentityOptions,
  subject: string,
  { scopes = SCOPES, ttlSeconds = TOKEN_SECONDS }: TokenOptions,
): Promise<string> {
  const key = await readSigningKey(keyFile).catch((error: Error) => {
    throw new UsageError(error.message);
  });
  if (tenant === undefined && role !== 'platform' && role !== 'service') {
    throw new UsageError(`the role ${role} is one inside a tenant; add --tenant`);
  }
  const issuer = { key, issuer: profile.issuer, audience: profile.audience };
  return signToken(issuer, { subject, role, scopes, tenantId: tenant }, ttlSeconds);
}

/** Who calls. */
export interface Credential {
  /** The bearer token of the next call. */
  token(): Promise<string>;
  /** The role that it is for; undefined where a given token does not tell. */
  readonly role: Role | undefined;
}

/**
 * Who calls: LETHE_TOKEN, or what is in the file LETHE_TOKEN_FILE at each call, or the profile's token, or tokens signed
 * with the key. A key
 * on the command line comes before all of them. A UsageError when there is none, and when a given token would be
 * contradicted by --tenant, --role or --as: better than to act as somebody else than was meant.
 */
export async function openCredential(
  profile: Profile,
  identity: IdentityOptions,
  env: Environment,
  ask?: Ask,
): Promise<Credential> {
  const given = givenToken(env) ?? keptToken(profile);
  if (given === undefined || identity.key !== undefined) {
    const mint = await makeMint(profile, identity, env, ask);
    const token = await reusing(() => mint());
    return { token, role: roleIn(await token()) };
  }
  const contradicted = (['tenant', 'role', 'as'] as const).find((name) => identity[name] !== undefined);
  if (contradicted) throw new UsageError(`the given token says who calls; --${contradicted} needs a key to sign with`);
  return { token: given, role: roleIn(await given()) };
}

/** The role that a token claims. It only chooses what is asked for: the service verifies the token. */
function roleIn(token: string): Role | undefined {
  try {
    const { role } = decodeJwt(token);
    return ROLES.find((known) => known === role);
  } catch {
    return undefined;
  }
}

function givenToken(env: Environment): (() => Promise<string>) | undefined {
  const { LETHE_TOKEN: token, LETHE_TOKEN_FILE: file } = env;
  if (token) return async () => parseToken('LETHE_TOKEN', token);
  if (!file) return undefined;
  return async () => {
    const text = await readFile(file, 'utf8').catch(() => {
      throw new UsageError('the file that LETHE_TOKEN_FILE names cannot be read');
    });
    return parseToken('the file that LETHE_TOKEN_FILE names', text);
  };
}

function keptToken({ token }: Profile): (() => Promise<string>) | undefined {
  return token === undefined ? undefined : async () => parseToken('the profile', token);
}

/** Reads a token; a UsageError without the text where it is none, since a header that cannot take it would be told. */
export function parseToken(what: string, text: string): string {
  const token = text.trim();
  if (!TOKEN.test(token)) throw new UsageError(`${what} holds no token`);
  return token;
}

/** Signs at once, so that a key that cannot be used is told before anything is sent, and anew after a while. */
async function reusing(mint: () => Promise<string>): Promise<() => Promise<string>> {
  let token = await mint();
  let mintedAt = performance.now();
  return async () => {
    if (performance.now() - mintedAt > (TOKEN_SECONDS * 1_000) / 2) {
      token = await mint();
      mintedAt = performance.now();
    }
    return token;
  };
}
