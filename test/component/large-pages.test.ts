import { readFileSync } from 'node:fs';
import { createFileRegistry, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import anyTest, { type TestFn } from 'ava';
import type { ServiceName } from '#deploy/local/stack.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run', 'job', 'incident', 'retention'] });
});
test.after.always((t) => t.context.stack?.dispose());

interface Page {
  readonly ids: readonly string[];
  readonly nextPageToken: string;
}

interface List {
  readonly rpc: string;
  readonly service: ServiceName;
  /** Makes 200 rows of the tenant, each with the longest texts that it can hold; $1 is the tenant. */
  readonly rows: string;
  readonly list: (stack: TestStack, tenantId: string, page: { pageSize: number; pageToken: string }) => Promise<Page>;
}

// Three bytes a character.
const text = (characters: number): string => `repeat('話', ${characters})`;
const id = (at: string): string => `('00000000-0000-7000-8000-' || lpad(${at}::text, 12, '0'))::uuid`;
const admin = (stack: TestStack, tenantId: string) => stack.clients({ tenantId, role: 'admin' });
const platform = (stack: TestStack) => stack.clients({ role: 'platform' }).retention;
const FAILED_ITEMS = `(select jsonb_agg(jsonb_build_object('key', ${text(1_024)}, 'code', 'AccessDenied',
  'message', ${text(500)})) from generate_series(1, 6))`;

const LISTS: readonly List[] = [
  {
    rpc: 'ListJobs',
    service: 'job',
    rows: `with made as (
        insert into jobs (tenant_id, id, display_name, state, error)
        select $1, ${id('n')}, ${text(200)}, 'FAILED', ${text(2_000)} from generate_series(1, 200) n returning *)
      insert into job_tasks (tenant_id, job_id, name, position, state, error)
      select tenant_id, id, 'task-' || n, n, 'FAILED', ${text(2_000)} from made, generate_series(1, 6) n`,
    async list(stack, tenantId, page) {
      const { jobs, nextPageToken } = await admin(stack, tenantId).jobs.listJobs(page);
      return { ids: jobs.map((job) => job.id), nextPageToken };
    },
  },
  {
    rpc: 'ListDeletions',
    service: 'job',
    rows: `insert into job_deletions (tenant_id, id, job_id, state, actor, subject, fingerprint, counts, failed_keys)
      select $1, ${id('n')}, ${id('n')}, 'STUCK', 'a', 'a', 'f', '{}', ${FAILED_ITEMS} from generate_series(1, 200) n`,
    async list(stack, tenantId, page) {
      const { deletions, nextPageToken } = await admin(stack, tenantId).jobs.listDeletions(page);
      return { ids: deletions.map((deletion) => deletion.id), nextPageToken };
    },
  },
  {
    rpc: 'ListRuns',
    service: 'run',
    rows: `insert into workflow_runs (tenant_id, id, workflow, display_name, state, error, parked_reason, input, output,
        deleted_at, deleted_by, deleted_reason)
      select $1, ${id('n')}, 'call', ${text(200)}, 'FAILED', ${text(2_000)}, ${text(5_000)},
        jsonb_build_object('x', ${text(20_000)}), jsonb_build_object('x', ${text(20_000)}), now(), 'a', ${text(500)}
      from generate_series(1, 200) n`,
    async list(stack, tenantId, page) {
      const { runs, nextPageToken } = await admin(stack, tenantId).runs.listRuns({ ...page, deletedOnly: true });
      return { ids: runs.map((run) => run.id), nextPageToken };
    },
  },
  {
    rpc: 'ListRunSteps',
    service: 'run',
    rows: `with made as (
        insert into workflow_runs (tenant_id, id, workflow, display_name, state)
        values ($1, ${id('900')}, 'call', '', 'RUNNING') returning *)
      insert into workflow_run_steps (tenant_id, run_id, name, position, state, error, removed)
      select tenant_id, id, 'step-' || n, n, 'FAILED', ${text(2_000)},
        (select jsonb_object_agg('type-' || k, 1) from generate_series(1, 800) k)
      from made, generate_series(1, 200) n`,
    async list(stack, tenantId, page) {
      const { runs } = admin(stack, tenantId);
      const runId = '00000000-0000-7000-8000-000000000900';
      const { steps, nextPageToken } = await runs.listRunSteps({ ...page, runId });
      return { ids: steps.map(({ name }) => name), nextPageToken };
    },
  },
  {
    rpc: 'ListAuditEntries',
    service: 'run',
    rows: `insert into audit_entries (tenant_id, actor, subject, action, target_type, target_id, outcome, counts)
      select $1, 'a', 'a', 'purge', 'run', n, 'COMPLETE', jsonb_build_object('x', ${text(9_000)})
      from generate_series(1, 200) n`,
    async list(stack, tenantId, page) {
      const { entries, nextPageToken } = await admin(stack, tenantId).runs.listAuditEntries(page);
      return { ids: entries.map((entry) => entry.id), nextPageToken };
    },
  },
  {
    rpc: 'ListPurges',
    service: 'retention',
    rows: `insert into retention_purges (id, trigger, validate_only, actor, subject, reason, fingerprint, subjects)
      select ${id('n')}, 'PURGE', false, $1, 'a', ${text(500)}, 'f',
        (select array_agg('subject_' || repeat('x', 50) || k) from generate_series(1, 400) k)
      from generate_series(1, 200) n`,
    async list(stack, tenantId, page) {
      const { purges, nextPageToken } = await platform(stack).listPurges(page);
      return { ids: purges.filter(({ actor }) => actor === tenantId).map((purge) => purge.id), nextPageToken };
    },
  },
  {
    rpc: 'GetPurge',
    service: 'retention',
    rows: `with made as (
        insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint)
        values (${id('900')}, 'PURGE', false, 'a', 'a', 'f') returning *),
      items as (
        insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, finished_at)
        select $1 || '-' || n, id, 'FAILED', false, 'a', now() from made, generate_series(1, 200) n returning *)
      insert into retention_purge_subjects (tenant_id, purge_id, subject, state, validate_only, kind, source, error)
      select tenant_id, purge_id, 'subject_' || k, 'PARTIAL', false, 'KEEP_ALL', 'PLAN', ${text(1_000)}
      from items, generate_series(1, 10) k`,
    async list(stack, _, page) {
      const purgeId = '00000000-0000-7000-8000-000000000900';
      const { items, nextPageToken } = await platform(stack).getPurge({ ...page, purgeId });
      return { ids: items.map((item) => item.tenantId), nextPageToken };
    },
  },
  {
    rpc: 'ListPlans',
    service: 'retention',
    rows: `with made as (
        insert into plans (name) select 'X' || n from generate_series(1, 200) n returning *),
      named as (insert into subjects (name, owner, resource_type, age_of, has_floor)
        select 'subject_' || k, 'x', 'x', 'x', false from generate_series(1, 100) k returning *)
      insert into plan_windows (plan, subject, version, kind, days, plan_version, actor, reason)
      select made.name, 'subject_' || k, 1, 'KEEP_ALL', null, 1, $1, ${text(500)}
      from made, generate_series(1, 100) k`,
    async list(stack, _, page) {
      const { plans, nextPageToken } = await platform(stack).listPlans(page);
      return { ids: plans.map(({ name }) => name).filter((name) => name.startsWith('X')), nextPageToken };
    },
  },
  {
    rpc: 'ListDeletions',
    service: 'run',
    rows: `with made as (
        insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, reason, fingerprint)
        select $1, ${id('n')}, ${id('n')}, 'PURGE', 'STUCK', 'a', 'a', ${text(500)}, 'f'
        from generate_series(1, 200) n returning *)
      insert into deletion_steps (tenant_id, deletion_id, position, participant, state, last_error)
      select tenant_id, id, k, 'participant-' || k, 'STUCK', ${text(2_000)} from made, generate_series(1, 5) k`,
    async list(stack, tenantId, page) {
      const { deletions, nextPageToken } = await admin(stack, tenantId).runs.listDeletions(page);
      return { ids: deletions.map((deletion) => deletion.id), nextPageToken };
    },
  },
  ...(['run', 'job'] as const).flatMap((service): List[] => [
    {
      rpc: 'ListBulkDeletions',
      service,
      rows: `insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, fingerprint, force, filter,
          last_error, counts, finished_at)
        select $1, ${id('n')}, 'PURGE', 'COMPLETE', 'a', 'a', ${text(500)}, 'f', false, '{"states": []}', ${text(7_000)},
          '[]', now()
        from generate_series(1, 200) n`,
      async list(stack, tenantId, page) {
        const { runs, jobs } = admin(stack, tenantId);
        const { bulkDeletions, nextPageToken } = await (service === 'run' ? runs : jobs).listBulkDeletions(page);
        return { ids: bulkDeletions.map((bulk) => bulk.id), nextPageToken };
      },
    },
    {
      rpc: 'ListBulkDeletionItems',
      service,
      rows: `with made as (
          insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, fingerprint, force, filter,
            counts, finished_at)
          values ($1, ${id('900')}, 'PURGE', 'COMPLETE', 'a', 'a', 'r', 'f', false, '{"states": []}', '[]', now()) returning *)
        insert into bulk_deletion_items (tenant_id, bulk_deletion_id, position, target_id, etag, state, last_error)
        select tenant_id, id, n, ${id('n')}, 'e', 'STUCK', ${text(7_000)} from made, generate_series(1, 200) n`,
      async list(stack, tenantId, page) {
        const { runs, jobs } = admin(stack, tenantId);
        const request = { ...page, bulkDeletionId: '00000000-0000-7000-8000-000000000900' };
        const { items, nextPageToken } = await (service === 'run' ? runs : jobs).listBulkDeletionItems(request);
        return { ids: items.map((item) => item.targetId), nextPageToken };
      },
    },
  ]),
  {
    rpc: 'ListApprovals',
    service: 'incident',
    rows: `with e as (
        insert into environments (tenant_id, id, display_name) values ($1, gen_random_uuid(), 'e') returning *),
      i as (insert into incidents (tenant_id, id, environment_id, title)
        select tenant_id, gen_random_uuid(), id, 'drift' from e returning *)
      insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, request_notes,
        decided_by, decision_notes, decided_at)
      select tenant_id, ${id('n')}, id, 'CLOSED', 'APPROVED', 'a', ${text(5_000)}, 'a', ${text(5_000)}, now()
      from i, generate_series(1, 200) n`,
    async list(stack, tenantId, page) {
      const { approvals, nextPageToken } = await admin(stack, tenantId).incidents.listApprovals(page);
      return { ids: approvals.map((approval) => approval.id), nextPageToken };
    },
  },
  {
    rpc: 'ListUnplannedTenants',
    service: 'retention',
    rows: `insert into tenants_with_data (tenant_id, subject)
      select $1 || '-' || n, 'subject_' || repeat('x', 50) || k from generate_series(1, 200) n, generate_series(1, 400) k`,
    async list(stack, tenantId, page) {
      const { tenants, nextPageToken } = await platform(stack).listUnplannedTenants(page);
      return { ids: tenants.map((tenant) => tenant.tenantId).filter((of) => of.startsWith(tenantId)), nextPageToken };
    },
  },
];

/** Lists whose largest page fits one answer, and why. They are cut like the others if that ever changes. */
const BOUNDED: Readonly<Record<string, string>> = {
  'lethe.run.v1.RunService/ListParticipants': 'names of settings, and a reason of 500 characters',
  'lethe.run.v1.RunService/ListExecutions': 'a workflow of 100 characters and a status of 50',
  'lethe.job.v1.JobService/ListArtifacts': 'a name of 200 characters and a media type of 100',
  'lethe.job.v1.JobService/ListAuditEntries': 'the handler of RunService, which is listed here',
  'lethe.incident.v1.IncidentService/ListAuditEntries': 'the handler of RunService, which is listed here',
  'lethe.retention.v1.RetentionService/ListAuditEntries': 'the handler of RunService, which is listed here',
  'lethe.incident.v1.IncidentService/ListEnvironments': 'a name of 200 characters',
  'lethe.incident.v1.IncidentService/ListIncidents': 'a title of 200 characters; FULL ones are in views.test.ts',
  'lethe.incident.v1.IncidentService/ListDriftChecks': 'counts and times; FULL ones are in views.test.ts',
  'lethe.retention.v1.RetentionService/ListPlanWindows': 'a reason of 500 characters',
  'lethe.retention.v1.RetentionService/ListTenantPlans': 'a reason of 500 characters',
  'lethe.retention.v1.RetentionService/ListSubjects': 'names that an owner declares, of 63 characters',
  'lethe.retention.v1.RetentionService/ListExecutionPolicies': 'numbers',
  'lethe.owner.v1.RetentionOwnerService/ListSubjects': 'names that an owner declares, of 63 characters',
  'lethe.owner.v1.RetentionOwnerService/ListTenants': '1,000 tenants of 63 characters',
  'lethe.status.v1.StatusService/ListParkedWork': 'ids, states and reasons of a word',
  'lethe.status.v1.StatusService/ListOldestWork': 'one row for each kind of work',
};

const TYPE_NAME: Readonly<Record<ServiceName, string>> = {
  run: 'lethe.run.v1.RunService',
  job: 'lethe.job.v1.JobService',
  incident: 'lethe.incident.v1.IncidentService',
  retention: 'lethe.retention.v1.RetentionService',
};

test('every list of the contracts ends its pages by bytes here, or it is said why the largest fits', (t) => {
  const image = readFileSync(new URL('../../gen/image.binpb', import.meta.url));
  const lists = [...createFileRegistry(fromBinary(FileDescriptorSetSchema, image))].flatMap((desc) =>
    desc.kind === 'service' && desc.typeName.startsWith('lethe.')
      ? desc.methods
          .filter(
            ({ name, output }) => name.startsWith('List') || output.fields.some((f) => f.name === 'next_page_token'),
          )
          .map(({ name }) => `${desc.typeName}/${name}`)
      : [],
  );
  const tested = LISTS.map(({ rpc, service }) => `${TYPE_NAME[service]}/${rpc}`);
  t.deepEqual([...tested, ...Object.keys(BOUNDED)].toSorted(), lists.toSorted());
});

for (const { rpc, service, rows, list } of LISTS) {
  test.serial(`${rpc} of ${service}, of 200 large rows gives each once, in pages that fit an answer`, async (t) => {
    const { stack } = t.context;
    const tenantId = `of-${rpc.toLowerCase()}`;
    await queryOnce(stack.superuserUrl(service), rows, [tenantId]);
    const seen: string[] = [];
    let pages = 0;
    for (let pageToken = ''; pages === 0 || pageToken !== ''; pages += 1) {
      const page = await list(stack, tenantId, { pageSize: 200, pageToken });
      seen.push(...page.ids);
      pageToken = page.nextPageToken;
    }
    t.is(seen.length, 200);
    t.is(new Set(seen).size, 200);
    t.true(pages > 1 && pages < 100, `${pages} pages`);
  });
}
