import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { IncidentService, PurgeDriftChecksRequest } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseFields, parseInteger } from '#libs/grpc/parse.ts';
import { parseDurationMs, toTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import type { PurgeSubject } from '../../use-cases/ports.ts';
import type { PurgeByAge } from '../../use-cases/purge-by-age.ts';
import { toResourceCount } from './messages.ts';

const MAX_RETENTION_DAYS = 36_500;
const DEFAULT_LIMIT = 10_000;
const MAX_LIMIT = 100_000;
const DEFAULT_BUDGET_MS = 10_000;
const MIN_BUDGET_MS = 100;
const MAX_BUDGET_MS = 60_000;

/** The three requests are alike. */
type PurgeRequest = Omit<PurgeDriftChecksRequest, '$typeName' | '$unknown'>;

/** What the contract calls the rows of a subject, and those that go with them. */
const RESOURCE_TYPES: Readonly<Record<PurgeSubject, { readonly row: string; readonly dependent?: string }>> = {
  drift_checks: { row: 'drift_check', dependent: 'drift_check_workflow' },
  incident_payloads: { row: 'incident_payload' },
  approvals: { row: 'approval' },
};

interface RowCounts {
  readonly rows: number;
  readonly dependents: number;
}

/** The purges by age. */
export const agePurgeHandlers = (purgeByAge: PurgeByAge): Partial<ServiceImpl<typeof IncidentService>> => {
  const purge = async (subject: PurgeSubject, request: PurgeRequest, context: HandlerContext) => {
    const caller = callerOf(context);
    const { limit, budgetMs, ...window } = parseFields({
      operationId: () => parseId('operation_id', request.operationId),
      retentionDays: () => parseInteger('retention_days', request.retentionDays, { min: 1, max: MAX_RETENTION_DAYS }),
      limit: () => parseInteger('limit', request.limit || DEFAULT_LIMIT, { min: 1, max: MAX_LIMIT }),
      budgetMs: () => {
        const ms = parseDurationMs('time_budget', request.timeBudget) ?? DEFAULT_BUDGET_MS;
        if (ms < MIN_BUDGET_MS || ms > MAX_BUDGET_MS) throw fieldInvalid('time_budget', 'must be from 100 ms to 60 s');
        return ms;
      },
    });
    const order = { subject, tenantId: tenantOf(caller), caller, ...window };
    const { row, dependent } = RESOURCE_TYPES[subject];
    // What a purge found is what it removed so far and what is left of it.
    const countsOf = (left: RowCounts, removed: RowCounts) => {
      const toCount = (type: string, part: keyof RowCounts) =>
        toResourceCount(type, { found: left[part] + removed[part], deleted: removed[part], left: left[part] });
      return [toCount(row, 'rows'), ...(dependent === undefined ? [] : [toCount(dependent, 'dependents')])];
    };
    if (request.validateOnly) {
      const { cutoff, expired, dependents, population, begun } = await purgeByAge.preview(order);
      return {
        progress: Progress.COMPLETE,
        resourceCounts: countsOf(
          { rows: expired, dependents },
          { rows: begun?.deleted ?? 0, dependents: begun?.dependents ?? 0 },
        ),
        cutoffTime: toTimestamp(cutoff),
        population: BigInt(population),
      };
    }
    const { progress, cutoff, deleted, dependents } = await purgeByAge.purge(
      order,
      { limit, budgetMs },
      context.signal,
    );
    return {
      progress: Progress[progress],
      resourceCounts: countsOf({ rows: 0, dependents: 0 }, { rows: deleted, dependents }),
      cutoffTime: toTimestamp(cutoff),
    };
  };
  return {
    purgeDriftChecks: (request, context) => purge('drift_checks', request, context),
    purgeIncidentPayloads: (request, context) => purge('incident_payloads', request, context),
    purgeApprovals: (request, context) => purge('approvals', request, context),
  };
};
