import anyTest, { type TestFn } from 'ava';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { parseTimestamp } from '#libs/grpc/timestamp.ts';
import { newId } from '#libs/kernel/id.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; connection: Connection }>;

const TENANT = 'acme';
const YEAR_SECONDS = 366 * 86_400;

// Every way in which a service can ask its own clock, a year ahead.
const AHEAD = `
  const ms = ${YEAR_SECONDS} * 1000, Real = Date, now = Temporal.Now.instant;
  globalThis.Date = class Date extends Real {
    constructor(...given) { if (given.length === 0) super(Real.now() + ms); else super(...given); }
    static now() { return Real.now() + ms; }
  };
  Temporal.Now.instant = () => now.call(Temporal.Now).add({ milliseconds: ms });
  process.emitWarning('the clock is a year ahead');`;

test.before(async (t) => {
  const stack = await startTestStack({
    services: ['incident'],
    envOf: { incident: { NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(AHEAD)}` } },
  });
  // The service finds every token old, so this one lives for two years.
  const identity = { role: 'service', tenantId: TENANT, subject: 'service:retention' } as const;
  const connection = connect({
    address: stack.addresses.incident,
    token: () => stack.token(identity, 2 * YEAR_SECONDS),
  });
  Object.assign(t.context, { stack, connection });
});
test.after.always(async (t) => {
  t.context.connection?.close();
  await t.context.stack?.dispose();
});

test('a service whose clock is a year ahead purges by the clock of the database, and nothing too early', async (t) => {
  const { stack, connection } = t.context;
  const url = stack.superuserUrl('incident');
  const insert = (days: number) =>
    queryOnce(
      url,
      `with e as (
         insert into environments (tenant_id, id, display_name) values ($1, gen_random_uuid(), 'env of day ' || $2::int)
         returning *),
       at as (select clock_timestamp() - $2::int * interval '24 hours' as instant),
       c as (insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
             select tenant_id, gen_random_uuid(), id, 'DRIFT', instant from e, at),
       i as (insert into incidents (tenant_id, id, environment_id, title, state, close_cause, closed_at)
             select tenant_id, gen_random_uuid(), id, 'drift', 'CLOSED', 'RESOLVED', instant from e, at returning *),
       p as (insert into incident_payloads (tenant_id, incident_id, payload_json) select tenant_id, id, '{}' from i)
       insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at)
       select i.tenant_id, gen_random_uuid(), i.id, 'CLOSED', 'APPROVED', 'ada', instant from i, at`,
      [TENANT, days],
    );
  // By the service's clock all three are older than the window; by the database's, one is.
  for (const days of [1, 179, 181]) await insert(days);
  const incidents = connection.client(IncidentService);
  for (const rpc of ['purgeDriftChecks', 'purgeIncidentPayloads', 'purgeApprovals'] as const) {
    const request = { operationId: newId(), retentionDays: 180 };
    const rehearsal = await incidents[rpc]({ ...request, validateOnly: true });
    t.is(rehearsal.resourceCounts[0]?.found, 1n, rpc);
    const purge = await incidents[rpc](request);
    t.is(purge.progress, Progress.COMPLETE);
    t.is(purge.resourceCounts[0]?.deleted, 1n, rpc);
    const cutoff = parseTimestamp('cutoff_time', purge.cutoffTime);
    const [row] = await queryOnce<{ off: number }>(
      url,
      `select abs(extract(epoch from clock_timestamp() - interval '180 days' - $1::timestamptz))::float as off`,
      [cutoff?.toString()],
    );
    t.true((row?.off ?? 99) < 10, `${rpc}: the cutoff is of the database's clock`);
  }
});

test('the service under test does run a year ahead', async (t) => {
  const { stack } = t.context;
  const expired = stack.clients({ role: 'service', tenantId: TENANT }).incidents;
  await t.throwsAsync(expired.purgeDriftChecks({ operationId: newId(), retentionDays: 1 }), { message: /expired/ });
});
