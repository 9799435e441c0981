import { fileURLToPath } from 'node:url';
import anyTest, { type TestFn } from 'ava';
import { UnsecuredJWT } from 'jose';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

interface Finding {
  readonly state: string;
  readonly of: string;
  readonly name: string;
  readonly message: string;
  readonly advice: string;
}

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine; token: string }>;

const AHEAD = fileURLToPath(new URL('../support/clock-a-year-ahead.ts', import.meta.url));
const TWO_YEARS_S = 2 * 366 * 86_400;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    userTokenSeconds: TWO_YEARS_S,
    envOf: { incident: { NODE_OPTIONS: `--import=${AHEAD}` } },
  });
  t.context.lethe = await makeCommandLine(t.context.stack);
  // Good by either clock.
  t.context.token = await t.context.stack.token({ role: 'platform' }, TWO_YEARS_S);
});
test.after.always((t) => t.context.stack?.dispose());

async function findings(
  { lethe, token }: { lethe: CommandLine; token: string },
  env: Readonly<Record<string, string>> = {},
): Promise<{ readonly code: number; of(what: string, name: string): Finding | undefined }> {
  const { code, out } = await lethe.with({ env: { LETHE_TOKEN: token, ...env } })('--json', 'doctor');
  const found = parsedLine(out) as Finding[];
  return { code, of: (what, name) => found.find((finding) => finding.of === what && finding.name === name) };
}

test.serial('a stack is looked at whole, and what is well is told too', async (t) => {
  const { of } = await findings(t.context);
  for (const service of ['run', 'job', 'incident', 'retention']) {
    t.is(of(service, 'ENDPOINT')?.state, 'OK', service);
    t.is(of(service, 'VERSION')?.state, 'OK', service);
    t.is(of(service, 'SCHEMA')?.state, 'OK', service);
  }
  t.is(of('job', 'OBJECT_STORE')?.state, 'OK');
  t.is(of('job', 'BUCKET_VERSIONING')?.state, 'OK');
  t.is(of('job', 'BUCKET_LIFECYCLE')?.state, 'OK');
  t.is(of('participants', 'PARTICIPANTS')?.state, 'OK');
  t.is(of('purges', 'LAST_PURGE')?.state, 'OK');
  t.is(of('sign-in', 'TOKEN')?.state, 'OK');
});

test.serial('a clock that is off is told, by how much, and what to do', async (t) => {
  const { code, of } = await findings(t.context);
  t.is(code, 1);
  t.is(of('job', 'CLOCK')?.state, 'OK');
  const clock = of('incident', 'CLOCK');
  t.is(clock?.state, 'FAILED');
  t.is(clock?.message, "Its clock is 366 days ahead of its database's.");
  t.regex(clock?.advice ?? '', /NTP/);
  // A token that is signed for the moment is refused there.
  const signed = await t.context.lethe('--json', 'doctor');
  const refused = (parsedLine(signed.out) as Finding[]).find(({ of: what }) => what === 'incident');
  t.like(refused, { state: 'FAILED', name: 'SIGN_IN' });
  t.regex(refused?.advice ?? '', /compare its clock with yours/);
});

test.serial(
  'a service that is down is named with its address, and a wrong address with what answers there',
  async (t) => {
    const { stack } = t.context;
    const down = await findings(t.context, { LETHE_JOB_ADDRESS: '127.0.0.1:1' });
    t.is(down.code, 1);
    t.like(down.of('job', 'ENDPOINT'), { state: 'FAILED', message: 'It does not answer at 127.0.0.1:1.' });
    t.regex(down.of('job', 'ENDPOINT')?.advice ?? '', /LETHE_JOB_ADDRESS/);
    t.is(down.of('run', 'ENDPOINT')?.state, 'OK', 'the others are looked at all the same');
    const wrong = await findings(t.context, { LETHE_JOB_ADDRESS: stack.addresses.run ?? '' });
    t.is(wrong.code, 1);
    t.like(wrong.of('job', 'IDENTITY'), { state: 'FAILED', message: 'What answers there is the run service.' });
  },
);

test.serial('a schema that is behind or ahead is told with its migrations', async (t) => {
  const url = t.context.stack.superuserUrl('job');
  const [newest] = await queryOnce<{ name: string }>(
    url,
    'select name from lethe_migrations order by name desc limit 1',
  );
  t.teardown(() =>
    queryOnce(url, 'update lethe_migrations set name = $1 where name = $2', [newest?.name, '999-later']),
  );
  await queryOnce(url, 'update lethe_migrations set name = $1 where name = $2', ['999-later', newest?.name]);
  const behind = (await findings(t.context)).of('job', 'SCHEMA');
  t.is(behind?.state, 'FAILED');
  t.true(behind?.message.includes(newest?.name ?? '?'));
  t.regex(behind?.advice ?? '', /migrate/);
});

test.serial(
  'who may not see a status is told so; a token about to expire is a warning, an expired one a failure',
  async (t) => {
    const { lethe, stack } = t.context;
    const viewer = await stack.token({ role: 'viewer', tenantId: 'acme' }, TWO_YEARS_S);
    const seen = await findings({ lethe, token: viewer });
    t.is(seen.of('job', 'STATUS')?.state, 'UNKNOWN');
    t.regex(seen.of('job', 'STATUS')?.advice ?? '', /status:read/);
    t.is(seen.of('participants', 'PARTICIPANTS'), undefined, 'for platform');
    const now = Math.floor(Date.now() / 1_000);
    const old = new UnsecuredJWT({ sub: 'ann' })
      .setIssuedAt(now - 3_600)
      .setExpirationTime(now + 60)
      .encode();
    const about = (await findings({ lethe, token: old })).of('sign-in', 'TOKEN');
    t.is(about?.state, 'WARNING');
    t.regex(about?.message ?? '', /^The token of ann, .* expires at /);
    const expired = await findings({ lethe, token: await stack.token({ role: 'platform' }, -60) });
    t.is(expired.of('sign-in', 'TOKEN')?.state, 'FAILED');
  },
);

test.serial('the report fits 80 columns, and --quiet leaves out what is well', async (t) => {
  const { lethe, token } = t.context;
  const narrow = lethe.with({ columns: 80, env: { LETHE_TOKEN: token } });
  const { out } = await narrow('doctor');
  t.true(
    out.split('\n').every((line) => line.length <= 80),
    out,
  );
  t.regex(out, /^What to do:$/m);
  const quiet = await narrow('doctor', '--quiet');
  t.notRegex(quiet.out, /^ok /m);
  t.regex(quiet.out, /^FAILED +incident/m);
});
