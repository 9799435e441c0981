import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import anyTest, { type TestFn } from 'ava';
import { freePort } from '#deploy/local/free-port.ts';
import { runCli } from '#libs/cli/run-cli.ts';
import { createLethe } from '#libs/client/lethe.ts';
import { parsedLine } from '#test/support/command-line.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { until } from '#test/support/test-stack.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

const test = anyTest as TestFn<{ postgres: TestPostgres; folder: string }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
  t.context.folder = await mkdtemp(join(tmpdir(), 'lethe-test-cli-owner-'));
});
test.after.always(async (t) => {
  await t.context.postgres.stop();
  await rm(t.context.folder, { recursive: true, force: true });
});

const MAIL = `
database:
  url_from: MAIL_DATABASE_URL
  owner_url_from: MAIL_DATABASE_OWNER_URL
subjects:
  - name: messages
    resource_type: message
    table: messages
    tenant: tenant_id
    instant: sent_at
    id: id
`;
const TABLE =
  'create table messages (tenant_id text not null, id uuid, sent_at timestamptz, primary key (tenant_id, id))';
const INDEX = 'create index on messages (tenant_id, sent_at, id)';

/** `lethe owner …` in this process, with a file and an environment of its own. */
async function lethe(folder: string, verb: string, text: string, env: Record<string, string>, ...options: string[]) {
  const file = join(folder, `${Math.random().toString(36).slice(2)}.yaml`);
  await writeFile(file, text);
  const out: string[] = [];
  const err: string[] = [];
  const code = await runCli([...options, 'owner', verb, file], {
    env,
    out: (line) => out.push(line),
    err: (line) => err.push(line.replaceAll(file, 'FILE')),
    outBytes: async () => undefined,
    input: (async function* () {})(),
    isInteractive: false,
    configFolder: '/nowhere',
    columns: undefined,
    askSecret: async () => '',
    onInterrupt: () => () => undefined,
    screen: undefined,
    ask: async () => '',
    onUnread: () => undefined,
    open: createLethe,
  });
  return { code, out, err };
}

const urlsOf = ({ appUrl, ownerUrl }: TestDatabase) => ({
  MAIL_DATABASE_URL: appUrl,
  MAIL_DATABASE_OWNER_URL: ownerUrl,
});

test('a file with problems is refused, each on a line of its own', async (t) => {
  const outcome = await lethe(t.context.folder, 'serve', 'database: {url_from: A}\nsubjects: [{name: 1}]', {});
  t.is(outcome.code, 2);
  t.deepEqual(outcome.out, []);
  t.deepEqual(outcome.err.slice(-1), ['error: USAGE: FILE has 6 problems']);
  t.true(outcome.err.includes('problem: subjects[0].table is required'), outcome.err.join('\n'));
});

test('a database that cannot be reached is named by its variable, and no password is shown', async (t) => {
  const { folder } = t.context;
  t.deepEqual((await lethe(folder, 'check', MAIL, {})).err, [
    'problem: MAIL_DATABASE_URL is not set',
    'error: USAGE: the environment has 1 problem',
  ]);
  const url = 'postgres://app:hunter2@127.0.0.1:1/mail';
  const { err } = await lethe(folder, 'check', MAIL, { MAIL_DATABASE_URL: url });
  t.deepEqual(err, [
    'problem: it cannot be reached: connect ECONNREFUSED 127.0.0.1:1',
    'error: USAGE: the database of MAIL_DATABASE_URL has 1 problem',
  ]);
});

test('what the database lacks is told with the statement that mends it, and then it can be served', async (t) => {
  const { folder, postgres } = t.context;
  const database = await postgres.createDatabase([]);
  await database.query(TABLE);
  const refused = await lethe(folder, 'check', MAIL, urlsOf(database));
  t.is(refused.code, 2);
  const statements = refused.err.flatMap((line) => /; ((?:create|grant) .*)$/.exec(line)?.[1] ?? []);
  t.is(statements.length, 2, refused.err.join('\n'));
  for (const statement of statements) await database.query(statement);
  const { code, out } = await lethe(folder, 'check', MAIL, urlsOf(database), '--json');
  t.is(code, 0);
  t.deepEqual(parsedLine(out[0] ?? ''), { remarks: [], done: 'public.messages can be served' });
});

test('preparing makes one schema, for one role, and can be repeated; before it nothing is served', async (t) => {
  const { folder, postgres } = t.context;
  const database = await postgres.createDatabase([]);
  await database.query(`${TABLE}; ${INDEX}; grant select, delete on messages to ${database.appRole}`);
  const tables = () =>
    database.query(`select schemaname || '.' || tablename as name from pg_tables
      where schemaname not in ('pg_catalog', 'information_schema', 'lethe_owner') order by 1`);
  const env = { LETHE_TRUST_FILE: 'trust.json', LETHE_OWNER_NAME: 'mail', ...urlsOf(database) };
  const before = await tables();
  const refused = await lethe(folder, 'serve', MAIL, { ...env, MAIL_DATABASE_OWNER_URL: '' });
  t.deepEqual(
    refused.err[0],
    `problem: the schema lethe_owner is not ready for ${database.appRole}; run \`lethe owner prepare\` with this file`,
  );
  // Creating a schema takes a right on the database, which its owner has.
  await database.query(`grant create on database ${database.name} to ${database.appRole.replace(/_app$/, '_owner')}`);
  for (let times = 0; times < 2; times += 1) {
    const { out, err } = await lethe(folder, 'prepare', MAIL, env);
    t.deepEqual([out, err], [[`lethe_owner in ${database.name} is ready for ${database.appRole}`], []]);
  }
  t.deepEqual(await tables(), before);
  const [data] = await database.query<{ data_id: string }>('select data_id from lethe_owner.owner_data');
  t.is(data?.data_id.length, 36);
});

test("preparing tells the planner of the owner's own tables, and nothing of the company's", async (t) => {
  const { folder, postgres } = t.context;
  const database = await postgres.createDatabase([]);
  const ownerRole = database.appRole.replace(/_app$/, '_owner');
  // As where one role owns all tables of a database and was named for `owner_url_from`.
  await database.query(`${TABLE}; alter table messages owner to ${ownerRole};
    alter table messages set (autovacuum_enabled = off);
    grant create on database ${database.name} to ${ownerRole}`);
  t.is((await lethe(folder, 'prepare', MAIL, urlsOf(database))).code, 0);
  const known = await database.query<{ name: string }>(
    `select distinct schemaname || '.' || tablename as name from pg_stats
     where schemaname in ('public', 'lethe_owner') order by 1`,
  );
  t.deepEqual(
    known.map(({ name }) => name),
    ['lethe_owner.audit_entries', 'lethe_owner.owner_operations'],
  );
});

test("the README's file is served by the README's commands", async (t) => {
  const { folder, postgres } = t.context;
  const readme = await readReadmes();
  const [, file = '', commands = 'false'] =
    /```yaml\n(database:[\s\S]*?)```\n\n<!-- tested by test\/component\/cli-owner\S+ -->\n```sh\n([\s\S]*?)```/.exec(
      readme,
    ) ?? [];
  await writeFile(join(folder, 'mail.yaml'), file);
  await writeFile(join(folder, 'trust.json'), '{"trust": []}');
  const database = await postgres.createDatabase([]);
  await database.query(`
    create schema mail;
    create table mail.messages (
      tenant_id text not null, mailbox text not null, number int not null, sent_at timestamp,
      primary key (tenant_id, mailbox, number));
    create index on mail.messages (tenant_id, sent_at, mailbox, number);
    create table mail.attachments (
      tenant_id text not null, mailbox text not null, message int not null, name text not null,
      primary key (tenant_id, mailbox, message, name),
      foreign key (tenant_id, mailbox, message) references mail.messages);
    grant usage on schema mail to ${database.appRole};
    grant select, delete on all tables in schema mail to ${database.appRole};`);
  const [address, metrics] = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`];
  const script = commands
    .replaceAll('127.0.0.1:7411', address)
    .replaceAll('.lethe/keys/', `${folder}/`)
    .replaceAll('mail.yaml', join(folder, 'mail.yaml'))
    .replaceAll('lethe owner', `${process.execPath} libs/cli/lethe.ts owner`);
  const shell = spawn('bash', ['-euo', 'pipefail', '-c', script], {
    cwd: REPOSITORY,
    env: { PATH: process.env['PATH'], LETHE_METRICS_ADDRESS: metrics, ...urlsOf(database) },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  const ended = once(shell, 'exit');
  t.teardown(async () => {
    if (shell.pid && shell.exitCode === null) process.kill(-shell.pid, 'SIGTERM');
    await ended;
  });
  let output = '';
  shell.stdout.on('data', (chunk) => {
    output += chunk;
  });
  await until('it serves', async () => (await fetch(`http://${metrics}/ready`)).ok, 60_000);
  t.regex(output, /^mail\.messages can be served$/m);
  t.regex(output, /^lethe_owner in \w+ is ready for \w+_app$/m);
});

test('settings that are missing are named together, the database by the variable of the file', async (t) => {
  const { err } = await lethe(t.context.folder, 'serve', MAIL, { LETHE_OWNER_NAME: 'No name' });
  for (const name of ['MAIL_DATABASE_URL', 'LETHE_TRUST_FILE', 'LETHE_OWNER_NAME'])
    t.regex(err[0] ?? '', new RegExp(name));
});

test('the help shows a file and examples', async (t) => {
  const out: string[] = [];
  const code = await runCli(['owner', '--help'], {
    env: {},
    out: (line) => out.push(line),
    err: () => undefined,
    outBytes: async () => undefined,
    input: (async function* () {})(),
    isInteractive: false,
    configFolder: '/nowhere',
    columns: undefined,
    askSecret: async () => '',
    onInterrupt: () => () => undefined,
    screen: undefined,
    ask: async () => '',
    onUnread: () => undefined,
    open: createLethe,
  });
  t.is(code, 0);
  t.regex(out.join('\n'), /instant: sent_at[\s\S]*lethe owner serve mail\.yaml/);
});
