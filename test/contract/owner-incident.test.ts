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
  stack = await startTestStack({ services: ['incident'], env: { LETHE_CRASH_FILE: crashFile } });
  access = await openOwner({ address: stack.addresses.incident, name: 'incident', keyFile: stack.suiteKeyFile });
});
test.after.always(async () => {
  access?.close();
  await stack?.dispose();
  for (const file of [crashFile, `${crashFile}.struck`]) await rm(file, { force: true });
});

const sql = <Row>(text: string, values: readonly unknown[]): Promise<Row[]> =>
  queryOnce<Row>(stack.superuserUrl('incident'), text, values);

// Made by SQL, since no RPC makes anything old; an incident of each has all that another subject looks at.
const ENVIRONMENT = `e as (
  insert into environments (tenant_id, id, display_name) select $1, gen_random_uuid(), 'production'
  on conflict (tenant_id, display_name) do update set updated_at = now() returning id)`;
const INCIDENTS = `i as (
  insert into incidents (tenant_id, id, environment_id, title, state, close_cause, closed_at)
  select $1, gen_random_uuid(), e.id, 'drift', case when age is null then 'DETECTED' else 'CLOSED' end,
         case when age is not null then 'RESOLVED' end, age
  from e, unnest($2::timestamptz[]) age returning tenant_id, id, closed_at)`;

interface Sample {
  readonly insert: string;
  /** Instants of the rows left, as text. */
  readonly ages: string;
  readonly dependents?: string;
}

const SAMPLES: Readonly<Record<string, Sample>> = {
  drift_checks: {
    insert: `with ${ENVIRONMENT}, c as (
               insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
               select $1, gen_random_uuid(), e.id, 'DRIFT', age from e, unnest($2::timestamptz[]) age
               returning tenant_id, id)
             insert into drift_check_workflows
             select tenant_id, id, w, 'MODIFIED' from c, unnest(array['a', 'b']) w`,
    ages: 'select checked_at as age from drift_checks where tenant_id = $1',
    dependents: 'select count(*)::int as count from drift_check_workflows where tenant_id = $1',
  },
  incident_payloads: {
    insert: `with ${ENVIRONMENT}, ${INCIDENTS}
             insert into incident_payloads (tenant_id, incident_id, payload_json) select tenant_id, id, '{}' from i`,
    ages: `select i.closed_at as age from incidents i
           join incident_payloads p on p.tenant_id = i.tenant_id and p.incident_id = i.id where i.tenant_id = $1`,
  },
  // Every other one is undecided, and ages by its incident.
  approvals: {
    insert: `with ${ENVIRONMENT}, ${INCIDENTS}
             insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at)
             select tenant_id, gen_random_uuid(), id, 'CLOSED', case n % 2 when 0 then 'PENDING' else 'APPROVED' end,
                    'ada', case n % 2 when 1 then closed_at end
             from (select *, row_number() over () as n from i) numbered`,
    ages: `select i.closed_at as age from incidents i
           join approvals a on a.tenant_id = i.tenant_id and a.incident_id = i.id where i.tenant_id = $1`,
  },
  approval_notes: {
    insert: `with ${ENVIRONMENT}, ${INCIDENTS}
             insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, request_notes,
                                    decision_notes, decided_at)
             select tenant_id, gen_random_uuid(), id, 'CLOSED', 'REJECTED', 'ada',
                    case n % 2 when 0 then 'why' end, case n % 2 when 1 then 'no' end, closed_at
             from (select *, row_number() over () as n from i) numbered`,
    ages: `select i.closed_at as age from incidents i
           join approvals a on a.tenant_id = i.tenant_id and a.incident_id = i.id
           where i.tenant_id = $1 and (a.request_notes is not null or a.decision_notes is not null)`,
  },
};

const underTest = (subject: string, { insert, ages, dependents }: Sample): OwnerUnderTest => ({
  subject,
  ...crashesOf(() => crashFile),
  client: (token) => access.client(token),
  async seed(tenantId, rows) {
    await sql(insert, [tenantId, rows.map(({ age }) => age?.toString() ?? null)]);
  },
  async left(tenantId) {
    // As text with its microseconds: a Date would lose them.
    const rows = await sql<{ age: string | null }>(
      `select to_char(age at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as age from (${ages}) rows`,
      [tenantId],
    );
    const [hanging] = dependents ? await sql<{ count: number }>(dependents, [tenantId]) : [];
    return {
      ages: rows.map(({ age }) => (age === null ? null : Temporal.Instant.from(age))),
      dependents: hanging?.count ?? 0,
    };
  },
});

for (const [subject, sample] of Object.entries(SAMPLES)) {
  const under = underTest(subject, sample);
  // One after the other, so that what is timed is not slowed down by the others.
  ownerContract(test.serial, `IncidentService, ${subject}`, () => under);
}
