import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { fileURLToPath } from 'node:url';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { freePort } from '#deploy/local/free-port.ts';
import { type CommandLine, makeCommandLine } from '#test/support/command-line.ts';
import { FOREIGN_OWNER_NEEDS, hasForeignOwner } from '#test/support/foreign-owner.ts';
import { readBase, workloadNamed } from '#test/support/manifests.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { testIfFound } from '#test/support/require.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const TENANT = 'acme';

interface Context {
  stack: TestStack;
  lethe: CommandLine;
  address: string;
}

// Set by a test and ended after all of them; a context that a test changes is its own.
let script: ChildProcess | undefined;

const test = anyTest as TestFn<Context>;

// The stack is up and names an owner that is not: by nothing but its settings it will find it.
test.before(async (t) => {
  if (!hasForeignOwner()) return;
  const address = `127.0.0.1:${await freePort()}`;
  const stack = await startTestStack({ services: ['incident', 'retention'], foreignOwners: { mail: address } });
  Object.assign(t.context, { stack, address, lethe: await makeCommandLine(stack) });
});

test.after.always(async (t) => {
  if (script?.pid && script.exitCode === null) process.kill(-script.pid, 'SIGKILL');
  await t.context.stack?.dispose();
});

const testForeign = (title: string, body: (t: ExecutionContext<Context>) => Promise<void>) =>
  testIfFound(test.serial, hasForeignOwner(), FOREIGN_OWNER_NEEDS, title, body);

const messagesIn = (stack: TestStack): number => {
  const store = new DatabaseSync(join(stack.folder, 'mail.sqlite'), { timeout: 10_000 });
  try {
    return Number(store.prepare('select count(*) as n from messages where tenant = ?').get(TENANT)?.['n']);
  } finally {
    store.close();
  }
};

/** The command of the nightly CronJob, without the program's name. */
async function nightlyCommand(): Promise<readonly string[]> {
  const { container } = workloadNamed(await readBase(), 'CronJob', 'retention-purge');
  return (container.command ?? []).slice(1).map((word) => word.replace('$(JOB_UID)', randomUUID()));
}

testForeign("by the README's commands a service in Python joins, gets a window and is rehearsed", async (t) => {
  const { stack, address } = t.context;
  const readme = await readReadmes();
  const [, commands = 'false'] =
    /<!-- tested by test\/system\/join-owner\S+ -->\n```sh\n([\s\S]*?)```/.exec(readme) ?? [];
  const here = commands
    .replaceAll('127.0.0.1:7410', address)
    .replaceAll('.lethe/', `${stack.folder}/`)
    .replaceAll('npm run --silent lethe -- ', `npm run --silent lethe -- --profile ${stack.folder}/cli.json `);
  // The service runs in the background of the script, as in a shell that stays open.
  const shell = spawn('bash', ['-euo', 'pipefail', '-c', `${here}\necho "the commands are done"; wait`], {
    cwd: REPOSITORY,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  script = shell;
  let output = '';
  for (const stream of [shell.stdout, shell.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk;
    });
  }
  await until(
    'the commands are done',
    async () => output.includes('the commands are done') || shell.exitCode !== null,
    90_000,
  );
  t.is(shell.exitCode, null, output);
  t.regex(output, /^messages +mail +OBSERVED /m);
  t.regex(output, /^MAIL +messages +30 days +1 .* keep mail for a month$/m);
  t.regex(output, /^messages +everything +GRACE .* 30 days$/m);
  t.regex(output, /COMPLETE: 1 of 1 tenants$/m);
  t.is(messagesIn(stack), 1);
});

testForeign('once grace is over, the CronJob only counts it for a night and purges it in the next', async (t) => {
  const { stack, lethe } = t.context;
  for (const statement of [
    `update plan_windows set recorded_at = recorded_at - interval '30 days' where plan = 'MAIL'`,
    `update tenant_plans set created_at = created_at - interval '30 days', effective_at = effective_at - interval '30 days'`,
  ]) {
    await queryOnce(stack.superuserUrl('retention'), statement);
  }
  const observed = await lethe(...(await nightlyCommand()));
  t.is(observed.code, 0, observed.err || observed.out);
  t.is(messagesIn(stack), 1);
  const [, id = ''] = /^purge (\S+) COMPLETE/m.exec(observed.out) ?? [];
  t.regex((await lethe('purges', 'get', id)).out, /^acme +messages +OBSERVED +30 days +1 of 1 /m);

  const night = await lethe(...(await nightlyCommand()));
  t.is(night.code, 0, night.err || night.out);
  t.regex(night.out, /^acme COMPLETE .*message 1\b/m);
  t.is(messagesIn(stack), 0);
});

testForeign('an owner that points at another data set is not purged until someone confirms it', async (t) => {
  const { stack, lethe } = t.context;
  const store = new DatabaseSync(join(stack.folder, 'mail.sqlite'), { timeout: 10_000 });
  const yearAgo = BigInt(Date.now() - 365 * 86_400_000) * 1_000n;
  store.prepare('insert into messages (tenant, sent_at, id) values (?, ?, ?)').run(TENANT, yearAgo, 'elsewhere');
  store.prepare('update retention_data set data_id = ?').run(randomUUID());
  store.close();
  const isShown = (state: string) => async () =>
    new RegExp(`^messages +mail +${state} `, 'm').test((await lethe('subjects', 'list')).out);
  await until('the change is seen', isShown('OWNER_CHANGED'), 30_000);
  const night = await lethe(...(await nightlyCommand()));
  t.is(night.code, 3, night.err || night.out);
  t.regex(night.out, /^acme (PARTIAL|FAILED) .*OWNER_CHANGED/m);
  t.is(messagesIn(stack), 1);

  t.is((await lethe('subjects', 'confirm', 'messages', '--reason', 'we moved it')).code, 0);
  await until('it is confirmed', isShown('(ACTIVE|OBSERVED)'));
  for (let nights = 0; messagesIn(stack) > 0 && nights < 2; nights += 1) {
    t.is((await lethe(...(await nightlyCommand()))).code, 0);
  }
  t.is(messagesIn(stack), 0);
});
