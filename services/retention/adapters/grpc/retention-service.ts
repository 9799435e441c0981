import type { ServiceImpl } from '@connectrpc/connect';
import type { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import type { KeepExecutionPolicies } from '../../use-cases/keep-execution-policies.ts';
import type { KeepPlans } from '../../use-cases/keep-plans.ts';
import type { OrderPurge } from '../../use-cases/order-purge.ts';
import { planHandlers } from './plan-handlers.ts';
import { policyHandlers } from './policy-handlers.ts';
import { purgeHandlers } from './purge-handlers.ts';

/** What RetentionService can do. */
export interface RetentionUseCases {
  readonly keepPlans: KeepPlans;
  readonly keepPolicies: KeepExecutionPolicies;
  readonly orderPurge: OrderPurge;
}

/** RetentionService over gRPC: a request becomes a command, its outcome a message. */
export const retentionService = (useCases: RetentionUseCases): Partial<ServiceImpl<typeof RetentionService>> => ({
  ...planHandlers(useCases.keepPlans),
  ...policyHandlers(useCases.keepPolicies),
  ...purgeHandlers(useCases.orderPurge),
});
