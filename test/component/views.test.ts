import type { DescService } from '@bufbuild/protobuf';
import anyTest, { type TestFn } from 'ava';
import type { ServiceName } from '#deploy/local/stack.ts';
import { DriftCheckView, IncidentView } from '#gen/lethe/incident/v1/incident_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobView } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RunView } from '#gen/lethe/run/v1/run_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run', 'job', 'incident'] });
});
test.after.always((t) => t.context.stack?.dispose());

type Clients = ReturnType<TestStack['clients']>;
type View = 0 | 1 | 2;

interface Seen {
  readonly id: string;
  /** How much of what may be large the answer has. */
  readonly large: number;
}

interface Viewed {
  readonly resource: string;
  readonly service: ServiceName;
  /** Makes 200 of the tenant, each with much of what may be large; $1 is the tenant. */
  readonly rows: string;
  readonly views: Readonly<Record<'UNSPECIFIED' | 'BASIC' | 'FULL', number>>;
  /** Which view a list gives where none is asked for. */
  readonly listed: 'BASIC' | 'FULL';
  readonly list: (clients: Clients, view: View, pageToken: string) => Promise<{ seen: Seen[]; nextPageToken: string }>;
  readonly get: (clients: Clients, id: string, view: View) => Promise<Seen>;
}

// Three bytes a character.
const text = (characters: number): string => `repeat('話', ${characters})`;
const id = (at: string): string => `('00000000-0000-7000-8000-' || lpad(${at}::text, 12, '0'))::uuid`;
const STRUCT = `jsonb_build_object('x', ${text(20_000)})`;
const lengthOf = (struct: unknown): number => JSON.stringify(struct ?? '').length - 2;
const ENVIRONMENT = `insert into environments (tenant_id, id, display_name) values ($1, gen_random_uuid(), 'e') returning *`;

const toRun = (run: { id: string; input?: unknown; output?: unknown } | undefined): Seen => ({
  id: run?.id ?? '',
  large: Math.min(lengthOf(run?.input), lengthOf(run?.output)),
});
const toJob = (job: { id: string; tasks: readonly { error: string }[] } | undefined): Seen => ({
  id: job?.id ?? '',
  large: (job?.tasks ?? []).reduce((sum, { error }) => sum + error.length, 0),
});
const toIncident = (
  incident: { id: string; driftSummary?: unknown; timeline: readonly unknown[] } | undefined,
): Seen => ({
  id: incident?.id ?? '',
  large: lengthOf(incident?.driftSummary) * (incident?.timeline.length ?? 0),
});
const toCheck = (check: { id: string; summary?: unknown; workflows: readonly unknown[] } | undefined): Seen => ({
  id: check?.id ?? '',
  large: lengthOf(check?.summary) * (check?.workflows.length ?? 0),
});

const VIEWED: readonly Viewed[] = [
  {
    resource: 'run',
    service: 'run',
    rows: `insert into workflow_runs (tenant_id, id, workflow, display_name, state, input, output)
           select $1, ${id('n')}, 'call', '', 'COMPLETED', ${STRUCT}, ${STRUCT} from generate_series(1, 200) n`,
    views: { UNSPECIFIED: RunView.UNSPECIFIED, BASIC: RunView.BASIC, FULL: RunView.FULL },
    listed: 'BASIC',
    async list({ runs }, view, pageToken) {
      const { runs: seen, nextPageToken } = await runs.listRuns({ view, pageSize: 200, pageToken });
      return { seen: seen.map(toRun), nextPageToken };
    },
    get: async ({ runs }, runId, view) => toRun((await runs.getRun({ runId, view })).run),
  },
  {
    resource: 'job',
    service: 'job',
    rows: `with made as (
             insert into jobs (tenant_id, id, display_name, state, error)
             select $1, ${id('n')}, '', 'FAILED', ${text(2_000)} from generate_series(1, 200) n returning *)
           insert into job_tasks (tenant_id, job_id, name, position, state, error)
           select tenant_id, id, 'task-' || n, n, 'FAILED', ${text(2_000)} from made, generate_series(1, 10) n`,
    views: { UNSPECIFIED: JobView.UNSPECIFIED, BASIC: JobView.BASIC, FULL: JobView.FULL },
    listed: 'FULL',
    async list({ jobs }, view, pageToken) {
      const { jobs: seen, nextPageToken } = await jobs.listJobs({ view, pageSize: 200, pageToken });
      return { seen: seen.map(toJob), nextPageToken };
    },
    get: async ({ jobs }, jobId, view) => toJob((await jobs.getJob({ jobId, view })).job),
  },
  {
    resource: 'incident',
    service: 'incident',
    rows: `with e as (${ENVIRONMENT}), i as (
             insert into incidents (tenant_id, id, environment_id, title, opened_with_payload)
             select tenant_id, ${id('n')}, id, 'drift', true from e, generate_series(1, 200) n returning *),
           t as (insert into incident_transitions (tenant_id, incident_id, state, actor, note)
                 select tenant_id, id, 'DETECTED', 'ada', ${text(500)} from i)
           insert into incident_payloads (tenant_id, incident_id, payload_json) select tenant_id, id, ${STRUCT} from i`,
    views: { UNSPECIFIED: IncidentView.UNSPECIFIED, BASIC: IncidentView.BASIC, FULL: IncidentView.FULL },
    listed: 'BASIC',
    async list({ incidents }, view, pageToken) {
      const { incidents: seen, nextPageToken } = await incidents.listIncidents({ view, pageSize: 200, pageToken });
      return { seen: seen.map(toIncident), nextPageToken };
    },
    get: async ({ incidents }, incidentId, view) =>
      toIncident((await incidents.getIncident({ incidentId, view })).incident),
  },
  {
    resource: 'drift check',
    service: 'incident',
    // Some are from before their instant was recorded: they are listed last.
    rows: `with e as (${ENVIRONMENT}), c as (
             insert into drift_checks (tenant_id, id, environment_id, status, checked_at, summary)
             select tenant_id, ${id('n')}, id, 'DRIFT', case when n < 100 then now() end, ${STRUCT}
             from e, generate_series(1, 200) n returning *)
           insert into drift_check_workflows (tenant_id, check_id, workflow, flag)
           select tenant_id, id, 'call', 'MODIFIED' from c`,
    views: { UNSPECIFIED: DriftCheckView.UNSPECIFIED, BASIC: DriftCheckView.BASIC, FULL: DriftCheckView.FULL },
    listed: 'BASIC',
    async list({ incidents }, view, pageToken) {
      const { driftChecks, nextPageToken } = await incidents.listDriftChecks({ view, pageSize: 200, pageToken });
      return { seen: driftChecks.map(toCheck), nextPageToken };
    },
    get: async ({ incidents }, driftCheckId, view) =>
      toCheck((await incidents.getDriftCheck({ driftCheckId, view })).driftCheck),
  },
];

for (const { resource, service, rows, views, listed, list, get } of VIEWED) {
  test.serial(
    `${resource}s that are large: 200 are one BASIC page without, and several FULL pages with what is large`,
    async (t) => {
      const { stack } = t.context;
      const tenantId = `of-${resource.replaceAll(' ', '-')}`;
      await queryOnce(stack.superuserUrl(service), rows, [tenantId]);
      const clients = stack.clients({ tenantId, role: 'admin' });
      const all = async (view: number) => {
        const seen: Seen[] = [];
        let pages = 0;
        for (let pageToken = ''; pages === 0 || pageToken !== ''; pages += 1) {
          const page = await list(clients, view as View, pageToken);
          seen.push(...page.seen);
          pageToken = page.nextPageToken;
        }
        t.is(new Set(seen.map((one) => one.id)).size, 200);
        t.is(seen.length, 200);
        return { seen, pages };
      };
      const basic = await all(views.BASIC);
      t.is(basic.pages, 1);
      t.true(basic.seen.every(({ large }) => large === 0));
      const full = await all(views.FULL);
      t.true(full.pages > 1);
      t.true(full.seen.every(({ large }) => large >= 20_000));
      t.deepEqual(await all(views.UNSPECIFIED), listed === 'BASIC' ? basic : full);

      const [{ id: first } = { id: '' }] = full.seen;
      t.is((await get(clients, first, views.BASIC as View)).large, 0);
      t.deepEqual(await get(clients, first, views.FULL as View), full.seen[0]);
      t.deepEqual(await get(clients, first, views.UNSPECIFIED as View), full.seen[0]);
    },
  );
}

test('a run is watched without input and output in the BASIC view, and with them otherwise', async (t) => {
  const { stack } = t.context;
  const { runs } = stack.clients({ tenantId: 'watched', role: 'admin' });
  const input = { call: 17 };
  const { run } = await runs.createRun({ workflow: 'call', input });
  const runId = run?.id ?? '';
  await runs.finishRun({ runId, state: 3, output: { text: 'hello' } });
  for (const view of [RunView.UNSPECIFIED, RunView.BASIC, RunView.FULL]) {
    const seen = [];
    for await (const message of runs.watchRun({ runId, view })) seen.push(message.run);
    const isFull = view !== RunView.BASIC;
    t.deepEqual(seen.at(-1)?.input, isFull ? input : undefined);
    t.deepEqual(seen.at(-1)?.output, isFull ? { text: 'hello' } : undefined);
  }
});

const UNKNOWN_VIEW = 99;
const SERVICES: readonly (readonly [DescService, 'runs' | 'jobs' | 'incidents'])[] = [
  [RunService, 'runs'],
  [JobService, 'jobs'],
  [IncidentService, 'incidents'],
];

for (const [service, name] of SERVICES) {
  for (const { localName, input, methodKind } of service.methods) {
    const { view } = input.field;
    if (view === undefined) continue;
    test(`${localName} of ${service.typeName} refuses the number of no view as FIELD_INVALID`, async (t) => {
      const client = t.context.stack.clients({ tenantId: 'unknown-view', role: 'admin' })[name];
      const ids = input.fields.filter((field) => field.name.endsWith('_id'));
      const request = Object.fromEntries(ids.map((field) => [field.localName, '00000000-0000-7000-8000-000000000001']));
      const call = async () => {
        const answer = (client as never as Record<string, (request: unknown) => unknown>)[localName]?.({
          ...request,
          view: UNKNOWN_VIEW,
        });
        if (methodKind === 'unary') return await answer;
        for await (const _ of answer as AsyncIterable<unknown>);
        return undefined;
      };
      await t.throwsAsync(call, { message: /view must be one of its values/ });
    });
  }
}
