import anyTest, { type TestFn } from 'ava';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { parseTimestamp } from '#libs/grpc/timestamp.ts';
import { newId } from '#libs/kernel/id.ts';
import { agePurgerOf } from '#test/support/age-purger.ts';
import { type OwnerAccess, openOwner } from '#test/support/owner-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; owner: OwnerAccess }>;

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
  const owner = await openOwner({ address: stack.addresses.incident, name: 'incident', keyFile: stack.suiteKeyFile });
  Object.assign(t.context, { stack, owner });
});
test.after.always(async (t) => {
  t.context.owner?.close();
  await t.context.stack?.dispose();
});

test('a service whose clock is a year ahead purges by the clock of the database, and nothing too early', async (t) => {
  const { stack, owner } = t.context;
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
  // The service believes no token but of its own time.
  const ofItsTime = { issuedSecondsAgo: -YEAR_SECONDS };
  for (const subject of ['drift_checks', 'incident_payloads', 'approvals']) {
    const purger = agePurgerOf(owner, TENANT, subject, ofItsTime);
    t.is((await purger.count(180)).expired, 1, subject);
    const purge = await purger.purge({ operationId: newId(), retentionDays: 180 });
    t.is(purge.progress, Progress.COMPLETE);
    t.is(purge.resourceCounts[0]?.deleted, 1n, subject);
    const cutoff = parseTimestamp('cutoff_time', purge.cutoffTime);
    const [row] = await queryOnce<{ off: number }>(
      url,
      `select abs(extract(epoch from clock_timestamp() - interval '180 days' - $1::timestamptz))::float as off`,
      [cutoff?.toString()],
    );
    t.true((row?.off ?? 99) < 10, `${subject}: the cutoff is of the database's clock`);
  }
});

test('the service under test does run a year ahead', async (t) => {
  const purger = agePurgerOf(t.context.owner, TENANT, 'drift_checks');
  await t.throwsAsync(purger.purge({ operationId: newId(), retentionDays: 1 }), { message: /expired/ });
});
