import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type TestFn } from 'ava';
import { makeBrowser } from '#test/support/console-browser.ts';
import { type ForeignParticipant, startForeignParticipant } from '#test/support/foreign-participant.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { hasProgram, testIfFound } from '#test/support/require.ts';
import { until } from '#test/support/test-stack.ts';

const run = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

// Nobody serves there: an owner that is down must not keep the others from being purged.
const MAIL_ADDRESS = '127.0.0.1:1';

const TAKEN_PORT = 7_402;

interface Context {
  folder: string;
  notes: ForeignParticipant;
  other: Server;
  child: ChildProcess;
  output: () => string;
}
const test = anyTest as TestFn<Context>;

test.before(async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-start-'));
  await chmod(folder, 0o755);
  // Another program has the usual port of JobService; if one has it already, that will do.
  const other = createServer().listen(TAKEN_PORT, '127.0.0.1');
  await once(other, 'listening').catch(() => undefined);
  const notes = await startForeignParticipant(0);
  let output = '';
  const args = ['start', '--', '--owner', `mail=${MAIL_ADDRESS}`, '--participant', `notes=${notes.address}`];
  const child = spawn('npm', args, {
    cwd: REPOSITORY,
    env: { ...process.env, LETHE_LOCAL_FOLDER: folder },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk;
    });
  }
  Object.assign(t.context, { folder, notes, other, child, output: () => output });
  await until(
    'the ready block',
    async () => /Ctrl-C stops everything/.test(output) || child.exitCode !== null,
    150_000,
  );
});

test.after.always(async (t) => {
  const { child, folder, notes, other } = t.context;
  if (child.exitCode === null && child.signalCode === null && child.pid) process.kill(-child.pid, 'SIGKILL');
  other.close();
  await notes.close();
  await rm(folder, { recursive: true, force: true });
});

/** A README command as it would run against this test's stack. */
async function onThisStack(folder: string, script: string, output: string): Promise<string> {
  const profile = join(folder, 'cli.json');
  const [, console = ''] = /^http:\/\/(127\.0\.0\.1:\d+)\/auth\/sign-in\?/m.exec(output) ?? [];
  const { addresses } = JSON.parse(await readFile(profile, 'utf8')) as { addresses: Record<string, string> };
  return ['run', 'job', 'incident', 'retention']
    .reduce((text, name, index) => text.replaceAll(`127.0.0.1:${7_401 + index}`, addresses[name] ?? ''), script)
    .replaceAll('127.0.0.1:7405', console)
    .replaceAll('npm run --silent lethe -- ', `npm run --silent lethe -- --profile ${profile} `);
}

const bash = (script: string) => run('bash', ['-euo', 'pipefail', '-c', script], { cwd: REPOSITORY, env: process.env });

test.serial('npm start reaches the ready block, and every count of its sample is right', (t) => {
  const output = t.context.output();
  t.regex(output, /Lethe is ready\./);
  t.notRegex(output, /wrong:/);
  t.regex(output, /acme: rows in jobs +│ +0 │ +5 │ +2 │ +3/);
  t.regex(output, /production_bundle_assets +│ +0 │ +2 │ +2 │ +2/);
  t.regex(output, /incident_payloads +│ +0 │ +0 │ +0 │ +0/);
  t.regex(output, /FREE \(hobby\)[\s\S]*?drift_checks +│ +9 │ +2 │ +7/);
  t.regex(output, /PRO \(studio\)[\s\S]*?incident_payloads +│ +5 │ +2 │ +3/);
  t.regex(output, /30 days \(bureau\)[\s\S]*?executions +│ +8 │ +4 │ +4/);
  t.regex(output, /7 days, newest 4 \(hobby\)[\s\S]*?executions +│ +5 │ +4 │ +1/);
});

test.serial('where a usual port is taken, npm start says so loudly, with what to write in its place', async (t) => {
  const output = t.context.output();
  const [, job = ''] = /^ {2}JobService +(\S+)$/m.exec(output) ?? [];
  t.notRegex(job, /:7402$/);
  t.regex(output, /^WARNING: other programs have the usual ports/m);
  t.true(output.includes(`\n  ${job} for 127.0.0.1:${TAKEN_PORT}\n`), output);
  t.true(output.match(/^grpcurl .*$/m)?.[0].includes(` ${job} `), 'the printed command has the real port');
});

test.serial('a participant that npm start was given is asked in every purge of a run', async (t) => {
  const { folder, notes } = t.context;
  const lethe = `npm run --silent lethe -- --profile ${join(folder, 'cli.json')}`;
  const runId = (await bash(`${lethe} --tenant acme runs create noted`)).stdout.trim();
  notes.put(runId, 2);
  await bash(`${lethe} --tenant acme runs finish ${runId} --state COMPLETED`);
  await bash(`${lethe} --tenant acme runs purge ${runId} --reason 'contract ended' --yes --wait`);
  t.is(notes.countOf(runId), 0);
  t.regex((await bash(`${lethe} participants list`)).stdout, /^notes /m);
});

test.serial('the alias of the README makes lethe a command of a shell', async (t) => {
  const [alias = 'false'] = (await readReadmes()).match(/alias lethe='[^']*'/) ?? [];
  const { stdout } = await bash(`shopt -s expand_aliases\n${alias}\nlethe --version`);
  t.regex(stdout, /^\d+\.\d+\.\d+$/m);
});

test.serial('the link that npm start prints signs in to the console, once', async (t) => {
  const [link = ''] = /^http:\/\/127\.0\.0\.1:\d+\/auth\/sign-in\?\S+$/m.exec(t.context.output()) ?? [];
  const browser = makeBrowser();
  await browser.visit(link);
  const session = await browser.fetch(new URL('/api/session', link));
  t.like(await session.json(), { subject: 'admin@globex', tenant: 'globex', role: 'admin' });
  const [page] = (await makeBrowser().visit(link)).slice(-1);
  t.regex((await page?.text()) ?? '', /This sign-in link was used already/);
});

testIfFound(
  test.serial,
  hasProgram('grpcurl'),
  'grpcurl',
  'the line that npm start prints works as it is pasted',
  async (t) => {
    const line = t.context
      .output()
      .split('\n')
      .find((candidate) => candidate.startsWith('grpcurl'));
    const { stdout } = await bash(line ?? 'false');
    t.is(JSON.parse(stdout).jobs.length, 3);
  },
);

testIfFound(
  test.serial,
  hasProgram('grpcurl'),
  'grpcurl',
  'a refusal shows its reason and its fields to those who call by reflection',
  async (t) => {
    const line = t.context.output().match(/^grpcurl .*JobService\/ListJobs$/m)?.[0] ?? 'false';
    const asked = line.replace('ListJobs', 'GetJob').replace(/-d '[^']*'/, `-d '{"job_id": "x"}'`);
    const refusal = await t.throwsAsync<Error & { stderr: string }>(bash(asked));
    t.regex(refusal?.stderr ?? '', /"reason": "FIELD_INVALID"/);
    t.regex(refusal?.stderr ?? '', /"field": "job_id"/);
  },
);

testIfFound(
  test.serial,
  hasProgram('grpcurl'),
  'grpcurl',
  'whoever calls by reflection can ask for health, without a credential',
  async (t) => {
    const [, job = ''] = /^ {2}JobService +(\S+)$/m.exec(t.context.output()) ?? [];
    const { stdout } = await bash(`grpcurl -plaintext ${job} grpc.health.v1.Health/Check`);
    t.deepEqual(JSON.parse(stdout), { status: 'SERVING' });
  },
);

testIfFound(test.serial, hasProgram('grpcurl'), 'grpcurl', "the README's commands do what it says", async (t) => {
  const readme = await readReadmes();
  const blocks = [...readme.matchAll(/<!-- tested -->\n```sh\n([\s\S]*?)```/g)].map(([, script = '']) => script);
  t.is(blocks.length, 11);
  const outputs: string[] = [];
  for (const block of blocks)
    outputs.push((await bash(await onThisStack(t.context.folder, block, t.context.output()))).stdout);
  // Pasted again it begins another run, and is not refused for a name that is taken.
  const startRun = blocks.find((block) => block.includes('RunService/StartRun')) ?? 'false';
  const again = (await bash(await onThisStack(t.context.folder, startRun, t.context.output()))).stdout;
  t.regex(again, /"workflow": "client_to_delivery"/);
  const [byGrpcurl = '', byCli = '', ofRun = '', ofAudit = '', ...ofServices] = outputs;
  const [ofRestJob = '', ofRestRun = '', ofPlan = '', ofStop = '', ofPolicy = '', ofWorkflow = '', ofExecutions = ''] =
    ofServices;
  t.regex(byGrpcurl, /"state": "DELETION_STATE_PENDING"/);
  t.regex(byCli, /COMPLETE: \d+ of \d+ tenants$/m);
  t.regex(ofRun, /PURGE +COMPLETE/);
  t.regex(ofRestJob, /"code":"invalid_state","message":"Cannot delete pending job. Use cancel instead."/);
  t.regex(ofRestJob, /"target_type":"job".*"reason":"asked for"/);
  t.is(ofRestRun.match(/^HTTP\/1\.1 204 /gm)?.length, 2, ofRestRun);
  t.regex(ofRestRun, /^location: \/api\/v1\/deletions\//m);
  t.regex(ofRestRun, /"tenant_id":"acme","retention_days":90,.*"reason":"ETAG_MISMATCH".*"trigger":"PURGE_NOW"/);
  t.regex(ofWorkflow, /"workflow": "client_to_delivery"/);
  t.regex(ofExecutions, /^2 created, 0 updated, 0 expired$/m);
  t.regex(ofExecutions, / RUNNING +sync contacts /);
  t.regex(ofPlan, /^Nothing was changed\.[\s\S]*^TRIAL +drift_checks +3 days /m);
  t.regex(ofPlan, /^drift_checks +everything +GRACE .* 14 days$/m);
  t.regex(ofStop, /^purges are stopped since .*: the counts look wrong$/m);
  t.regex(ofStop, /^purges are not stopped; resumed at .*: they were right$/m);
  t.regex(ofPolicy, /^acme COMPLETE$/m);
  t.regex(ofPolicy, /^acme +90 days +100 /m);
  t.regex(ofAudit, /"action":"cancel"/);
});

test.serial('Ctrl-C leaves no process', async (t) => {
  const { child, folder } = t.context;
  const processes = async () => {
    const { stdout } = await run('ps', ['-eo', 'pid,args']);
    const pids = new Set([...stdout.matchAll(/^ *(\d+) .*services\/\w+\/main\.ts/gm)].map(([, pid]) => Number(pid)));
    const own: number[] = [];
    for (const pid of pids) {
      const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
      if (environment.includes(folder)) own.push(pid);
    }
    return { services: own, postgres: stdout.includes(join(folder, 'postgres/data')) };
  };
  const before = await processes();
  t.is(before.services.length, 4);
  t.true(before.postgres);
  // As a terminal does it: the signal goes to the whole foreground group.
  if (child.pid) process.kill(-child.pid, 'SIGINT');
  await until('npm has ended', async () => child.exitCode !== null || child.signalCode !== null, 120_000);
  await until('nothing of the stack runs', async () => {
    const now = await processes();
    return now.services.length === 0 && !now.postgres;
  });
  t.pass();
});
