import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import {
  hasEnded,
  isFinished,
  type PurgeState,
  type PurgeTrigger,
  purgeNotFound,
  type RetentionPurge,
  type RetentionPurgeItem,
} from '../domain/purge.ts';
import type { NewPurge, Page, PageQuery, PlanRepository, PurgeRepository } from './ports.ts';

/** What the caller asks for. */
export interface OrderPurgeCommand {
  readonly caller: Pick<Caller, 'actor' | 'subject'>;
  /** Undefined: every tenant that has a plan or an execution policy. */
  readonly tenantIds: readonly string[] | undefined;
  readonly trigger: PurgeTrigger;
  readonly validateOnly: boolean;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
}

/** A held purge to release. */
export interface ApproveHeldCommand {
  readonly caller: Caller;
  readonly purgeId: string;
  readonly tenantId: string;
  readonly reason: string;
}

/** What a watcher is told. */
export type PurgeEvent =
  | { readonly kind: 'started' | 'summary'; readonly purge: RetentionPurge }
  | { readonly kind: 'progress' | 'finished'; readonly item: RetentionPurgeItem };

/** Orders retention purges and tells how they go. */
export interface OrderPurge {
  /** Commits the purge and its items; OPERATION_IN_PROGRESS for PURGE_NOW while another works on the tenant. */
  order(command: OrderPurgeCommand): Promise<RetentionPurge>;
  /**
   * Tells of a purge until it has ended, which is not before those have that some of its tenants were left to.
   * Whether anybody watches changes nothing for the purge.
   */
  watch(purgeId: string, signal: AbortSignal): AsyncIterable<PurgeEvent>;
  /** PURGE_NOT_FOUND; people of a tenant see their own part alone. */
  get(
    caller: Caller,
    purgeId: string,
    page: PageQuery,
  ): Promise<{ purge: RetentionPurge; items: Page<RetentionPurgeItem> }>;
  /** All for platform, else those that went over the caller's tenant, each as `get` tells it. */
  list(
    caller: Caller,
    filter: { tenantId: string | undefined; state: PurgeState | undefined },
    page: PageQuery,
  ): Promise<Page<RetentionPurge>>;
  /** Releases what the ceiling held; PURGE_NOT_FOUND, PURGE_NOT_HELD, OPERATION_IN_PROGRESS. */
  approve(command: ApproveHeldCommand): Promise<RetentionPurgeItem>;
}

/** Told of every order that was refused, with the refusal's reason. */
export type OnPurgeRefused = (tenantId: string, order: NewPurge, outcome: string) => void;

const POLL_MS = 100;
const MAX_POLL_MS = 2_000;
const SLEEP_PER_LOOK = 10;
const ITEMS_PER_PAGE = 1_000;

/** Makes OrderPurge. */
export function makeOrderPurge(
  purges: PurgeRepository,
  plans: PlanRepository,
  sleep: (ms: number, signal: AbortSignal) => Promise<void>,
  onRefused: OnPurgeRefused,
): OrderPurge {
  const mustGet = async (purgeId: string): Promise<RetentionPurge> => {
    const purge = await purges.get(purgeId);
    if (!purge) throw purgeNotFound();
    return purge;
  };

  return {
    async order({ caller, tenantIds, trigger, validateOnly, reason, requestId }) {
      const [tenantId] = tenantIds ?? [];
      const order: NewPurge = {
        tenantIds: tenantIds ?? (await plans.findTenants()),
        trigger,
        validateOnly,
        actor: caller.actor,
        subject: caller.subject,
        reason,
        requestId,
        requestScope: trigger === 'PURGE_NOW' ? tenantId : undefined,
        fingerprint: fingerprint({ trigger, tenantIds: tenantIds ?? 'all', validateOnly, reason }),
      };
      const purgeId = await purges.create(order).catch(async (error: unknown) => {
        if (trigger === 'PURGE_NOW' && tenantId !== undefined && error instanceof DomainError) {
          if (error.kind === 'aborted') {
            await purges.recordRefusal(tenantId, order, error.reason);
            onRefused(tenantId, order, error.reason);
          }
        }
        throw error;
      });
      crashPoint('retention.purge.after-intent');
      return mustGet(purgeId);
    },

    async *watch(purgeId, signal) {
      yield { kind: 'started', purge: await mustGet(purgeId) };
      const told = new Map<string, string>();
      for (;;) {
        const startedAt = performance.now();
        let unfinished = 0;
        for (let after: readonly string[] | undefined, first = true; first || after; first = false) {
          const page = await purges.findItems(purgeId, { limit: ITEMS_PER_PAGE, after });
          for (const { tenantId, state, updatedAt } of page.items) {
            if (!isFinished(state)) unfinished += 1;
            if (state === 'PENDING' || told.get(tenantId) === `${state}${updatedAt}`) continue;
            const item = await purges.getItem(tenantId, purgeId);
            if (!item) continue;
            // It may have come further since the page was read.
            told.set(tenantId, `${item.state}${item.updatedAt}`);
            yield { kind: isFinished(item.state) ? 'finished' : 'progress', item };
          }
          after = page.next;
        }
        const purge = unfinished === 0 ? await mustGet(purgeId) : undefined;
        if (purge && hasEnded(purge)) {
          yield { kind: 'summary', purge };
          return;
        }
        // Looking at very many tenants takes long, and a watcher must not keep the database busy.
        const sleepMs = SLEEP_PER_LOOK * (performance.now() - startedAt);
        await sleep(Math.min(MAX_POLL_MS, Math.max(POLL_MS, sleepMs)), signal);
      }
    },

    async get(caller, purgeId, page) {
      if (caller.kind === 'platform' && caller.tenantId === undefined) {
        const purge = await mustGet(purgeId);
        const found = await purges.findItems(purgeId, page);
        const items = await Promise.all(found.items.map(({ tenantId }) => purges.getItem(tenantId, purgeId)));
        return { purge, items: { items: items.filter((item) => item !== undefined), next: found.next } };
      }
      // Of a purge over many tenants, a tenant's people get what concerns them.
      const own = tenantOf(caller);
      const [purge, item] = await Promise.all([purges.getPart(own, purgeId), purges.getItem(own, purgeId)]);
      if (!purge || !item) throw purgeNotFound();
      return { purge, items: { items: [item], next: undefined } };
    },

    list: (caller, { tenantId, state }, page) =>
      caller.kind === 'platform' && caller.tenantId === undefined
        ? purges.list({ tenantId, state }, page)
        : purges.listParts(tenantOf(caller), state, page),

    approve: ({ caller, ...approval }) => purges.approve({ ...approval, actor: caller.actor, subject: caller.subject }),
  };
}
