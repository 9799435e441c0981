import { chmod, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { decodeJwt } from 'jose';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['job'] });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack?.dispose());

test('a token says who calls, for how long and what for', async (t) => {
  const { lethe } = t.context;
  const { out } = await lethe('--tenant', 'acme', '--as', 'ada', 'token', '--ttl', '60', '--scope', 'jobs:read');
  const claims = decodeJwt(out);
  t.like(claims, { sub: 'ada', tenant: 'acme', role: 'owner', scope: 'jobs:read', aud: 'lethe', iss: 'lethe' });
  t.is((claims.exp ?? 0) - (claims.iat ?? 0), 60);
  const platform = decodeJwt(parsedLine((await lethe('--json', 'token')).out).token);
  t.like(platform, { role: 'platform' });
  t.is(platform['tenant'], undefined);
  t.is(decodeJwt((await lethe('--tenant', 'acme', '--role', 'viewer', 'token')).out)['role'], 'viewer');
  for (const args of [
    ['--ttl', '0'],
    ['--ttl', '5d'],
    ['--ttl', '99999999'],
    ['--scope', 'everything'],
  ]) {
    t.is((await lethe('token', ...args)).code, 2, args.join(' '));
  }
  t.is((await lethe('--role', 'god', 'token')).code, 2);
});

test('nobody acts under the name of the tool: who acts is said, known or asked for', async (t) => {
  const { lethe, stack } = t.context;
  const profile = join(stack.folder, 'nameless.json');
  await writeFile(profile, JSON.stringify({ addresses: stack.addresses, keyFile: stack.userKeyFile }));
  const nameless = (env: Record<string, string>, typing?: readonly string[]) => {
    const run = lethe.with({ env, ...(typing ? { typing } : {}) });
    return (...args: string[]) => run('--profile', profile, '--tenant', 'acme', ...args);
  };
  for (const env of [{}, { USER: '' }, { USER: 'root', LOGNAME: 'node' }, { LETHE_ACTOR: ' ' }]) {
    const { code, err, out } = await nameless(env)('token');
    t.deepEqual([code, out], [2, ''], JSON.stringify(env));
    t.is(err, 'error: USAGE: say who acts, for the audit: --as NAME, LETHE_ACTOR, or "actor" in the profile');
    t.is((await nameless(env)('jobs', 'create')).code, 2);
  }
  const subjectOf = async (env: Record<string, string>, args: readonly string[], typing?: readonly string[]) => {
    const { out, asked } = await nameless(env, typing)(...args, 'token');
    return [decodeJwt(out).sub, asked.length];
  };
  t.deepEqual(await subjectOf({ USER: 'ada' }, []), ['ada', 0]);
  t.deepEqual(await subjectOf({ USER: 'root', LOGNAME: 'ada' }, []), ['ada', 0]);
  t.deepEqual(await subjectOf({ USER: 'ada', LETHE_ACTOR: 'night shift' }, []), ['night shift', 0]);
  t.deepEqual(await subjectOf({ LETHE_ACTOR: 'night shift' }, ['--as', 'grace']), ['grace', 0]);
  t.deepEqual(await subjectOf({}, [], ['grace']), ['grace', 1]);
  t.is((await nameless({}, [''])('jobs', 'create')).code, 2);
  // Asked once, however many calls a command makes.
  const { code, asked } = await nameless({}, ['grace'])('jobs', 'list');
  t.deepEqual([code, asked.length], [0, 1]);
  // A given token says who acts.
  const LETHE_TOKEN = await stack.token({ tenantId: 'acme', role: 'member' });
  t.is((await lethe.with({ env: { LETHE_TOKEN } })('--profile', profile, 'jobs', 'list')).code, 0);
});

test('a given token calls as it says, and is never contradicted nor shown', async (t) => {
  const { lethe, stack } = t.context;
  const token = await stack.token({ tenantId: 'given', role: 'member' });
  const given = lethe.with({ env: { LETHE_TOKEN: token } });
  const created = await given('jobs', 'create');
  t.is(created.code, 0, created.err);
  t.is((await lethe('--tenant', 'given', 'jobs', 'get', created.out)).code, 0);
  for (const option of ['--tenant', '--role', '--as']) {
    const contradicted = await given(option, 'owner', 'jobs', 'list');
    t.is(contradicted.code, 2);
    t.regex(contradicted.err, new RegExp(`the given token says who calls; ${option}`));
  }
  const low = await given('jobs', 'delete', created.out, '--yes');
  t.is(low.code, 1);
  t.regex(low.err, /^error: ROLE_TOO_LOW: /);
  const expired = await lethe.with({ env: { LETHE_TOKEN: `${token.slice(0, -4)}AAAA` } })('jobs', 'list');
  t.regex(
    expired.err,
    /^error: TOKEN_INVALID: The bearer token is not valid here\.\nThe service does not trust the key/,
  );
});

test('a token file is read at each call, and one without a token is told without its content', async (t) => {
  const { lethe, stack } = t.context;
  const file = join(stack.folder, 'token');
  await writeFile(file, `${await stack.token({ tenantId: 'filed', role: 'member' })}\n`);
  t.is((await lethe.with({ env: { LETHE_TOKEN_FILE: file } })('jobs', 'list')).code, 0);
  await writeFile(file, 'hunter2 is no token');
  const bad = await lethe.with({ env: { LETHE_TOKEN_FILE: file } })('jobs', 'list');
  t.is(bad.code, 2);
  t.false(bad.err.includes('hunter2'));
  t.is((await lethe.with({ env: { LETHE_TOKEN_FILE: '/no/such/file' } })('jobs', 'list')).code, 2);
  t.is((await lethe.with({ env: { LETHE_TOKEN: 'two words' } })('jobs', 'list')).code, 2);
});

test('a key or a profile that cannot be used is told without its content', async (t) => {
  const { lethe, stack } = t.context;
  const file = join(stack.folder, 'odd.json');
  await writeFile(file, '{"kid": "hunter2"');
  for (const args of [
    ['--key', file, 'jobs', 'list'],
    ['--key', '/no/such/key', 'jobs', 'list'],
    ['--profile', file, 'jobs', 'list'],
    ['--profile', '/no/such/profile', 'jobs', 'list'],
  ]) {
    const { code, err } = await lethe(...args);
    t.is(code, 2, args.join(' '));
    t.false(err.includes('hunter2'));
  }
});

test('a service whose address is not set, or that is not there, is told', async (t) => {
  const { lethe } = t.context;
  const away = lethe.with({ env: { LETHE_JOB_ADDRESS: '127.0.0.1:1' } });
  const gone = await away('--tenant', 'acme', 'jobs', 'list');
  t.is(gone.code, 1);
  t.regex(gone.err, /^error: UNAVAILABLE: The job service at 127\.0\.0\.1:1 does not answer\.\nCheck that it runs/);
  const file = join(t.context.stack.folder, 'keyless.json');
  await writeFile(file, '{"addresses": {}}');
  const key = ['--key', t.context.stack.userKeyFile];
  const nowhere = await lethe('--profile', file, ...key, '--as', 'ada', '--tenant', 'a', 'jobs', 'list');
  t.is(nowhere.code, 2);
  t.regex(nowhere.err, /^error: ADDRESS_MISSING: The address of the job service is not set\.\nSet LETHE_JOB_ADDRESS/);
});

test('profiles are kept where only the user reads them, and used by name or as the current one', async (t) => {
  const { lethe, stack } = t.context;
  const configFolder = join(stack.folder, 'profiles');
  const file = join(configFolder, 'profiles.json');
  const job = stack.addresses.job ?? '';
  const token = await stack.token({ tenantId: 'kept', role: 'member' });
  const bytes = async function* () {
    yield Buffer.from(`${token}\n`);
  };
  const at = (more: object = {}) => lethe.with({ configFolder, ...more });
  t.regex((await at()('profiles', 'list')).out, /^there are none/);
  const kept = await at({ input: bytes() })('login', 'by-token', '--job', job);
  t.is(kept.code, 0, kept.err);
  t.regex(kept.out, /^by-token is in use: as \S+ until /);
  t.is((await stat(file)).mode & 0o777, 0o600);
  t.is((await stat(configFolder)).mode & 0o777, 0o700);
  t.is((await at()('--profile', 'by-token', 'jobs', 'list')).code, 0);
  t.regex((await at()('--profile', 'by-token', '--tenant', 'other', 'jobs', 'list')).err, /--tenant needs a key/);

  const key = ['--key', stack.userKeyFile, '--as', 'grace', '--tenant', 'kept'];
  const typed = await at({ typing: [token] })('login', 'typed', '--job', job);
  t.deepEqual([typed.code, typed.asked], [0, ['Token:']]);
  t.is((await at()(...key, 'login', 'by-key', '--job', job)).code, 0);
  const byKey = await at()('--profile', 'by-key', 'token');
  t.like(decodeJwt(byKey.out), { sub: 'grace', tenant: 'kept' });
  const list = await at()('profiles', 'list');
  t.regex(list.out, /^by-key +yes /m);
  t.regex(list.out, /^by-token +token /m);
  t.false(list.out.includes(token));
  t.is((await at()('profiles', 'use', 'by-token')).code, 0);
  t.regex((await at()('profiles', 'list')).out, /^by-token +yes /m);
  t.is((await at()('profiles', 'remove', 'by-token')).code, 0);
  t.is((await at()('--profile', 'by-token', 'jobs', 'list')).code, 2);
  t.is((await at()('profiles', 'use', 'by-token')).code, 2);

  await chmod(file, 0o644);
  const open = await at()('profiles', 'list');
  t.deepEqual([open.code, /chmod 600/.test(open.err)], [2, true]);
  await chmod(file, 0o600);
  for (const args of [
    ['login', 'Bad Name', '--job', job],
    ['login', 'no-address'],
    ['--tenant', 'x', 'login', 'contradicted', '--job', job],
  ]) {
    t.is((await at({ input: bytes() })(...args)).code, 2, args.join(' '));
  }
  const garbage = async function* () {
    yield Buffer.from('hunter2 is no token');
  };
  const bad = await at({ input: garbage() })('login', 'bad', '--job', job);
  t.deepEqual([bad.code, bad.err.includes('hunter2')], [2, false]);
});

test('another login to a profile keeps what it does not name: addresses, TLS, issuer and audience', async (t) => {
  const { lethe, stack } = t.context;
  const configFolder = join(stack.folder, 'kept-profiles');
  const login = async (env: Record<string, string>, ...args: string[]) => {
    const at = lethe.with({ configFolder, env });
    return await at('--key', stack.userKeyFile, '--as', 'ada', ...args.slice(1), 'login', args[0] ?? '');
  };
  const kept = async () => {
    const { profiles } = JSON.parse(await readFile(join(configFolder, 'profiles.json'), 'utf8'));
    const { tls, issuer, audience, addresses } = profiles.prod;
    return { tls, issuer, audience, addresses };
  };
  const away = {
    LETHE_RUN_ADDRESS: '',
    LETHE_JOB_ADDRESS: '',
    LETHE_INCIDENT_ADDRESS: '',
    LETHE_RETENTION_ADDRESS: '',
  };
  const named = { LETHE_JWT_ISSUER: 'iss', LETHE_JWT_AUDIENCE: 'aud', LETHE_JOB_ADDRESS: 'job.example.com:443' };
  const tls = ['--tls-ca', '/ca.pem', '--tls-cert', '/cert.pem', '--tls-key', '/key.pem'];
  t.is((await login({ ...away, ...named }, 'prod', ...tls)).code, 0);
  const first = await kept();
  t.deepEqual(first, {
    tls: { ca: '/ca.pem', cert: '/cert.pem', key: '/key.pem' },
    issuer: 'iss',
    audience: 'aud',
    addresses: { job: 'job.example.com:443' },
  });
  t.is((await login(away, 'prod')).code, 0);
  t.deepEqual(await kept(), first);
  t.is((await login(away, 'prod', '--tls-ca', 'system')).code, 0);
  t.deepEqual((await kept()).tls, { ca: 'system', cert: '/cert.pem', key: '/key.pem' });
  t.is((await login(away, 'prod', '--tls-cert', '/c2.pem', '--tls-key', '/k2.pem')).code, 0);
  t.deepEqual((await kept()).tls, { ca: 'system', cert: '/c2.pem', key: '/k2.pem' });
  const own = ['--tls-cert', '/cert.pem', '--tls-key', '/key.pem'];
  for (const args of [own, own.slice(0, 2), ['--tls-ca', 'system', ...own.slice(2)]]) {
    const refused = await login({ ...away, ...named }, 'fresh', ...args);
    t.deepEqual([refused.code, /^error: USAGE: .*--tls-/.test(refused.err)], [2, true], args.join(' '));
  }
});

/** Command and verbs as help tells them: two spaces, the name, its arguments, two spaces, the description. */
const namesIn = (help: string): string[] => {
  const [list = ''] = help.slice(help.indexOf('Commands:')).split('\n\n');
  return [...list.matchAll(/^ {2}([a-z]+)\b/gm)].map(([, name = '']) => name);
};

test('help is 0, and the README names every command and verb that there is, and no other', async (t) => {
  const { lethe } = t.context;
  const readme = await readReadmes();
  const told = new Map(
    [...readme.matchAll(/^\| `lethe ([a-z]+)` +\| (.*) \|$/gm)].map(([, name = '', verbs = '']) => [
      name,
      [...verbs.matchAll(/`([a-z]+)`/g)].map(([, verb]) => verb),
    ]),
  );
  const { code, out } = await lethe('--help');
  t.is(code, 0);
  t.regex(out, /3 {4}done in part/);
  const commands = namesIn(out).filter((name) => name !== 'help');
  t.deepEqual(commands.toSorted(), [...told.keys()].toSorted());
  for (const command of commands) {
    const help = await lethe(command, '--help');
    t.is(help.code, 0);
    const verbs = help.out.includes('Commands:') ? namesIn(help.out).filter((name) => name !== 'help') : [];
    t.deepEqual(verbs.toSorted(), (told.get(command) ?? []).toSorted(), command);
  }
  t.is((await lethe()).code, 2);
});
