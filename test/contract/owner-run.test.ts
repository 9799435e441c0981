import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { newId } from '#libs/kernel/id.ts';
import { crashesOf } from '#test/support/arm-crash.ts';
import { type OwnerAccess, openOwner } from '#test/support/owner-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import { type OwnerUnderTest, ownerContract } from './owner.ts';

let stack: TestStack;
let access: OwnerAccess;
const crashFile = join(tmpdir(), `lethe-crash-${newId()}`);

test.before(async () => {
  stack = await startTestStack({
    services: ['run'],
    foreignParticipants: { nobody: '127.0.0.1:1' },
    env: { LETHE_CRASH_FILE: crashFile },
  });
  access = await openOwner({ address: stack.addresses.run, name: 'run', keyFile: stack.suiteKeyFile });
});
test.after.always(async () => {
  access?.close();
  await stack?.dispose();
  for (const file of [crashFile, `${crashFile}.struck`]) await rm(file, { force: true });
});

const sql = <Row>(text: string, values: readonly unknown[]): Promise<Row[]> =>
  queryOnce<Row>(stack.superuserUrl('run'), text, values);

// By hand, since no RPC makes anything old: some never started, some were inserted long after they did, in three months.
const executions: OwnerUnderTest = {
  subject: 'executions',
  // More than one batch ever takes, so that a crash after a batch is one in the middle.
  bulk: 25_000,
  canBeUndated: false,
  canBeUnfinished: true,
  client: (token) => access.client(token),
  async seed(tenantId, rows) {
    await sql(
      `insert into executions (tenant_id, workflow, state, started_at, created_at)
       select $1, 'seeded', case when is_unfinished then 'RUNNING' else 'ENDED' end,
              case when n % 5 > 0 then age end,
              case when n % 5 < 2 then age when n % 5 = 2 then now() else now() - interval '31 days' end
       from unnest($2::timestamptz[], $3::boolean[]) with ordinality as r (age, is_unfinished, n)`,
      [tenantId, rows.map(({ age }) => String(age)), rows.map(({ isUnfinished = false }) => isUnfinished)],
    );
  },
  async left(tenantId) {
    // As text with its microseconds: a Date would lose them.
    const rows = await sql<{ age: string }>(
      `select to_char(age at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as age from executions
       where tenant_id = $1`,
      [tenantId],
    );
    return { ages: rows.map(({ age }) => Temporal.Instant.from(age)), dependents: 0 };
  },
  ...crashesOf(() => crashFile),
};

// One after the other, so that what is timed is not slowed down by the others.
ownerContract(test.serial, 'RunService, executions', () => executions);
