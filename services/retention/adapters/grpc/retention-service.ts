import type { ServiceImpl } from '@connectrpc/connect';
import type { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import type { KeepCatalogue } from '../../use-cases/keep-catalogue.ts';
import type { KeepExecutionPolicies } from '../../use-cases/keep-execution-policies.ts';
import type { KeepPlans } from '../../use-cases/keep-plans.ts';
import type { OrderPurge } from '../../use-cases/order-purge.ts';
import type { TenantDirectory } from '../../use-cases/purge-ports.ts';
import type { StopPurges } from '../../use-cases/stop-purges.ts';
import { planHandlers } from './plan-handlers.ts';
import { policyHandlers } from './policy-handlers.ts';
import { purgeHandlers } from './purge-handlers.ts';
import { stopHandlers } from './stop-handlers.ts';
import { subjectHandlers } from './subject-handlers.ts';

/** What RetentionService can do. */
export interface RetentionUseCases {
  readonly keepPlans: KeepPlans;
  readonly keepPolicies: KeepExecutionPolicies;
  readonly orderPurge: OrderPurge;
  readonly stopPurges: StopPurges;
  readonly keepCatalogue: KeepCatalogue;
  readonly directory: Pick<TenantDirectory, 'listUnplanned'>;
}

/** RetentionService over gRPC: a request becomes a command, its outcome a message. */
export const retentionService = (useCases: RetentionUseCases): Partial<ServiceImpl<typeof RetentionService>> => ({
  ...planHandlers(useCases.keepPlans),
  ...policyHandlers(useCases.keepPolicies),
  ...purgeHandlers(useCases.orderPurge, useCases.stopPurges),
  ...stopHandlers(useCases.stopPurges),
  ...subjectHandlers(useCases.keepCatalogue, useCases.directory),
});
