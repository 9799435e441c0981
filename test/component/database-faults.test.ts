import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import { RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { beginWork } from '#test/support/faults/work.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { makeTcpGate, type TcpGate } from '#test/support/tcp-gate.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Calls {
  readonly read: () => Promise<unknown>;
  readonly write: () => Promise<unknown>;
}

interface Context {
  stack: TestStack;
  /** The services reach their databases through it alone. */
  gate: TcpGate;
  /** host:port of the server behind it. */
  postgres: string;
  calls: Readonly<Record<ServiceName, Calls>>;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

const STATEMENT_MS = 1_000;
const HOUR_MS = '3600000';
const LONG_LEASES = {
  LETHE_DELETION_LEASE_MS: HOUR_MS,
  LETHE_RUN_LEASE_MS: HOUR_MS,
  LETHE_BULK_LEASE_MS: HOUR_MS,
  // The leases of RunService's deletions and of purges are twice as long as these.
  LETHE_PARTICIPANT_TIMEOUT_MS: '600000',
  LETHE_OWNER_TIMEOUT_MS: '600000',
};

test.before(async (t) => {
  const gate = await makeTcpGate();
  const stack = await startTestStack({
    env: { LETHE_STATEMENT_TIMEOUT_MS: String(STATEMENT_MS), LETHE_LOCK_TIMEOUT_MS: String(STATEMENT_MS) },
  });
  const postgres = new URL(stack.superuserUrl('run')).host;
  gate.open(postgres);
  const { runs, jobs, incidents, retention } = stack.clients({ role: 'admin', tenantId: 'acme' });
  let days = 0;
  const calls: Context['calls'] = {
    run: { read: () => runs.listRuns({}), write: () => runs.createRun({ workflow: 'call' }) },
    job: { read: () => jobs.listJobs({}), write: () => jobs.createJob({}) },
    incident: {
      read: () => incidents.listEnvironments({}),
      write: () => incidents.createEnvironment({ displayName: `production ${crypto.randomUUID()}` }),
    },
    retention: {
      read: () => retention.listExecutionPolicies({}),
      write: () => retention.upsertExecutionPolicy({ retentionDays: (days++ % 300) + 1 }),
    },
  };
  t.context = { stack, gate, postgres, calls };
  await restartAll(t);
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await t.context.gate?.close();
});

/** Restarts every service, with its database behind the gate. */
const restartAll = (
  { context: { stack, gate } }: { readonly context: Context },
  env: Readonly<Record<string, string>> = {},
): Promise<unknown> =>
  Promise.all(
    SERVICE_NAMES.map((name) => {
      const url = new URL(stack.environment(name)['LETHE_DATABASE_URL'] ?? '');
      url.host = gate.address;
      return stack.restart(name, { ...env, LETHE_DATABASE_URL: url.toString() });
    }),
  );

const sql = <Row>(t: T, name: ServiceName, text: string): Promise<Row[]> =>
  queryOnce<Row>(t.context.stack.superuserUrl(name), text);

const endSessions = (t: T): Promise<unknown> =>
  sql(t, 'run', "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'lethe-%'");

const readinessOf = async ({ context: { stack } }: T, name: ServiceName) => {
  const response = await fetch(`http://${stack.environment(name)['LETHE_METRICS_ADDRESS']}/ready`);
  return { status: response.status, text: await response.text() };
};

async function untilTold(t: T, name: ServiceName, status: number, text: RegExp): Promise<void> {
  await until(`${name} tells ${text}`, async () => {
    const now = await readinessOf(t, name);
    return now.status === status && text.test(now.text);
  });
  t.pass();
}

const untilUnready = (t: T, name: ServiceName, fault: string): Promise<void> =>
  until(`${name} is not ready: ${fault}`, async () => {
    const { status, text } = await readinessOf(t, name);
    return status === 503 && text.includes(`(${fault})`);
  });

const logOf = ({ context: { stack } }: T, name: ServiceName): Promise<string> =>
  readFile(join(stack.folder, 'logs', `${name}.log`), 'utf8');

const pids = ({ context: { stack } }: T) => SERVICE_NAMES.map((name) => stack.pid(name));

/** Waits until every service answers reads and writes, and is ready; resolves with how long the calls took to succeed. */
async function untilGood(t: T): Promise<number> {
  const startedAt = performance.now();
  await Promise.all(
    SERVICE_NAMES.flatMap((name) =>
      (['read', 'write'] as const).map((kind) =>
        until(`${name} answers a ${kind}`, async () => (await t.context.calls[name][kind]()) !== undefined),
      ),
    ),
  );
  const tookMs = performance.now() - startedAt;
  await Promise.all(
    SERVICE_NAMES.map((name) => until(`${name} is ready`, async () => (await readinessOf(t, name)).status === 200)),
  );
  return tookMs;
}

/** Calls every RPC in `calls` all the time until `work` has ended; resolves with what its callers were told in errors. */
async function underLoad(t: T, work: () => Promise<unknown>): Promise<ReadonlyMap<Code, string>> {
  const errors = new Map<Code, string>();
  let isOver = false;
  const calling = SERVICE_NAMES.flatMap((name) =>
    Object.values(t.context.calls[name] as unknown as Record<string, () => Promise<unknown>>).map(async (call) => {
      while (!isOver) {
        await call().catch((error: unknown) => errors.set(ConnectError.from(error).code, `${name}: ${error}`));
        await delay(5);
      }
    }),
  );
  await work();
  isOver = true;
  await Promise.all(calling);
  return errors;
}

/** The call must fail as UNAVAILABLE, with this fault, when to try again and no other detail. */
async function assertUnavailable(t: T, call: Promise<unknown>, fault: string, message: RegExp): Promise<void> {
  const error: unknown = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  const refusal = await refusalOf(Promise.reject(error));
  t.is(refusal.code, Code.Unavailable, refusal.message);
  t.is(refusal.reason, 'DEPENDENCY_UNAVAILABLE');
  t.deepEqual(refusal.metadata, { dependency: 'database', fault });
  t.regex(refusal.message, message);
  t.truthy(ConnectError.from(error).findDetails(RetryInfoSchema)[0]?.retryDelay);
}

test.serial(
  'ending every session of every service again and again ends no process and no background work',
  async (t) => {
    const before = pids(t);
    const errors = await underLoad(t, async () => {
      for (let times = 0; times < 20; times += 1) {
        await endSessions(t);
        await delay(100 * Math.random());
      }
    });
    for (const [code, error] of errors) t.is(code, Code.Unavailable, error);
    await untilGood(t);
    t.deepEqual(pids(t), before);
    for (const name of SERVICE_NAMES) t.notRegex(await logOf(t, name), /unhandled|uncaught/i, name);
    const { retention } = t.context.stack.clients({ role: 'platform' });
    const { purge } = await retention.purgeNow({ tenantId: 'acme' });
    await until('the purge ends', async () => {
      const found = await retention.getPurge({ purgeId: purge?.id ?? '' });
      return found.purge?.finishTime !== undefined;
    });
  },
);

test.serial(
  'a read-only database is UNAVAILABLE to writers, serves readers, and is good within a second of its end',
  async (t) => {
    const alterRoles = (change: string) =>
      Promise.all(SERVICE_NAMES.map((name) => sql(t, name, `alter role lethe_${name}_app ${change}`)));
    await endSessions(t);
    const usualMs = await untilGood(t);
    await alterRoles('set default_transaction_read_only = on');
    await endSessions(t);
    for (const name of SERVICE_NAMES) {
      const { read, write } = t.context.calls[name];
      await untilUnready(t, name, 'READ_ONLY');
      await assertUnavailable(t, write(), 'READ_ONLY', /^The database is read-only; try again/);
      await t.notThrowsAsync(read(), name);
    }
    // The sessions that were made meanwhile stay read-only.
    await alterRoles('reset default_transaction_read_only');
    const tookMs = await untilGood(t);
    t.log(`good after ${Math.round(tookMs)} ms`);
    t.true(tookMs < 2_000 + 5 * usualMs, `${tookMs} ms, and ${usualMs} ms after its sessions were ended`);
  },
);

test.serial(
  'a silent database holds a call no longer than the statement timeout and a bit, and ready names it',
  async (t) => {
    const before = pids(t);
    await endSessions(t);
    const usualMs = await untilGood(t);
    t.context.gate.swallow();
    const silentAt = performance.now();
    await Promise.all(
      SERVICE_NAMES.map(async (name) => {
        const { read, write } = t.context.calls[name];
        // More than the pool has connections.
        const calls = Array.from({ length: 12 }, (_, index) => refusalOf(index % 2 ? read() : write()));
        for (const { code, message } of await Promise.all(calls)) t.is(code, Code.Unavailable, `${name}: ${message}`);
        t.log(`${name}: all calls ended after ${Math.round(performance.now() - silentAt)} ms`);
        await untilUnready(t, name, 'SILENT');
      }),
    );
    t.context.gate.open(t.context.postgres);
    const tookMs = await untilGood(t);
    t.log(`good after ${Math.round(tookMs)} ms`);
    t.true(tookMs < 5_000 + 5 * usualMs, `${tookMs} ms, and ${usualMs} ms after its sessions were ended`);
    t.deepEqual(pids(t), before);
  },
);

test.serial('work that a silent database cut off goes on with the database, and waits for no lease', async (t) => {
  const { stack, gate, postgres } = t.context;
  await restartAll(t, LONG_LEASES);
  const work = await beginWork({ stack }, 'cut-off');
  gate.swallow();
  await Promise.all(SERVICE_NAMES.map((name) => untilUnready(t, name, 'SILENT')));
  // What the work waits for: it is done in the database, and no answer comes.
  await work.release();
  gate.open(postgres);
  await Promise.all(SERVICE_NAMES.map((name) => until(`the work of ${name} ends`, work.isDone[name])));
  for (const watch of Object.values(work.watches)) t.regex(await watch, /^(answers|UNAVAILABLE SILENT)$/);
});

test.serial(
  'work that became due while a database was away is looked for when it is back, and waits for no poll',
  async (t) => {
    const { gate, postgres } = t.context;
    await restartAll(t, { LETHE_POLL_MS: '60000' });
    await untilGood(t);
    gate.refuse();
    await Promise.all(SERVICE_NAMES.map((name) => untilUnready(t, name, 'CONNECTION_LOST')));
    await sql(
      t,
      'job',
      `insert into job_deletions (tenant_id, id, job_id, state, actor, subject, fingerprint, counts)
     select 'acme', id, id, 'PENDING', 'ada', 'ada', 'f', '{}' from gen_random_uuid() id`,
    );
    gate.open(postgres);
    await until(
      'it is done',
      async () =>
        (await sql(t, 'job', "select from job_deletions where fingerprint = 'f' and state = 'COMPLETE'")).length === 1,
      15_000,
    );
    await restartAll(t);
    t.pass();
  },
);

test.serial('every connection to a database is probed by TCP while it is idle, those of watches too', async (t) => {
  await untilGood(t);
  const port = Number(t.context.gate.address.split(':')[1]).toString(16).toUpperCase().padStart(4, '0');
  const ESTABLISHED = '01';
  // What is being sent has a timer of another kind for that long.
  const PROBED = /^02:/;
  await until('each has the timer of keepalive', async () => {
    const sockets = (await readFile('/proc/net/tcp', 'utf8')).split('\n').map((line) => line.trim().split(/\s+/));
    const toDatabases = sockets.filter(([, , to, state]) => to?.endsWith(`:${port}`) && state === ESTABLISHED);
    return (
      toDatabases.length >= 2 * SERVICE_NAMES.length &&
      toDatabases.every(([, , , , , timer]) => PROBED.test(timer ?? ''))
    );
  });
  t.pass();
});

test.serial('every service works, and starts, in a database whose defaults are all different', async (t) => {
  const defaults = {
    datestyle: "'SQL, DMY'",
    intervalstyle: 'sql_standard',
    timezone: "'Asia/Kolkata'",
    bytea_output: 'escape',
    search_path: 'nowhere',
    default_transaction_isolation: 'serializable',
    standard_conforming_strings: 'off',
  };
  for (const name of SERVICE_NAMES) {
    for (const [setting, value] of Object.entries(defaults)) {
      await sql(t, name, `alter database lethe_${name} set ${setting} = ${value}`);
    }
  }
  await endSessions(t);
  await untilGood(t);
  // The test after this one starts them all anew with these.
  await t.context.stack.restart('retention');
  t.true((await untilGood(t)) < 10_000);
});

test.serial('services that find no database at start wait for it, say so, and serve once it is there', async (t) => {
  const { gate, stack, postgres } = t.context;
  gate.shut();
  const restarting = restartAll(t);
  restarting.catch(() => undefined);
  let waiting: (number | undefined)[];
  try {
    for (const name of SERVICE_NAMES) {
      // What the process that is being replaced still says does not count.
      await until(`${name} logs it`, async () => /waiting for the database/.test(await logOf(t, name)));
      await untilUnready(t, name, 'CONNECTION_LOST');
      const live = `http://${stack.environment(name)['LETHE_METRICS_ADDRESS']}/live`;
      await until(`${name} lives`, async () => (await fetch(live)).status === 200);
    }
    waiting = pids(t);
  } finally {
    gate.open(postgres);
  }
  await restarting;
  t.deepEqual(pids(t), waiting, 'none of them was started anew');
  await untilGood(t);
});

test.serial('a migration that is taken back under a service makes it unready, and is named', async (t) => {
  const [last] = await sql<{ name: string }>(
    t,
    'incident',
    'select name from public.lethe_migrations order by id desc limit 1',
  );
  const name = last?.name ?? '';
  await sql(t, 'incident', `update public.lethe_migrations set name = 'another' where name = '${name}'`);
  await untilTold(t, 'incident', 503, new RegExp(`^schema: It lacks the migrations ${name}\\.$`, 'm'));
  await sql(t, 'incident', `update public.lethe_migrations set name = '${name}' where name = 'another'`);
  await untilGood(t);
});

test.serial(
  'a participant or an owner that takes no calls is a line of its own, and does not make others unready',
  async (t) => {
    await untilGood(t);
    const pid = t.context.stack.pid('incident') ?? 0;
    process.kill(pid, 'SIGSTOP');
    try {
      await untilTold(t, 'run', 200, /^participant job: ok\nparticipant incident: It /m);
      await untilTold(t, 'retention', 200, /^owner incident: It .*\nowner run: ok$/m);
      const metrics = await fetch(`http://${t.context.stack.environment('run')['LETHE_METRICS_ADDRESS']}/metrics`);
      const text = await metrics.text();
      t.regex(text, /^lethe_part_up\{part="participant incident",service="run"\} 0$/m);
      t.regex(text, /^lethe_part_up\{part="participant job",service="run"\} 1$/m);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await untilTold(t, 'run', 200, /^participant incident: ok$/m);
    await untilTold(t, 'retention', 200, /^owner incident: ok$/m);
  },
);

test.serial('a service that stands on nothing but its database has a line for that and for its schema', async (t) => {
  t.deepEqual(await readinessOf(t, 'incident'), { status: 200, text: 'database: ok\nschema: ok\n' });
});
