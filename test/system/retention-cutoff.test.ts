import { fileURLToPath } from 'node:url';
import type { Client } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import pg from 'pg';
import { PurgeItemState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { parseTimestamp } from '#libs/grpc/timestamp.ts';
import { newId } from '#libs/kernel/id.ts';
import { addEnvironment, putPlan } from '#test/support/aged-data.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const AHEAD = new URL('../support/clock-a-year-ahead.ts', import.meta.url);
const TWO_YEARS_S = 2 * 366 * 86_400;
const PLANS = [
  ['free', 'FREE'],
  ['pro', 'PRO'],
  ['agency', 'AGENCY'],
  ['enterprise', 'ENTERPRISE'],
] as const;

interface Subject {
  readonly name: string;
  readonly subject: string;
  readonly table: string;
  /** Adds a row that is judged by this instant; answers its id. */
  add(t: Purging, at: Temporal.Instant | null): Promise<string>;
  /** Whether the row that `add` answered with is there still. */
  readonly isThere: string;
}

interface Purging {
  readonly stack: TestStack;
  readonly tenantId: string;
  readonly environmentId: string;
}

const insert = async ({ stack }: Purging, sql: string, values: readonly unknown[]): Promise<string> =>
  (await queryOnce<{ id: string }>(stack.superuserUrl('incident'), sql, values))[0]?.id ?? '';

const INCIDENT = `insert into incidents
    (tenant_id, id, environment_id, title, state, close_cause, closed_at, opened_with_payload)
  values ($1, gen_random_uuid(), $2, 'drift', 'CLOSED', 'RESOLVED', $3, true) returning tenant_id, id`;

const SUBJECTS: readonly Subject[] = [
  {
    name: 'drift_checks',
    subject: 'drift_checks',
    table: 'drift_checks',
    add: (t, at) =>
      insert(
        t,
        `insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
         values ($1, gen_random_uuid(), $2, 'DRIFT', $3) returning id`,
        [t.tenantId, t.environmentId, at?.toString() ?? null],
      ),
    isThere: 'select from drift_checks where id = $1',
  },
  {
    name: 'incident_payloads',
    subject: 'incident_payloads',
    table: 'incidents',
    add: (t, at) =>
      insert(
        t,
        `with i as (${INCIDENT}),
         p as (insert into incident_payloads (tenant_id, incident_id, payload_json) select tenant_id, id, '{}' from i)
         select id from i`,
        [t.tenantId, t.environmentId, at?.toString() ?? null],
      ),
    isThere: 'select from incident_payloads where incident_id = $1',
  },
  {
    name: 'approvals',
    subject: 'approvals',
    table: 'approvals',
    add: (t, at) =>
      insert(
        t,
        `with i as (${INCIDENT.replace('true', 'false')})
         insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at)
         select tenant_id, gen_random_uuid(), id, 'CLOSED', 'APPROVED', 'ada', $3 from i returning id`,
        [t.tenantId, t.environmentId, at?.toString() ?? null],
      ),
    isThere: 'select from approvals where id = $1',
  },
];

/** Holds one row, so that a purge which has made its cutoff waits there. */
async function holdRow(stack: TestStack, table: string, id: string): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: stack.superuserUrl('incident') });
  await client.connect();
  await client.query('begin');
  await client.query(`select from ${table} where id = $1 for update`, [id]);
  return async () => {
    await client.query('rollback');
    await client.end();
  };
}

async function proveCutoffs(
  t: ExecutionContext,
  stack: TestStack,
  retention: Client<typeof RetentionService>,
): Promise<void> {
  const long = Temporal.Instant.from('2001-01-01T00:00:00Z');
  for (const [name, plan] of PLANS) {
    const tenantId = `cutoff-${name}`;
    await putPlan(stack, tenantId, plan);
    const given = { stack, tenantId, environmentId: await addEnvironment(stack, tenantId) };
    const { windows } = await retention.resolveRetention({ tenantId });
    const purged = SUBJECTS.filter(({ subject }) =>
      windows.some((window) => window.subjectName === subject && window.retentionDays !== undefined),
    ).toSorted((a, b) => (a.name < b.name ? -1 : 1));
    t.is(purged.length, plan === 'FREE' ? 1 : 3);
    const held = new Map<string, () => Promise<void>>();
    for (const { name: subject, table, add } of purged) {
      held.set(subject, await holdRow(stack, table, await add(given, long)));
    }
    const { purge } = await retention.purgeNow({ tenantId, requestId: newId() });
    const rows: { what: string; isThere: string; id: string; stays: boolean }[] = [];
    for (const { name: subject, subject: kind, add, isThere } of purged) {
      // The cutoff stands, and the first batch waits for the row that is held.
      let cutoff: Temporal.Instant | undefined;
      await until(`${tenantId}: the cutoff of ${subject}`, async () => {
        const [row] = await queryOnce<{ cutoff: string; drift: number }>(
          stack.superuserUrl('incident'),
          `select to_json(cutoff)#>>'{}' as cutoff, extract(epoch from created_at - cutoff)::float8 as drift
           from owner_operations where tenant_id = $1 and subject = $2`,
          [tenantId, subject],
        );
        const days = windows.find((window) => window.subjectName === kind)?.retentionDays ?? 0;
        if (row) t.true(Math.abs(row.drift - days * 86_400) < 30, 'the window back from the database’s now');
        cutoff = row && Temporal.Instant.from(row.cutoff);
        return cutoff !== undefined;
      });
      if (!cutoff) return t.fail();
      for (const [what, at, stays] of [
        ['one microsecond before', cutoff.subtract({ microseconds: 1 }), false],
        ['at', cutoff, true],
        ['one microsecond after', cutoff.add({ microseconds: 1 }), true],
        ['without an instant', null, true],
      ] as const) {
        rows.push({ what: `${subject} ${what} the cutoff`, isThere, id: await add(given, at), stays });
      }
      await held.get(subject)?.();
    }
    const item = async () => (await retention.getPurge({ purgeId: purge?.id ?? '' })).items[0];
    await until(`${tenantId}: it is done`, async () => (await item())?.state === PurgeItemState.COMPLETE);
    for (const { what, isThere, id, stays } of rows) {
      const found = await queryOnce(stack.superuserUrl('incident'), isThere, [id]);
      t.is(found.length === 1, stays, `${tenantId}: ${what}`);
    }
    for (const { cutoffTime } of (await item())?.subjects ?? []) {
      if (!cutoffTime) continue;
      const age = Temporal.Instant.from(new Date().toISOString()).since(parseTimestamp('', cutoffTime) ?? long);
      t.true(age.total('days') < 2_556, 'no cutoff is made of a service’s clock');
    }
  }
}

for (const [what, env] of [
  ['clocks that are right', {}],
  ['services’ clocks that are a year ahead', { NODE_OPTIONS: `--import=${fileURLToPath(AHEAD)}` }],
] as const) {
  test.serial(`for each plan, what is one microsecond too old goes and nothing younger, with ${what}`, async (t) => {
    const stack = await startTestStack({
      services: ['incident', 'retention'],
      userTokenSeconds: TWO_YEARS_S,
      env: { ...env, LETHE_LOCK_TIMEOUT_MS: '30000', LETHE_STATEMENT_TIMEOUT_MS: '30000' },
    });
    t.teardown(() => stack.dispose());
    // A token that is good by either clock.
    const token = await stack.token({ role: 'platform' }, TWO_YEARS_S);
    const connection = connect({ address: stack.addresses.retention, token: async () => token });
    t.teardown(() => connection.close());
    const retention = connection.client(RetentionService);
    if ('NODE_OPTIONS' in env) {
      const short = await stack.token({ role: 'platform' }, 3_600);
      const expired = connect({ address: stack.addresses.retention, token: async () => short });
      t.teardown(() => expired.close());
      await t.throwsAsync(expired.client(RetentionService).listPurges({}), { message: /expired/ }, 'the clock is fast');
    }
    await proveCutoffs(t, stack, retention);
  });
}
