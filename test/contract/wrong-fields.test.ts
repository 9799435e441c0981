import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  create,
  type DescMessage,
  type DescService,
  fromBinary,
  type JsonObject,
  type Message,
  ScalarType,
  toBinary,
} from '@bufbuild/protobuf';
import { createContextValues, type HandlerContext } from '@connectrpc/connect';
import test from 'ava';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { CALLER } from '#libs/grpc/caller.ts';
import { checkRequest, MAX_STRUCT_DEPTH } from '#libs/grpc/check-request.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { incidentService } from '#services/incident/adapters/grpc/incident-service.ts';
import { bulkService as bulkJobs } from '#services/job/adapters/grpc/bulk-handlers.ts';
import { jobService } from '#services/job/adapters/grpc/job-service.ts';
import { retentionService } from '#services/retention/adapters/grpc/retention-service.ts';
import { bulkService as bulkRuns } from '#services/run/adapters/grpc/bulk-handlers.ts';
import { deletionHandlers } from '#services/run/adapters/grpc/deletion-handlers.ts';
import { executionService } from '#services/run/adapters/grpc/execution-service.ts';
import { receiptHandlers } from '#services/run/adapters/grpc/receipt-handlers.ts';
import { runService } from '#services/run/adapters/grpc/run-service.ts';
import { sagaService } from '#services/run/adapters/grpc/saga-service.ts';
import { FOREIGN_OWNER_NEEDS, hasForeignOwner } from '#test/support/foreign-owner.ts';
import { testIfFound } from '#test/support/require.ts';

type Handler = (request: unknown, context: HandlerContext) => unknown;
type Row = readonly [rpc: string, request: Readonly<Record<string, unknown>>, fields: string];

// The fields are read before anything is done, so nothing stands behind the handlers.
const nothing: never = new Proxy({}, { get: () => nothing }) as never;
const SERVICES: readonly (readonly [DescService, Readonly<Record<string, unknown>>])[] = [
  [
    RunService,
    {
      ...runService(nothing),
      ...deletionHandlers(nothing),
      ...receiptHandlers(nothing),
      ...sagaService(nothing),
      ...executionService(nothing),
      ...bulkRuns(nothing),
      ...auditHandlers(nothing),
    },
  ],
  [JobService, { ...jobService(nothing), ...bulkJobs(nothing), ...auditHandlers(nothing) }],
  [IncidentService, { ...incidentService(nothing), ...auditHandlers(nothing) }],
  [RetentionService, { ...retentionService(nothing), ...auditHandlers(nothing) }],
];

const BAD = 'no such thing';
const LONG = 'x'.repeat(2_001);
const time = { seconds: 1n << 60n, nanos: 0 };
const page = { pageSize: -1, pageToken: '!' };
const etag = LONG;
const requestId = BAD;
const reason = LONG;
const [PAGE, ORDER] = ['page_size,page_token', 'run_id,request_id,etag,reason'];
const audit = { ...page, filter: { tenantId: BAD, actor: LONG, action: LONG, targetId: LONG, afterTime: time } };
const AUDIT = `${PAGE},filter.tenant_id,filter.actor,filter.action,filter.target_id,filter.after_time`;

/** Every RPC that has more than one field that can be wrong, with all of them wrong. */
const TABLE: Readonly<Record<string, readonly Row[]>> = {
  RunService: [
    ['createRun', { requestId, workflow: '', displayName: LONG }, 'request_id,workflow,display_name'],
    ['startRun', { requestId, workflow: '', displayName: LONG }, 'request_id,workflow,display_name'],
    [
      'recordStep',
      { runId: BAD, name: '', state: 99, participants: Array(11).fill('a'), error: 'e' },
      'run_id,name,state,participants,error',
    ],
    ['finishRun', { runId: BAD, state: 99, error: 'e', output: {}, etag }, 'run_id,state,error,output,etag'],
    ['failRun', { runId: BAD, error: '', etag }, 'run_id,error,etag'],
    ['cancelRun', { runId: BAD, reason, etag }, 'run_id,reason,etag'],
    ['retryRun', { runId: BAD, reason, etag }, 'run_id,reason,etag'],
    [
      'listRuns',
      { ...page, state: 99, workflow: '?', minCreateTime: time, maxCreateTime: time },
      `${PAGE},state,workflow,min_create_time,max_create_time`,
    ],
    ['listRunSteps', { ...page, runId: BAD }, `run_id,${PAGE}`],
    ['deleteRun', { runId: BAD, requestId, etag, reason }, ORDER],
    ['undeleteRun', { runId: BAD, requestId, etag, reason }, ORDER],
    ['purgeRun', { runId: BAD, requestId, etag, reason: '' }, ORDER],
    ['listDeletions', { ...page, state: 99, mode: 99, runId: BAD }, `${PAGE},state,mode,run_id`],
    ['redriveDeletion', { deletionId: BAD, reason }, 'deletion_id,reason'],
    ['listParticipants', page, PAGE],
    ['confirmParticipant', { name: '', reason: '' }, 'name,reason'],
    ['retireParticipant', { name: '', reason: '' }, 'name,reason'],
    [
      'recordExecutions',
      {
        executions: [
          { id: BAD, workflow: '' },
          { id: BAD, workflow: '' },
        ],
      },
      'executions[0].id,executions[0].workflow,executions[1].id,executions[1].workflow',
    ],
    [
      'listExecutions',
      { ...page, workflow: LONG, status: LONG, state: 99, afterTime: time, beforeTime: time },
      `${PAGE},workflow,status,state,after_time,before_time`,
    ],
    ['countExecutions', { firstDay: BAD, lastDay: BAD, workflow: LONG }, 'first_day,last_day,workflow'],
    [
      'purgeRuns',
      { filter: { workflow: '?', minCreateTime: time }, mode: 99, requestId, expectedCount: -1n, reason: '' },
      'filter.workflow,filter.min_create_time,mode,request_id,expected_count,reason',
    ],
    ['listBulkDeletions', { ...page, state: 99 }, `${PAGE},state`],
    ['listBulkDeletionItems', { ...page, bulkDeletionId: BAD, state: 99 }, `bulk_deletion_id,${PAGE},state`],
    ['cancelBulkDeletion', { bulkDeletionId: BAD, reason }, 'bulk_deletion_id,reason'],
    ['listAuditEntries', audit, AUDIT],
  ],
  JobService: [
    [
      'createJob',
      { requestId, displayName: LONG, runId: BAD, step: LONG, taskNames: ['?', '!'] },
      'request_id,display_name,run_id,step,task_names[0],task_names[1]',
    ],
    [
      'listJobs',
      { ...page, state: 99, runId: BAD, minCreateTime: time, maxCreateTime: time },
      `state,run_id,min_create_time,max_create_time,${PAGE}`,
    ],
    ['downloadArtifact', { jobId: BAD, kind: 99, name: '' }, 'job_id,kind,name'],
    ['listArtifacts', { ...page, jobId: BAD, kind: 99 }, `job_id,kind,${PAGE}`],
    [
      'claimJob',
      { requestId, workerId: '', leaseDuration: { seconds: 0n, nanos: 1 } },
      'request_id,worker_id,lease_duration',
    ],
    [
      'updateTask',
      { jobId: BAD, leaseDuration: { seconds: 0n, nanos: 1 }, taskName: '?', state: 99, error: 'e' },
      'job_id,lease_duration,task_name,state,error',
    ],
    ['finishJob', { jobId: BAD, state: 99, error: 'e' }, 'job_id,state,error'],
    ['cancelJob', { jobId: BAD, reason, etag }, 'job_id,reason,etag'],
    ['deleteJob', { jobId: BAD, requestId, reason, etag }, 'job_id,request_id,reason,etag'],
    [
      'uploadArtifact',
      { part: { case: 'header', value: { jobId: BAD, name: '', contentType: LONG } } },
      'header.job_id,header.kind,header.name,header.content_type',
    ],
    ['listDeletions', { ...page, state: 99, jobId: BAD }, `state,job_id,${PAGE}`],
    ['redriveDeletion', { deletionId: BAD, reason }, 'deletion_id,reason'],
    [
      'sweepOrphans',
      { tenantIds: ['a b', 'c d'], minAge: { seconds: 1n, nanos: 0 }, reason: '', maxSharePercent: 101 },
      'tenant_ids[0],tenant_ids[1],min_age,reason,max_share_percent',
    ],
    [
      'deleteJobs',
      { filter: { runId: BAD }, requestId, expectedCount: -1n, reason: '' },
      'filter.run_id,request_id,expected_count,reason',
    ],
    ['listBulkDeletions', { ...page, state: 99 }, `${PAGE},state`],
    ['listBulkDeletionItems', { ...page, bulkDeletionId: BAD, state: 99 }, `bulk_deletion_id,${PAGE},state`],
    ['cancelBulkDeletion', { bulkDeletionId: BAD, reason }, 'bulk_deletion_id,reason'],
    ['listAuditEntries', audit, AUDIT],
  ],
  IncidentService: [
    ['createEnvironment', { requestId, displayName: '' }, 'request_id,display_name'],
    ['listEnvironments', { ...page, driftStatus: 99 }, `drift_status,${PAGE}`],
    [
      'recordDriftCheck',
      { requestId, environmentId: BAD, status: 99, checkTime: time, workflows: [{ workflow: '', flag: 99 }] },
      'request_id,environment_id,status,check_time,workflows[0].workflow,workflows[0].flag',
    ],
    ['listDriftChecks', { ...page, environmentId: BAD, status: 99 }, `environment_id,status,${PAGE}`],
    [
      'openIncident',
      { requestId, environmentId: BAD, driftCheckId: BAD, title: '', runId: BAD, step: LONG },
      'request_id,environment_id,drift_check_id,title,run_id,step',
    ],
    ['listIncidents', { ...page, state: 99, environmentId: BAD, runId: BAD }, `state,environment_id,run_id,${PAGE}`],
    ['transitionIncident', { incidentId: BAD, state: 99, note: LONG, etag }, 'incident_id,state,note,etag'],
    [
      'requestApproval',
      { requestId, incidentId: BAD, requestedState: 99, notes: LONG },
      'request_id,incident_id,requested_state,notes',
    ],
    ['decideApproval', { approvalId: BAD, decision: 99, notes: LONG, etag }, 'approval_id,decision,notes,etag'],
    ['listApprovals', { ...page, state: 99, incidentId: BAD }, `state,incident_id,${PAGE}`],
    ['listAuditEntries', audit, AUDIT],
  ],
  RetentionService: [
    [
      'updatePlan',
      {
        name: 'FREE',
        windows: [{ plan: 'PRO', subject: '?', kind: 99, minToKeep: -1n }],
        etag,
        requestId,
        reason: '',
      },
      'windows[0].plan,windows[0].subject,windows[0].kind,windows[0].min_to_keep,etag,request_id,reason',
    ],
    ['listPlans', page, PAGE],
    ['listPlanWindows', { ...page, name: '?' }, `name,${PAGE}`],
    ['listSubjects', { ...page, state: 99 }, `${PAGE},state`],
    ['confirmSubject', { name: '', reason: '' }, 'name,reason'],
    ['retireSubject', { name: '', reason: '' }, 'name,reason'],
    ['listUnplannedTenants', page, PAGE],
    [
      'setTenantPlan',
      { tenantId: BAD, planName: '?', effectiveTime: time, reason, etag, requestId },
      'tenant_id,plan_name,effective_time,reason,etag,request_id',
    ],
    ['listTenantPlans', { ...page, planName: '?', tenantId: BAD }, `${PAGE},plan_name,tenant_id`],
    ['resolveRetention', { tenantId: BAD, atTime: time }, 'tenant_id,at_time'],
    [
      'upsertExecutionPolicy',
      { tenantId: BAD, retentionDays: 0, minExecutionsToKeep: -1n, staleAfterDays: -1, etag },
      'tenant_id,retention_days,min_executions_to_keep,stale_after_days,etag',
    ],
    ['deleteExecutionPolicy', { tenantId: BAD, etag }, 'etag,tenant_id'],
    ['listExecutionPolicies', page, PAGE],
    [
      'purge',
      { tenantIds: ['a b', 'c d'], subjects: ['?', '!'], requestId, reason },
      'tenant_ids[0],tenant_ids[1],subjects[0],subjects[1],request_id,reason',
    ],
    [
      'purgeNow',
      { tenantId: BAD, subjects: ['?', '!'], requestId, reason },
      'tenant_id,subjects[0],subjects[1],request_id,reason',
    ],
    ['getPurge', { ...page, purgeId: BAD }, `purge_id,${PAGE}`],
    ['listPurges', { ...page, state: 99, tenantId: BAD }, `${PAGE},state,tenant_id`],
    [
      'approveHeldPurge',
      { purgeId: BAD, tenantId: BAD, subjects: ['?'], reason: '' },
      'purge_id,tenant_id,subjects[0],reason',
    ],
    ['listAuditEntries', audit, AUDIT],
  ],
};
// One field that can be wrong, or none.
const SINGLE = new Set(
  [
    'getRun previewPurgeRun watchRun getDeletion watchDeletion getBulkDeletion watchBulkDeletion getJob',
    'getEnvironment getDriftCheck getIncident getDriftDashboard',
    'getPlan stopPurges resumePurges getPurgeStop getTenantPlan getExecutionPolicy',
  ].flatMap((names) => names.split(' ')),
);

const context = {
  values: createContextValues().set(CALLER, {
    subject: 'ada',
    actor: 'ada',
    kind: 'user',
    tenantId: 'acme',
    role: 'owner',
    scopes: new Set<string>(),
  }),
  signal: new AbortController().signal,
} as unknown as HandlerContext;

/** A client's stream of one message. */
async function* streamOf(message: unknown): AsyncIterable<unknown> {
  yield message;
}

/** What the handler refuses the request with. */
async function refusalOf(handler: Handler, request: unknown): Promise<unknown> {
  try {
    const answer = handler(request, context) as Promise<unknown> | AsyncIterable<unknown>;
    if (Symbol.asyncIterator in answer) for await (const _ of answer);
    else await answer;
    return undefined;
  } catch (error) {
    return error;
  }
}

const CONTRACTS = [...SERVICES.map(([service]) => service), ParticipantService, RetentionOwnerService];

/** Requests of a type that have one text or Struct each, which holds U+0000, with the path of that field. */
function* withNul(
  schema: DescMessage,
  within: readonly DescMessage[] = [],
): Generator<[path: string, request: Record<string, unknown>]> {
  if (within.includes(schema)) return;
  for (const field of schema.fields) {
    const isList = field.fieldKind === 'list';
    const path = `${field.name}${isList ? '[0]' : ''}`;
    const holding = (value: unknown): Record<string, unknown> =>
      field.oneof
        ? { [field.oneof.localName]: { case: field.localName, value } }
        : { [field.localName]: isList ? [value] : value };
    if (field.scalar === ScalarType.STRING) yield [path, holding('a\0b')];
    else if (field.message?.typeName === 'google.protobuf.Struct') {
      yield [path, holding({ brief: { client: ['a\0b'] } })];
      yield [path, holding({ 'a\0b': 1 })];
    } else if (field.message && !field.message.typeName.startsWith('google.protobuf.')) {
      for (const [inner, value] of withNul(field.message, [...within, schema]))
        yield [`${path}.${inner}`, holding(create(field.message, value))];
    }
  }
}

const checked = (schema: DescMessage, request: Record<string, unknown>): unknown => {
  const bytes = toBinary(schema, create(schema, request));
  try {
    checkRequest(schema, fromBinary(schema, bytes), bytes);
    return undefined;
  } catch (error) {
    return error;
  }
};

test('U+0000 is refused in every text and Struct of every RPC, and the field is named', (t) => {
  let fields = 0;
  for (const { methods } of CONTRACTS) {
    for (const { input, name } of methods) {
      for (const [path, request] of withNul(input)) {
        const error = checked(input, request);
        if (!(error instanceof DomainError)) return t.fail(`${name}: ${path}`);
        t.deepEqual([error.reason, error.metadata['fields']], ['FIELD_INVALID', path], name);
        fields += 1;
      }
    }
  }
  t.true(fields > 200, `${fields}`);
});

test('a Struct that is nested deeper than clients can read is refused, in every RPC that takes one', (t) => {
  const nested = (depth: number): JsonObject => (depth === 1 ? { end: 0 } : { a: nested(depth - 1) });
  let structs = 0;
  for (const { methods } of CONTRACTS) {
    for (const { input } of methods) {
      for (const field of input.fields) {
        if (field.message?.typeName !== 'google.protobuf.Struct') continue;
        t.is(checked(input, { [field.localName]: nested(MAX_STRUCT_DEPTH) }), undefined);
        const error = checked(input, { [field.localName]: nested(MAX_STRUCT_DEPTH + 1) });
        t.true(error instanceof DomainError && error.metadata['fields'] === field.name, input.typeName);
        structs += 1;
      }
    }
  }
  t.true(structs >= 6, `${structs}`);
});

/** Messages of this type with the value in each of their Structs, one at a time. */
function* withStruct(schema: DescMessage, value: JsonObject, within: readonly DescMessage[] = []): Iterable<object> {
  if (within.includes(schema)) return;
  for (const { message, fieldKind, localName, oneof } of schema.fields) {
    if (!message || fieldKind === 'map') continue;
    const inner =
      message.typeName === 'google.protobuf.Struct' ? [value] : withStruct(message, value, [...within, schema]);
    for (const item of inner) {
      const held = fieldKind === 'list' ? [item] : item;
      yield create(schema, oneof ? { [oneof.localName]: { case: localName, value: held } } : { [localName]: held });
    }
  }
}

const readInPython = (messages: readonly (readonly [DescMessage, object])[]): string[] => {
  const folder = fileURLToPath(new URL('../../', import.meta.url));
  const input = messages
    .map(([schema, message]) => {
      const bytes = toBinary(schema, message as Message);
      return `${schema.typeName} ${Buffer.from(bytes).toString('base64')}\n`;
    })
    .join('');
  const args = [join(folder, 'test/support/read-in-python.py'), join(folder, 'gen/image.binpb')];
  return execFileSync('python3', args, { input, encoding: 'utf8' }).trimEnd().split('\n');
};

testIfFound(
  test,
  hasForeignOwner(),
  FOREIGN_OWNER_NEEDS,
  'protobuf for Python reads every request and answer that holds a Struct of the deepest that is taken',
  (t) => {
    // A level of objects takes more messages than one of lists.
    const nested = (depth: number): JsonObject => (depth === 1 ? { end: 0 } : { a: nested(depth - 1) });
    const types = new Map(
      CONTRACTS.flatMap(({ methods }) => methods.flatMap(({ input, output }) => [input, output])).map((schema) => [
        schema.typeName,
        schema,
      ]),
    );
    const ofDepth = (depth: number) =>
      [...types.values()].flatMap((schema) =>
        [...withStruct(schema, nested(depth))].map((message) => [schema, message] as const),
      );
    const deepest = ofDepth(MAX_STRUCT_DEPTH);
    t.true(deepest.length > 20, `${deepest.length}`);
    for (const [index, answer] of readInPython(deepest).entries()) t.is(answer, 'ok', deepest[index]?.[0].typeName);
    t.true(
      readInPython(ofDepth(34)).every((answer) => answer !== 'ok'),
      'it has a bound',
    );
  },
);

for (const [service, handlers] of SERVICES) {
  const rows = TABLE[service.name] ?? [];
  test(`every RPC of ${service.name} with several fields is in the table`, (t) => {
    const known = new Set([...rows.map(([rpc]) => rpc), ...SINGLE]);
    t.deepEqual(
      service.methods.map(({ localName }) => localName).filter((name) => !known.has(name)),
      [],
    );
  });
  for (const [rpc, request, fields] of rows) {
    test(`${service.name}.${rpc} names every wrong field`, async (t) => {
      const method = service.methods.find(({ localName }) => localName === rpc);
      if (!method) return t.fail('there is no such RPC');
      const message = create(method.input, request);
      const sent = method.methodKind === 'client_streaming' ? streamOf(message) : message;
      const error = await refusalOf(handlers[rpc] as Handler, sent);
      if (!(error instanceof DomainError)) return t.fail(String(error));
      t.is(error.reason, 'FIELD_INVALID');
      t.is(error.violations.map(({ field }) => field).join(), fields);
    });
  }
}
