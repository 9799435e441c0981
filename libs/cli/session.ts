import { readFile } from 'node:fs/promises';
import { readSigningKey } from '#libs/auth/keys.ts';
import { SCOPES } from '#libs/auth/policy.ts';
import { signToken } from '#libs/auth/sign-token.ts';
import { createLethe, type Lethe } from '#libs/client/lethe.ts';
import type { Role } from '#libs/kernel/caller.ts';

/** What a command can be told on the command line about who calls. */
export interface IdentityOptions {
  readonly profile?: string;
  readonly tenant?: string;
  readonly role?: Role;
  readonly subject?: string;
}

interface Profile {
  readonly addresses: Record<'run' | 'job' | 'incident' | 'retention', string>;
  readonly keyFile?: string;
  readonly issuer: string;
  readonly audience: string;
}

/** A mistake in how the command was called, or what it needs is not set: nothing was sent. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const TOKEN_SECONDS = 300;
const DEFAULT_PROFILE = '.lethe/cli.json';

/**
 * Where the services are and how to sign tokens: LETHE_RUN_ADDRESS and its like, LETHE_SERVICE_KEY for a private key,
 * or else the profile that the local stack writes.
 */
export async function readProfile(path: string | undefined, env: NodeJS.ProcessEnv): Promise<Profile> {
  const file = path ?? DEFAULT_PROFILE;
  const text = await readFile(file, 'utf8').catch(() => undefined);
  if (text === undefined && path !== undefined) throw new UsageError(`the profile ${path} cannot be read`);
  const profile: Partial<Profile> = text === undefined ? {} : JSON.parse(text);
  const addressOf = (name: keyof Profile['addresses']) =>
    env[`LETHE_${name.toUpperCase()}_ADDRESS`] ?? profile.addresses?.[name] ?? '';
  const keyFile = env['LETHE_SERVICE_KEY'] ?? profile.keyFile;
  return {
    addresses: {
      run: addressOf('run'),
      job: addressOf('job'),
      incident: addressOf('incident'),
      retention: addressOf('retention'),
    },
    ...(keyFile === undefined ? {} : { keyFile }),
    issuer: env['LETHE_JWT_ISSUER'] ?? profile.issuer ?? 'lethe',
    audience: env['LETHE_JWT_AUDIENCE'] ?? profile.audience ?? 'lethe',
  };
}

/** Signs a token with the profile's key; a UsageError when there is none. */
export async function mintToken(
  profile: Profile,
  { tenant, role, subject }: IdentityOptions,
  scopes: readonly string[] = SCOPES,
  ttlSeconds = TOKEN_SECONDS,
): Promise<string> {
  if (profile.keyFile === undefined)
    throw new UsageError('set LETHE_TOKEN or LETHE_SERVICE_KEY, or start the local stack');
  const actualRole = role ?? (tenant === undefined ? 'platform' : 'owner');
  const by = { key: await readSigningKey(profile.keyFile), issuer: profile.issuer, audience: profile.audience };
  const claims = { subject: subject ?? process.env['USER'] ?? 'lethe-cli', role: actualRole, scopes, tenantId: tenant };
  return signToken(by, claims, ttlSeconds);
}

/** Opens the SDK as the command's caller: with LETHE_TOKEN where it is set, else with tokens signed by the profile's key. */
export async function openSession(identity: IdentityOptions, env: NodeJS.ProcessEnv): Promise<Lethe> {
  const profile = await readProfile(identity.profile, env);
  const given = env['LETHE_TOKEN'];
  if (given === undefined) await mintToken(profile, identity);
  return createLethe({
    addresses: profile.addresses,
    token: () => (given === undefined ? mintToken(profile, identity) : Promise.resolve(given)),
  });
}
