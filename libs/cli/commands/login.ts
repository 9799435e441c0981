import { resolve } from 'node:path';
import type { Command } from 'commander';
import { decodeJwt } from 'jose';
import { readSigningKey } from '#libs/auth/keys.ts';
import { type Addresses, SERVICE_NAMES } from '#libs/client/services.ts';
import type { ClientTlsFiles } from '#libs/grpc/tls.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { type GlobalOptions, isJson } from '../global-options.ts';
import { toJson, toSecond } from '../output.ts';
import { profileName, readProfiles, type StoredProfile, writeProfiles } from '../profiles.ts';
import { parseToken } from '../session.ts';
import { toLine } from '../table.ts';
import type { Terminal } from '../terminal.ts';
import { UsageError } from '../usage-error.ts';

type AddressOptions = Addresses;

const ADDRESS_HELP = 'host:port, or a grpc target such as dns:///run.lethe.svc:7401';

/** `lethe login`: keeps a profile, and uses it from then on. What it does not name stays as the profile had it. */
export function addLoginCommand(program: Command, terminal: Terminal): void {
  addExamples(
    program
      .command('login [name]')
      .description(
        'keep a profile: where the services are, and a token, read from standard input or asked for, or --key',
      )
      .option('--run <address>', `where RunService is; ${ADDRESS_HELP}`)
      .option('--job <address>', 'where JobService is')
      .option('--incident <address>', 'where IncidentService is')
      .option('--retention <address>', 'where RetentionService is')
      .action(async (name: string | undefined, addresses: AddressOptions) => {
        const options = program.opts<GlobalOptions>();
        const kept = await login(terminal, profileName(name ?? 'default'), options, addresses);
        const told = `${kept.name} is in use: ${kept.who}. \`lethe doctor\` tries it.`;
        terminal.out(isJson(options) ? toJson(kept) : told);
      }),
    'lethe login prod --run run.example.com:443 --job job.example.com:443 --tls-ca system < token',
    'lethe --key operator.json --as ada login staging --run 10.0.0.7:7401 --retention 10.0.0.7:7404',
  );
}

async function login(terminal: Terminal, name: string, options: GlobalOptions, addresses: AddressOptions) {
  const { configFolder, env } = terminal;
  const before = await readProfiles(configFolder);
  const kept = before.profiles[name] ?? {};
  const where = addressesOf(addresses, env, kept.addresses);
  const tls = tlsOf(options, kept.tls);
  const by = options.key === undefined ? await byToken(terminal, options) : await byKey(options, options.key);
  const issuer = env['LETHE_JWT_ISSUER'] || kept.issuer;
  const audience = env['LETHE_JWT_AUDIENCE'] || kept.audience;
  const profile: StoredProfile = {
    addresses: where,
    ...by.kept,
    ...(tls ? { tls } : {}),
    ...(issuer ? { issuer } : {}),
    ...(audience ? { audience } : {}),
  };
  await writeProfiles(configFolder, { current: name, profiles: { ...before.profiles, [name]: profile } });
  return { name, who: by.who, addresses: where };
}

function addressesOf(given: AddressOptions, env: Terminal['env'], before: Addresses = {}): Addresses {
  const found = SERVICE_NAMES.flatMap((name) => {
    const address = given[name] ?? (env[`LETHE_${name.toUpperCase()}_ADDRESS`] || before[name]);
    return address ? [[name, address] as const] : [];
  });
  if (found.length > 0) return Object.fromEntries(found);
  throw new UsageError('say where the services are: --run, --job, --incident and --retention, each with host:port');
}

interface SignIn {
  readonly kept: StoredProfile;
  readonly who: string;
}

async function byKey({ tenant, role, as: actor }: GlobalOptions, key: string): Promise<SignIn> {
  const keyFile = resolve(key);
  await readSigningKey(keyFile).catch((error: Error) => {
    throw new UsageError(error.message);
  });
  const kept = { keyFile, ...defined({ tenant, role, actor }) };
  return { kept, who: `tokens are signed with ${keyFile}` };
}

async function byToken(terminal: Terminal, options: GlobalOptions): Promise<SignIn> {
  for (const name of ['tenant', 'role', 'as'] as const) {
    if (options[name] !== undefined) throw new UsageError(`a token says who acts; --${name} needs --key`);
  }
  const text = terminal.isInteractive ? await terminal.askSecret('Token:') : await readAll(terminal.input);
  const token = parseToken('what was given', text);
  return { kept: { token }, who: whoIn(token) };
}

const MAX_TOKEN = 65_536;

async function readAll(input: AsyncIterable<Uint8Array>): Promise<string> {
  let text = '';
  for await (const bytes of input) {
    text += Buffer.from(bytes).toString('latin1');
    if (text.length > MAX_TOKEN) throw new UsageError('standard input holds no token');
  }
  return text;
}

/** Whom a token is for and until when, in a sentence; a UsageError where that is over. */
function whoIn(token: string): string {
  let claims: ReturnType<typeof decodeJwt>;
  try {
    claims = decodeJwt(token);
  } catch {
    return 'by a token';
  }
  const { sub = 'somebody', exp } = claims;
  if (exp === undefined) return toLine(`as ${sub}`);
  const until = toSecond(new Date(exp * 1_000));
  if (exp * 1_000 <= Date.now()) {
    throw new UsageError(`the token expired at ${until}; get a new one`);
  }
  return toLine(`as ${sub} until ${until}`);
}

function tlsOf(
  { tlsCa, tlsCert, tlsKey }: GlobalOptions,
  before: Partial<ClientTlsFiles> = {},
): Partial<ClientTlsFiles> | undefined {
  if ((tlsCert === undefined) !== (tlsKey === undefined)) throw new UsageError('--tls-cert and --tls-key go together');
  const ca = tlsCa === undefined ? before.ca : tlsCa === 'system' ? tlsCa : resolve(tlsCa);
  if (ca === undefined && tlsCert !== undefined) throw new UsageError('--tls-cert and --tls-key need --tls-ca');
  if (ca === undefined) return undefined;
  const own = tlsCert === undefined || tlsKey === undefined ? {} : { cert: resolve(tlsCert), key: resolve(tlsKey) };
  return { ...before, ca, ...own };
}
