import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type {
  Plan,
  PurgeState,
  RetentionPurge,
  RetentionPurgeItem,
  TenantPlan,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import type { PurgeProgress, ResolveRetentionResponse } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Services } from './services.ts';
import { everyItem, present, untilLast } from './streams.ts';

/** Which plan a tenant has from when on. */
export interface NewTenantPlan {
  readonly tenantId: string;
  readonly plan: Plan;
  /** Absent: now, by the database's clock. */
  readonly effectiveTime?: Timestamp;
  readonly reason?: string;
  readonly requestId?: string;
  readonly etag?: string;
}

/** What a retention purge goes over. */
export interface PurgeOptions {
  /** Absent: every tenant that has a plan or an execution policy. */
  readonly tenantIds?: readonly string[];
  /** Count by the same predicates, remove nothing. */
  readonly validateOnly?: boolean;
  readonly reason?: string;
  /** By default one of its own. The same one joins the same purge. */
  readonly requestId?: string;
  /** Ends the watching; the purge goes on. */
  readonly signal?: AbortSignal;
}

/** Plans, the windows they give, and the purge of what they no longer keep. */
export interface Retention {
  setPlan(plan: NewTenantPlan): Promise<TenantPlan>;
  /** The plan in force; of the caller's own tenant where none is named. */
  getPlan(tenantId?: string): Promise<TenantPlan>;
  /** Plans by tenant, newest first within one. */
  listPlans(filter?: {
    readonly tenantId?: string;
    readonly plan?: Plan;
    readonly showHistory?: boolean;
  }): AsyncIterable<TenantPlan>;
  /** How long a tenant's data is kept, and why. */
  resolve(tenantId?: string, atTime?: Timestamp): Promise<ResolveRetentionResponse>;
  /**
   * Purges and tells how it goes: `started` first, the `summary` last. When the connection breaks the same purge is
   * joined again and nothing is told twice. Leaving the loop stops the telling and not the purge.
   */
  purge(options?: PurgeOptions): AsyncIterable<PurgeProgress>;
  /** Sets a purge of one tenant going and answers at once. */
  purgeNow(options?: {
    readonly tenantId?: string;
    readonly reason?: string;
    readonly validateOnly?: boolean;
    readonly requestId?: string;
  }): Promise<{ readonly purge: RetentionPurge; readonly item: RetentionPurgeItem | undefined }>;
  /** One purge, and every tenant's part in it. */
  getPurge(purgeId: string): Promise<{ readonly purge: RetentionPurge; readonly items: readonly RetentionPurgeItem[] }>;
  /** Releases a tenant's purge that the blast-radius ceiling held. */
  approveHeld(approval: {
    readonly purgeId: string;
    readonly tenantId: string;
    readonly reason: string;
  }): Promise<RetentionPurgeItem>;
  /** Every purge, newest first. */
  listPurges(filter?: { readonly tenantId?: string; readonly state?: PurgeState }): AsyncIterable<RetentionPurge>;
}

/** Makes `lethe.retention`. */
export const makeRetention = (services: Services): Retention => ({
  async setPlan(plan) {
    return present('plan', (await services.retention.setTenantPlan({ requestId: newId(), ...plan })).tenantPlan);
  },
  async getPlan(tenantId = '') {
    return present('plan', (await services.retention.getTenantPlan({ tenantId })).tenantPlan);
  },
  listPlans: (filter = {}) =>
    everyItem(async (page) => {
      const { tenantPlans, nextPageToken } = await services.retention.listTenantPlans({ ...filter, ...page });
      return { items: tenantPlans, nextPageToken };
    }),
  async resolve(tenantId = '', atTime) {
    return services.retention.resolveRetention({ tenantId, ...(atTime ? { atTime } : {}) });
  },
  purge({ tenantIds, signal, ...options } = {}) {
    const scope = tenantIds ? { tenantIds: [...tenantIds] } : { allTenants: true };
    const request = { requestId: newId(), ...options, ...scope };
    const told = new Set<string>();
    const open = async function* () {
      for await (const progress of services.retention.purge(request, signal ? { signal } : {})) {
        const key = keyOf(progress);
        if (key !== undefined && told.has(key)) continue;
        if (key !== undefined) told.add(key);
        yield progress;
      }
    };
    return untilLast(open, ({ event }) => event.case === 'summary');
  },
  async purgeNow(options = {}) {
    const { purge, item } = await services.retention.purgeNow({ requestId: newId(), ...options });
    return { purge: present('purge', purge), item };
  },
  async getPurge(purgeId) {
    let purge: RetentionPurge | undefined;
    const items = await Array.fromAsync(
      everyItem(async (page) => {
        const answer = await services.retention.getPurge({ purgeId, ...page });
        purge = answer.purge;
        return { items: answer.items, nextPageToken: answer.nextPageToken };
      }),
    );
    return { purge: present('purge', purge), items };
  },
  async approveHeld(approval) {
    return present('item', (await services.retention.approveHeldPurge(approval)).item);
  },
  listPurges: (filter = {}) =>
    everyItem(async (page) => {
      const { purges, nextPageToken } = await services.retention.listPurges({ ...filter, ...page });
      return { items: purges, nextPageToken };
    }),
});

/** What is told once only; undefined for what may be told any number of times. */
function keyOf({ event }: PurgeProgress): string | undefined {
  if (event.case === 'started') return 'started';
  return event.case === 'tenantFinished' ? `finished:${event.value.item?.tenantId}` : undefined;
}
