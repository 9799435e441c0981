import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { operationInProgress } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import { isFinished, purgeNotFound, type RetentionPurge, type RetentionPurgeItem } from '../domain/purge.ts';
import type { Page, PageQuery, PlanRepository, PurgeRepository } from './ports.ts';

/** What the caller asks for. */
export interface OrderPurgeCommand {
  readonly caller: Caller;
  /** Undefined: every tenant that has a plan. */
  readonly tenantIds: readonly string[] | undefined;
  readonly trigger: 'PURGE' | 'PURGE_NOW';
  readonly validateOnly: boolean;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
}

/** What a watcher is told. */
export type PurgeEvent =
  | { readonly kind: 'started' | 'summary'; readonly purge: RetentionPurge }
  | { readonly kind: 'progress' | 'finished'; readonly item: RetentionPurgeItem };

/** Orders retention purges and tells how they go. */
export interface OrderPurge {
  /** Commits the purge and its items; OPERATION_IN_PROGRESS for PURGE_NOW while another works on the tenant. */
  order(command: OrderPurgeCommand): Promise<RetentionPurge>;
  /** Tells of a purge until it has ended. Whether anybody watches changes nothing for the purge. */
  watch(purgeId: string, signal: AbortSignal): AsyncIterable<PurgeEvent>;
  /** PURGE_NOT_FOUND; people of a tenant see their own part alone. */
  get(
    caller: Caller,
    purgeId: string,
    page: PageQuery,
  ): Promise<{ purge: RetentionPurge; items: Page<RetentionPurgeItem> }>;
  list(caller: Caller, page: PageQuery): Promise<Page<RetentionPurge>>;
}

const POLL_MS = 100;
const ITEMS_PER_PAGE = 1_000;

/** Makes OrderPurge. `wake` tells the worker that something is due. */
export function makeOrderPurge(
  purges: PurgeRepository,
  plans: PlanRepository,
  wake: () => void,
  sleep: (ms: number, signal: AbortSignal) => Promise<void>,
): OrderPurge {
  const mustGet = async (purgeId: string): Promise<RetentionPurge> => {
    const purge = await purges.get(purgeId);
    if (!purge) throw purgeNotFound();
    return purge;
  };

  return {
    async order({ caller, tenantIds, trigger, validateOnly, reason, requestId }) {
      if (trigger === 'PURGE_NOW' && !validateOnly && tenantIds?.[0] !== undefined && requestId === undefined) {
        const running = await purges.findRunning(tenantIds[0]);
        if (running !== undefined) throw operationInProgress(running);
      }
      const purgeId = await purges.create({
        tenantIds: tenantIds ?? (await plans.findTenants()),
        trigger,
        validateOnly,
        actor: caller.actor,
        subject: caller.subject,
        reason,
        requestId,
        fingerprint: fingerprint({ trigger, tenantIds: tenantIds ?? 'all', validateOnly, reason }),
      });
      crashPoint('retention.purge.after-intent');
      wake();
      return mustGet(purgeId);
    },

    async *watch(purgeId, signal) {
      yield { kind: 'started', purge: await mustGet(purgeId) };
      const told = new Map<string, string>();
      for (;;) {
        let unfinished = 0;
        for (let after: readonly string[] | undefined, first = true; first || after; first = false) {
          const page = await purges.findItems(purgeId, { limit: ITEMS_PER_PAGE, after });
          for (const { tenantId, state, updatedAt } of page.items) {
            if (!isFinished(state)) unfinished += 1;
            const seen = `${state}${updatedAt}`;
            if (state === 'PENDING' || told.get(tenantId) === seen) continue;
            told.set(tenantId, seen);
            const item = await purges.getItem(tenantId, purgeId);
            if (item) yield { kind: isFinished(item.state) ? 'finished' : 'progress', item };
          }
          after = page.next;
        }
        if (unfinished === 0) break;
        await sleep(POLL_MS, signal);
      }
      yield { kind: 'summary', purge: await mustGet(purgeId) };
    },

    async get(caller, purgeId, page) {
      if (caller.kind === 'platform' && caller.tenantId === undefined) {
        const purge = await mustGet(purgeId);
        const found = await purges.findItems(purgeId, page);
        const items = await Promise.all(found.items.map(({ tenantId }) => purges.getItem(tenantId, purgeId)));
        return { purge, items: { items: items.filter((item) => item !== undefined), next: found.next } };
      }
      const item = await purges.getItem(tenantOf(caller), purgeId);
      if (!item) throw purgeNotFound();
      const purge = await mustGet(purgeId);
      // Of a purge over many tenants, a tenant's people get what concerns them.
      const own = {
        all: 1,
        complete: item.state === 'COMPLETE' ? 1 : 0,
        failed: item.state === 'FAILED' || item.state === 'PARTIAL' ? 1 : 0,
        skipped: item.state === 'SKIPPED' ? 1 : 0,
      };
      return { purge: { ...purge, tenants: own, counts: item.counts }, items: { items: [item], next: undefined } };
    },

    list: (caller, page) => purges.list(caller.kind === 'platform' ? caller.tenantId : tenantOf(caller), page),
  };
}
