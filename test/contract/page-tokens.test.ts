import { create, type DescService } from '@bufbuild/protobuf';
import { createContextValues, type HandlerContext } from '@connectrpc/connect';
import test from 'ava';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { CALLER } from '#libs/grpc/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { encodePageToken, type PageScope } from '#libs/kernel/page.ts';
import type { Owner } from '#libs/owner/owner.ts';
import { bindOwner } from '#libs/owner/owner-service.ts';
import { listParkedWork } from '#libs/service/parked-work.ts';
import { incidentService } from '#services/incident/adapters/grpc/incident-service.ts';
import { bulkService as bulkJobs } from '#services/job/adapters/grpc/bulk-handlers.ts';
import { jobService } from '#services/job/adapters/grpc/job-service.ts';
import { retentionService } from '#services/retention/adapters/grpc/retention-service.ts';
import { bulkService as bulkRuns } from '#services/run/adapters/grpc/bulk-handlers.ts';
import { executionService } from '#services/run/adapters/grpc/execution-service.ts';
import { receiptHandlers } from '#services/run/adapters/grpc/receipt-handlers.ts';
import { runService } from '#services/run/adapters/grpc/run-service.ts';

type Handlers = Readonly<Record<string, unknown>>;
type Handler = (request: unknown, context: HandlerContext) => Promise<unknown>;

class Asked extends Error {}

/** What stands behind the handlers: it throws when it is asked for rows. */
const store: never = new Proxy(() => undefined, {
  get: () => store,
  apply() {
    throw new Asked();
  },
}) as never;

const SERVICES: readonly (readonly [DescService, Handlers])[] = [
  [
    RunService,
    {
      ...runService(store),
      ...receiptHandlers(store),
      ...executionService(store),
      ...bulkRuns(store),
      ...auditHandlers(store),
    },
  ],
  [JobService, { ...jobService(store), ...bulkJobs(store), ...auditHandlers(store) }],
  [IncidentService, { ...incidentService(store), ...auditHandlers(store) }],
  [RetentionService, { ...retentionService(store), ...auditHandlers(store) }],
  [StatusService, { listParkedWork: listParkedWork(store) }],
];

interface List {
  readonly request?: Readonly<Record<string, unknown>>;
  /** What the handler calls itself, where that is not its name. */
  readonly rpc?: string;
  readonly filter?: PageScope['filter'];
  readonly tenantId?: string;
  /** A keyset of the list, of which each part that is no mere text can be wrong. */
  readonly key: readonly string[];
}

const TENANT = 'acme';
const AT = '2026-01-31T12:00:00.123456Z';
const ID = newId();
const OTHER_ID = newId();
const NEWEST_FIRST = [AT, ID];
const NO_FILTER = { state: undefined, environmentId: undefined, runId: undefined };
const AUDIT: List = {
  filter: { actor: undefined, action: undefined, targetId: undefined, after: undefined, before: undefined },
  key: NEWEST_FIRST,
};
const bulkOf = (targetType: string): Readonly<Record<string, List>> => ({
  listBulkDeletions: {
    rpc: `${targetType}.ListBulkDeletions`,
    filter: { state: undefined },
    key: NEWEST_FIRST,
  },
  listBulkDeletionItems: {
    rpc: `${targetType}.ListBulkDeletionItems`,
    request: { bulkDeletionId: OTHER_ID },
    filter: { bulkDeletionId: OTHER_ID, state: undefined },
    key: ['7'],
  },
});

const LISTS: Readonly<Record<string, Readonly<Record<string, List>>>> = {
  RunService: {
    listRuns: {
      filter: { state: undefined, workflow: undefined, min: undefined, max: undefined, showDeleted: false },
      key: NEWEST_FIRST,
    },
    listRunSteps: { request: { runId: OTHER_ID }, filter: { runId: OTHER_ID, showDeleted: false }, key: ['7'] },
    listDeletions: {
      rpc: 'run.ListDeletions',
      filter: { state: undefined, mode: undefined, runId: undefined },
      key: NEWEST_FIRST,
    },
    listExecutions: {
      filter: { workflow: undefined, status: undefined, state: undefined, minAge: undefined, maxAge: undefined },
      key: [AT, ID, AT],
    },
    listParticipants: { tenantId: '', key: ['job'] },
    listAuditEntries: AUDIT,
    ...bulkOf('run'),
  },
  JobService: {
    listJobs: {
      filter: { state: undefined, runId: undefined, min: undefined, max: undefined, showDeleted: false },
      key: NEWEST_FIRST,
    },
    listArtifacts: { request: { jobId: OTHER_ID }, filter: { jobId: OTHER_ID, kind: undefined }, key: ['LOG', 'a'] },
    listDeletions: { rpc: 'job.ListDeletions', filter: { state: undefined, jobId: undefined }, key: NEWEST_FIRST },
    listAuditEntries: AUDIT,
    ...bulkOf('job'),
  },
  IncidentService: {
    listEnvironments: { filter: { status: undefined }, key: ['production'] },
    listDriftChecks: { filter: { environmentId: undefined, status: undefined }, key: NEWEST_FIRST },
    listIncidents: { filter: { ...NO_FILTER, showDeleted: false }, key: NEWEST_FIRST },
    listApprovals: { filter: { state: undefined, incidentId: undefined }, key: NEWEST_FIRST },
    listAuditEntries: AUDIT,
  },
  RetentionService: {
    listPlans: { key: ['PRO'] },
    listPlanWindows: { request: { name: 'PRO' }, filter: { name: 'PRO' }, key: [AT, 'jobs', '7'] },
    listSubjects: { filter: { state: undefined }, key: ['jobs'] },
    listUnplannedTenants: { key: ['acme'] },
    listTenantPlans: {
      request: { showHistory: true },
      filter: { tenantId: TENANT, plan: undefined, showHistory: true },
      key: ['7'],
    },
    listExecutionPolicies: { key: ['acme'] },
    getPurge: { request: { purgeId: OTHER_ID }, filter: { purgeId: OTHER_ID }, key: ['acme'] },
    listPurges: { filter: { state: undefined, tenantId: TENANT }, key: NEWEST_FIRST },
    listAuditEntries: AUDIT,
  },
  StatusService: { listParkedWork: { key: ['acme', ID, 'a'] } },
};

const context = {
  values: createContextValues().set(CALLER, {
    subject: 'ada',
    actor: 'ada',
    kind: 'user',
    tenantId: TENANT,
    role: 'owner',
    scopes: new Set<string>(),
  }),
  signal: new AbortController().signal,
} as unknown as HandlerContext;

/** What no column of that part's type can be cast from, and what no column at all can. */
const wrongPartsFor = (part: string): readonly string[] => {
  if (part === AT) return ['x', '2026-02-30T00:00:00Z', 'a\0b'];
  if (part === ID) return ['x', 'a\0b'];
  return part === '7' ? ['x', '-1', '9'.repeat(30)] : ['a\0b', '\ud800'];
};

for (const [service, handlers] of SERVICES) {
  const lists = LISTS[service.name] ?? {};
  test(`every list of ${service.name} is in the table`, (t) => {
    const paged = service.methods.filter(({ input }) => input.fields.some(({ name }) => name === 'page_token'));
    t.deepEqual(Object.keys(lists).toSorted(), paged.map(({ localName }) => localName).toSorted());
  });
  for (const [name, list] of Object.entries(lists)) {
    test(`${service.name}.${name} refuses a sealed page token whose parts cannot be what it orders by`, async (t) => {
      const method = service.methods.find(({ localName }) => localName === name);
      if (!method) return t.fail('there is no such RPC');
      const { request = {}, rpc = method.name, filter = {}, tenantId = TENANT } = list;
      const answerTo = async (key: readonly string[]): Promise<unknown> => {
        const pageToken = encodePageToken({ rpc, tenantId, filter }, key);
        try {
          return await (handlers[name] as Handler)(create(method.input, { ...request, pageToken }), context);
        } catch (error) {
          return error;
        }
      };
      t.true((await answerTo(list.key)) instanceof Asked, 'the token of a page is taken');
      for (const [index, part] of list.key.entries()) {
        for (const wrong of wrongPartsFor(part)) {
          const error = await answerTo(list.key.with(index, wrong));
          if (!(error instanceof DomainError)) return t.fail(`${JSON.stringify(wrong)}: ${String(error)}`);
          t.like(error, { reason: 'FIELD_INVALID', metadata: { fields: 'page_token' } });
        }
      }
    });
  }
}

test('a walk of an owner refuses a sealed cursor whose position cannot be one of its subject', async (t) => {
  const key = [
    { column: 'id', type: 'uuid' },
    { column: 'n', type: 'bigint' },
    { column: 'at', type: 'timestamptz' },
    { column: 'name', type: 'text' },
  ];
  const { implementation } = bindOwner({ subjects: [{ name: 'notes', key }] } as unknown as Owner);
  const rule = { subject: 'notes', retentionDays: 30, latestCutoffTime: { seconds: 0n, nanos: 0 } };
  const filter = {
    subject: 'notes',
    operationId: undefined,
    retentionDays: 30,
    minToKeep: '0',
    staleAfterDays: undefined,
  };
  const isRefused = async (part: string, after: string, position: readonly string[]): Promise<boolean> => {
    const scope = { rpc: 'RetentionOwnerService/Count', tenantId: TENANT, filter };
    const cursor = Buffer.from(encodePageToken(scope, [part, after, ...position]));
    const request = create(RetentionOwnerService.method.count.input, { rule, cursor });
    const error = await ((implementation as Handlers)['count'] as Handler)(request, context).catch(
      (thrown: unknown) => thrown,
    );
    return error instanceof DomainError && error.metadata['fields'] === 'cursor';
  };
  const age = '2026-01-31 12:00:00.123456+00';
  const good = [age, ID, '-7', age, 'a'];
  for (const [part, after, position] of [
    ['expired', 'after', good],
    ['dated', 'after', good.with(0, 'infinity')],
    ['dated', 'after', good.with(0, '0044-03-15 00:00:00+00 BC')],
    ['undated', 'after', good.with(0, '')],
    ['undated', '', Array(5).fill('')],
    // As long as an index entry of Postgres can be, in characters of which the token takes most.
    ['expired', 'after', good.with(4, '\u20ac'.repeat(900))],
    ['dated', 'after', good.with(4, '\n'.repeat(2_700))],
  ] as const)
    t.false(await isRefused(part, after, position), `${part} ${position}`);
  for (const [part, position] of [
    ['all', good],
    ['expired', good.with(0, '')],
    ['dated', good.with(0, 'x')],
    ['undated', good],
    ...['x', '2026-99-01 00:00:00+00', ''].map((bad) => ['expired', good.with(3, bad)]),
    ...['x', '1.5', '9'.repeat(30), ''].map((bad) => ['expired', good.with(2, bad)]),
    ['expired', good.with(1, 'x')],
    ['expired', good.with(4, '\ud800')],
    ['expired', good.with(4, 'a'.repeat(20_000))],
    ['expired', Array(5).fill('')],
  ] as const)
    t.true(await isRefused(part as string, 'after', position as string[]), `${part} ${JSON.stringify(position)}`);
});
