import type { ServiceImpl } from '@connectrpc/connect';
import { DriftCheckSchema, EnvironmentSchema } from '#gen/lethe/incident/v1/incident_pb.ts';
import type { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage, fitWholePage } from '#libs/grpc/fit-page.ts';
import {
  parseEach,
  parseEnum,
  parseFields,
  parseOptionalEnum,
  parseRequestId,
  parseText,
  parseView,
} from '#libs/grpc/parse.ts';
import { parseJsonObject } from '#libs/grpc/parse-json.ts';
import { parseTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid, undefinedIfNotFound } from '#libs/kernel/domain-error.ts';
import { parseId, parseOptionalId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type KeyPart, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import type { DriftCheck, Environment } from '../../domain/drift.ts';
import type { KeepDrift } from '../../use-cases/keep-drift.ts';
import type { ReadDashboard } from '../../use-cases/ports.ts';
import { FLAG_OF, STATUS_OF, toCheckMessage, toDashboardMessage, toEnvironmentMessage } from './messages.ts';

const MAX_NAME = 200;
const MAX_WORKFLOWS = 1_000;

/** Environments, their drift checks and the figures on them. */
export const driftHandlers = (
  keepDrift: KeepDrift,
  readDashboard: ReadDashboard,
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
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const scope: PageScope = { rpc: 'ListEnvironments', tenantId, filter: { status } };
    const after = decodePageToken(scope, request.pageToken, [KEY.text]);
    const page = await keepDrift.listEnvironments(tenantId, status, { limit, after });
    const keyOf = ({ displayName }: Environment) => [displayName];
    const { messages, nextPageToken } = fitPage(scope, EnvironmentSchema, page, toEnvironmentMessage, keyOf);
    return { environments: messages, nextPageToken };
  },

  async recordDriftCheck(request, context) {
    const command = parseFields({
      requestId: () => parseRequestId(request.requestId),
      environmentId: () => parseId('environment_id', request.environmentId),
      status: () => parseEnum('status', request.status, STATUS_OF),
      checkedAt: () => parseTimestamp('check_time', request.checkTime),
      summary: () => parseJsonObject('summary', request.summary),
      workflows: () => {
        if (request.workflows.length > MAX_WORKFLOWS)
          throw fieldInvalid('workflows', `must be at most ${MAX_WORKFLOWS}`);
        const names = new Set(request.workflows.map(({ workflow }) => workflow));
        if (names.size !== request.workflows.length) throw fieldInvalid('workflows', 'must not name a workflow twice');
        return parseEach(request.workflows, ({ workflow, flag }, index) =>
          parseFields({
            workflow: () => parseText(`workflows[${index}].workflow`, workflow, { min: 1, max: MAX_NAME }),
            flag: () => parseEnum(`workflows[${index}].flag`, flag, FLAG_OF),
          }),
        );
      },
    });
    const { check, environment } = await keepDrift.recordCheck({ tenantId: tenantOf(callerOf(context)), ...command });
    return { driftCheck: toCheckMessage(check), environment: toEnvironmentMessage(environment) };
  },

  async getDriftCheck(request, context) {
    const { checkId, view } = parseFields({
      checkId: () => parseId('drift_check_id', request.driftCheckId),
      view: () => parseView(request.view, 'FULL'),
    });
    return { driftCheck: toCheckMessage(await keepDrift.getCheck(tenantOf(callerOf(context)), checkId, view)) };
  },

  async listDriftChecks(request, context) {
    const tenantId = tenantOf(callerOf(context));
    const { limit, view, ...filter } = parseFields({
      view: () => parseView(request.view, 'BASIC'),
      environmentId: () => parseOptionalId('environment_id', request.environmentId),
      status: () => parseOptionalEnum('status', request.status, STATUS_OF),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const scope: PageScope = { rpc: 'ListDriftChecks', tenantId, filter };
    const after = decodePageToken(scope, request.pageToken, [isInstantOrNone, KEY.id]);
    const page = await keepDrift.listChecks(tenantId, filter, { limit, after });
    const readWhole = ({ id }: DriftCheck) => undefinedIfNotFound(keepDrift.getCheck(tenantId, id, view));
    const keyOf = ({ key }: { readonly key: readonly string[] }) => key;
    const { messages: driftChecks, nextPageToken } =
      view === 'FULL'
        ? await fitWholePage(scope, DriftCheckSchema, page, readWhole, toCheckMessage, keyOf)
        : fitPage(scope, DriftCheckSchema, page, toCheckMessage, keyOf);
    return { driftChecks, nextPageToken };
  },

  async getDriftDashboard(_, context) {
    return toDashboardMessage(await readDashboard(tenantOf(callerOf(context))));
  },
});

// A check that an older version wrote has no time of its own, and is listed last.
const isInstantOrNone: KeyPart = (text) => text === '' || KEY.instant(text);
