import type { MessageInitShape, JsonObject as ProtoJsonObject } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { Progress, type ResourceCountSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  type DriftCheckSchema,
  DriftFlag as DriftFlagMessage,
  DriftStatus as DriftStatusMessage,
  type EnvironmentSchema,
} from '#gen/lethe/incident/v1/incident_pb.ts';
import type { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import {
  parseEnum,
  parseFields,
  parseInteger,
  parseOptionalEnum,
  parseRequestId,
  parseText,
} from '#libs/grpc/parse.ts';
import { parseDurationMs, parseTimestamp, toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId, parseOptionalId } from '#libs/kernel/id.ts';
import { decodePageToken, encodePageToken, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import {
  DRIFT_FLAGS,
  DRIFT_STATUSES,
  type DriftCheck,
  type DriftFlag,
  type DriftStatus,
  type Environment,
} from '../../domain/drift.ts';
import type { KeepDrift } from '../../use-cases/keep-drift.ts';
import type { PurgeDriftChecks } from '../../use-cases/purge-drift-checks.ts';

const STATUS_OF: ReadonlyMap<number, DriftStatus> = new Map(DRIFT_STATUSES.map((s) => [DriftStatusMessage[s], s]));
const FLAG_OF: ReadonlyMap<number, DriftFlag> = new Map(DRIFT_FLAGS.map((flag) => [DriftFlagMessage[flag], flag]));
const MAX_NAME = 200;
const MAX_WORKFLOWS = 1_000;
const MAX_SUMMARY_BYTES = 1_048_576;
// Escaped, as JSON text has it; jsonb has no room for it. An even number of backslashes before it is another thing.
const NUL = /(?<!\\)(?:\\\\)*\\u0000/;
const MAX_RETENTION_DAYS = 36_500;
const DEFAULT_LIMIT = 10_000;
const MAX_LIMIT = 100_000;
const DEFAULT_BUDGET_MS = 10_000;

/** IncidentService over gRPC: a request becomes a command, its outcome a message. */
export const incidentService = (
  keepDrift: KeepDrift,
  purgeDriftChecks: PurgeDriftChecks,
): Partial<ServiceImpl<typeof IncidentService>> => ({
  async createEnvironment(request, context) {
    const command = parseFields({
      requestId: () => parseRequestId(request.requestId),
      displayName: () => parseText('display_name', request.displayName, { min: 1, max: MAX_NAME }),
    });
    const tenantId = tenantOf(callerOf(context));
    return { environment: toEnvironmentMessage(await keepDrift.createEnvironment({ tenantId, ...command })) };
  },

  async getEnvironment(request, context) {
    const environmentId = parseId('environment_id', request.environmentId);
    const environment = await keepDrift.getEnvironment(tenantOf(callerOf(context)), environmentId);
    return { environment: toEnvironmentMessage(environment) };
  },

  async listEnvironments(request, context) {
    const tenantId = tenantOf(callerOf(context));
    const { status, limit } = parseFields({
      status: () => parseOptionalEnum('drift_status', request.driftStatus, STATUS_OF),
      limit: () => parsePageSize(request.pageSize),
    });
    const scope: PageScope = { rpc: 'ListEnvironments', tenantId, filter: { status } };
    const after = decodePageToken(scope, request.pageToken, 1);
    const page = await keepDrift.listEnvironments(tenantId, status, { limit, after });
    const nextPageToken = page.next ? encodePageToken(scope, page.next) : '';
    return { environments: page.items.map(toEnvironmentMessage), nextPageToken };
  },

  async recordDriftCheck(request, context) {
    const command = parseFields({
      requestId: () => parseRequestId(request.requestId),
      environmentId: () => parseId('environment_id', request.environmentId),
      status: () => parseEnum('status', request.status, STATUS_OF),
      checkedAt: () => parseTimestamp('check_time', request.checkTime),
      summary: () => {
        const text = request.summary ? JSON.stringify(request.summary) : '';
        if (Buffer.byteLength(text) > MAX_SUMMARY_BYTES) throw fieldInvalid('summary', 'must have at most 1 MiB');
        if (NUL.test(text)) throw fieldInvalid('summary', 'must not hold the character U+0000');
        return request.summary;
      },
      workflows: () => {
        if (request.workflows.length > MAX_WORKFLOWS)
          throw fieldInvalid('workflows', `must be at most ${MAX_WORKFLOWS}`);
        const names = new Set(request.workflows.map(({ workflow }) => workflow));
        if (names.size !== request.workflows.length) throw fieldInvalid('workflows', 'must not name a workflow twice');
        return request.workflows.map(({ workflow, flag }, index) => ({
          workflow: parseText(`workflows[${index}].workflow`, workflow, { min: 1, max: MAX_NAME }),
          flag: parseEnum(`workflows[${index}].flag`, flag, FLAG_OF),
        }));
      },
    });
    const { check, environment } = await keepDrift.recordCheck({ tenantId: tenantOf(callerOf(context)), ...command });
    return { driftCheck: toCheckMessage(check), environment: toEnvironmentMessage(environment) };
  },

  async getDriftCheck(request, context) {
    const checkId = parseId('drift_check_id', request.driftCheckId);
    return { driftCheck: toCheckMessage(await keepDrift.getCheck(tenantOf(callerOf(context)), checkId)) };
  },

  async listDriftChecks(request, context) {
    const tenantId = tenantOf(callerOf(context));
    const { limit, ...filter } = parseFields({
      environmentId: () => parseOptionalId('environment_id', request.environmentId),
      status: () => parseOptionalEnum('status', request.status, STATUS_OF),
      limit: () => parsePageSize(request.pageSize),
    });
    const scope: PageScope = { rpc: 'ListDriftChecks', tenantId, filter };
    const after = decodePageToken(scope, request.pageToken, 2);
    const page = await keepDrift.listChecks(tenantId, filter, { limit, after });
    const nextPageToken = page.next ? encodePageToken(scope, page.next) : '';
    return { driftChecks: page.items.map(toCheckMessage), nextPageToken };
  },

  async purgeDriftChecks(request, context) {
    const caller = callerOf(context);
    const { limit, budgetMs, ...window } = parseFields({
      operationId: () => parseId('operation_id', request.operationId),
      retentionDays: () => parseInteger('retention_days', request.retentionDays, { min: 1, max: MAX_RETENTION_DAYS }),
      limit: () => parseInteger('limit', request.limit || DEFAULT_LIMIT, { min: 1, max: MAX_LIMIT }),
      budgetMs: () => {
        const ms = parseDurationMs('time_budget', request.timeBudget) ?? DEFAULT_BUDGET_MS;
        if (ms < 100 || ms > 60_000) throw fieldInvalid('time_budget', 'must be from 100 ms to 60 s');
        return ms;
      },
    });
    const order = { tenantId: tenantOf(caller), actor: caller.actor, subject: caller.subject, ...window };
    if (request.validateOnly) {
      const { cutoff, expiredChecks, expiredWorkflows, population } = await purgeDriftChecks.preview(order);
      return {
        progress: Progress.COMPLETE,
        resourceCounts: [
          count('drift_check', expiredChecks, 0, expiredChecks),
          count('drift_check_workflow', expiredWorkflows, 0, expiredWorkflows),
        ],
        cutoffTime: toTimestamp(cutoff),
        population: BigInt(population),
      };
    }
    const purge = await purgeDriftChecks.purge(order, { limit, budgetMs }, context.signal);
    return {
      progress: Progress[purge.progress],
      resourceCounts: [
        count('drift_check', purge.deletedChecks, purge.deletedChecks, 0),
        count('drift_check_workflow', purge.deletedWorkflows, purge.deletedWorkflows, 0),
      ],
      cutoffTime: toTimestamp(purge.cutoff),
    };
  },
});

const count = (
  resourceType: string,
  found: number,
  deleted: number,
  left: number,
): MessageInitShape<typeof ResourceCountSchema> => ({
  resourceType,
  found: BigInt(found),
  deleted: BigInt(deleted),
  left: BigInt(left),
});

function toEnvironmentMessage(environment: Environment): MessageInitShape<typeof EnvironmentSchema> {
  const lastCheckTime = toOptionalTimestamp(environment.lastCheckedAt);
  return {
    id: environment.id,
    tenantId: environment.tenantId,
    displayName: environment.displayName,
    driftStatus: DriftStatusMessage[environment.driftStatus],
    modifiedCount: environment.counts.modified,
    notInGitCount: environment.counts.notInGit,
    unknownCount: environment.counts.unknown,
    ...(lastCheckTime ? { lastCheckTime } : {}),
    createTime: toTimestamp(environment.createdAt),
    updateTime: toTimestamp(environment.updatedAt),
  };
}

const toCheckMessage = (check: DriftCheck): MessageInitShape<typeof DriftCheckSchema> => ({
  id: check.id,
  tenantId: check.tenantId,
  environmentId: check.environmentId,
  status: DriftStatusMessage[check.status],
  checkTime: toTimestamp(check.checkedAt),
  ...(check.summary ? { summary: check.summary as ProtoJsonObject } : {}),
  workflows: check.workflows.map(({ workflow, flag }) => ({ workflow, flag: DriftFlagMessage[flag] })),
  modifiedCount: check.counts.modified,
  notInGitCount: check.counts.notInGit,
  unknownCount: check.counts.unknown,
  createTime: toTimestamp(check.createdAt),
});
