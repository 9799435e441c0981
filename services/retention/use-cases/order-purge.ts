import { crashPoint } from '#libs/durable/crash-point.ts';
import { type Caller, readableTenant, tenantOf } from '#libs/kernel/caller.ts';
import { DomainError, fieldsInvalid } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import { problemOf, stateOf } from '../domain/catalogue.ts';
import { type FleetCeiling, isNarrower, narrowedTooMany } from '../domain/ceiling.ts';
import {
  hasEnded,
  isFinished,
  type PurgeState,
  type PurgeTrigger,
  purgeNotFound,
  type RetentionPurge,
  type RetentionPurgeItem,
  tenantsUnknown,
} from '../domain/purge.ts';
import type { ResolvedWindow } from '../domain/windows.ts';
import type { KeepPlans } from './keep-plans.ts';
import type { PlanRepository } from './ports.ts';
import type {
  CatalogueRepository,
  NewFleetHold,
  NewPurge,
  PurgeRepository,
  RetentionOwners,
  TenantDirectory,
} from './purge-ports.ts';

/** What the caller asks for. */
export interface OrderPurgeCommand {
  readonly caller: Pick<Caller, 'actor' | 'subject'>;
  /** Undefined: every tenant that has a plan or an execution policy. */
  readonly tenantIds: readonly string[] | undefined;
  /** Empty: all. */
  readonly subjects: readonly string[];
  readonly trigger: PurgeTrigger;
  readonly validateOnly: boolean;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
}

/** What to release of a held purge. */
export interface ApproveHeldCommand {
  readonly caller: Caller;
  readonly purgeId: string;
  /** Undefined: the purge as a whole, which the ceiling over all tenants holds. */
  readonly tenantId: string | undefined;
  /** Empty: all that are held. */
  readonly subjects: readonly string[];
  readonly reason: string;
}

/** What a watcher is told. */
export type PurgeEvent =
  | { readonly kind: 'started' | 'summary'; readonly purge: RetentionPurge }
  | { readonly kind: 'progress' | 'finished'; readonly item: RetentionPurgeItem };

/** Orders retention purges and tells how they go. */
export interface OrderPurge {
  /**
   * Commits the purge and its items; OPERATION_IN_PROGRESS for PURGE_NOW while another works on the tenant, FIELD_INVALID
   * for a subject that is not in the catalogue, TENANT_UNKNOWN for named tenants that nobody knows.
   */
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
  /**
   * All for platform, else those that went over the caller's tenant, each as `get` tells it. A platform credential with a
   * tenant may name another one.
   */
  list(
    caller: Caller,
    filter: { tenantId: string | undefined; state: PurgeState | undefined },
    page: PageQuery,
  ): Promise<Page<RetentionPurge>>;
  /** Releases what a ceiling held; PURGE_NOT_FOUND, PURGE_NOT_HELD, OPERATION_IN_PROGRESS. */
  approve(command: ApproveHeldCommand): Promise<{ item: RetentionPurgeItem | undefined; purge: RetentionPurge }>;
}

/** Told of every order that was refused, with the refusal's reason. */
export type OnPurgeRefused = (tenantId: string, order: NewPurge, outcome: string) => void;

const POLL_MS = 100;
const MAX_POLL_MS = 2_000;
const SLEEP_PER_LOOK = 10;
const ITEMS_PER_PAGE = 1_000;
const TENANTS_AT_ONCE = 8;
const MAX_DAYS = 36_500;

/** What ordering a purge works with. */
export interface OrderPurgePorts {
  readonly purges: PurgeRepository;
  readonly plans: Pick<PlanRepository, 'findTenants'>;
  readonly windows: Pick<KeepPlans, 'resolve'>;
  readonly catalogue: CatalogueRepository;
  readonly directory: TenantDirectory;
  readonly owners: RetentionOwners;
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
  /**
   * Asks the owners what they hold, so that one that was replaced a moment ago is not taken for what it was. Must not
   * throw: what a foreign owner says keeps no purge from being ordered.
   */
  readonly refresh: () => Promise<void>;
  /** Called when there is something new to do: the workers of this process need not wait for their poll. */
  readonly wake: () => void;
}

/** Makes OrderPurge. */
export function makeOrderPurge(
  ports: OrderPurgePorts,
  fleetCeiling: FleetCeiling,
  onRefused: OnPurgeRefused,
): OrderPurge {
  const { purges, plans, catalogue, sleep } = ports;
  const mustGet = async (purgeId: string): Promise<RetentionPurge> => {
    const purge = await purges.get(purgeId);
    if (!purge) throw purgeNotFound();
    return purge;
  };

  return {
    async order({ caller, tenantIds, subjects, trigger, validateOnly, reason, requestId }) {
      const [tenantId] = tenantIds ?? [];
      const wanted = subjects.toSorted();
      const only = wanted.length === 0 ? {} : { subjects: wanted };
      const request = {
        trigger,
        requestId,
        requestScope: trigger === 'PURGE_NOW' ? tenantId : undefined,
        fingerprint: fingerprint({ trigger, tenantIds: tenantIds ?? 'all', validateOnly, reason, ...only }),
      };
      const known = requestId === undefined ? undefined : await purges.findByRequest(request);
      if (known !== undefined) return mustGet(known);
      await ports.refresh();
      if (wanted.length > 0)
        refuseUnknownSubjects(
          wanted,
          (await catalogue.list()).map(({ name }) => name),
        );
      if (tenantIds && trigger === 'PURGE') await refuseUnknownTenants(ports, tenantIds, caller.actor);
      const readAt = performance.now();
      const tenants = tenantIds ?? (await plans.findTenants());
      const order: NewPurge = {
        ...request,
        tenantIds: tenants,
        isOfAll: tenantIds === undefined && wanted.length === 0,
        subjects: wanted,
        validateOnly,
        actor: caller.actor,
        subject: caller.subject,
        reason,
        fleetHold: validateOnly ? undefined : await findFleetHold(ports, fleetCeiling, tenants, wanted),
        readMsAgo: performance.now() - readAt,
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
      ports.wake();
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
        : purges.listParts(readableTenant(caller, tenantId) ?? tenantOf(caller), state, page),

    async approve({ caller, tenantId, subjects, purgeId, reason }) {
      const approval = { purgeId, reason, actor: caller.actor, subject: caller.subject };
      if (tenantId === undefined) {
        await purges.approveFleet(approval);
        ports.wake();
        return { item: undefined, purge: await mustGet(purgeId) };
      }
      const item = await purges.approve({ ...approval, tenantId, subjects });
      ports.wake();
      return { item, purge: await mustGet(purgeId) };
    },
  };
}

function refuseUnknownSubjects(wanted: readonly string[], known: readonly string[]): void {
  const unknown = wanted.filter((subject) => !known.includes(subject));
  if (unknown.length > 0) {
    throw fieldsInvalid(
      unknown.map((subject) => ({ field: 'subjects', description: `must be in the catalogue: ${subject} is not` })),
    );
  }
}

/** TENANT_UNKNOWN unless a plan, a policy or an owner knows each tenant, or an owner that might does not answer. */
async function refuseUnknownTenants(
  { directory, catalogue, owners }: OrderPurgePorts,
  tenantIds: readonly string[],
  actor: string,
): Promise<void> {
  const known = await directory.findKnown(tenantIds);
  const asked = tenantIds.filter((tenantId) => !known.has(tenantId));
  if (asked.length === 0) return;
  const entries = (await catalogue.list()).filter(
    (entry) => !['RETIRED', 'OWNER_UNKNOWN', 'UNLISTED'].includes(stateOf(entry)),
  );
  const hasRows = async (tenantId: string): Promise<boolean> => {
    for (const entry of entries) {
      // Who cannot be asked may know the tenant.
      if (problemOf(entry)) return true;
      const call = { owner: entry.owner, dataId: entry.dataId ?? '', subject: entry.name, tenantId, actor };
      const rule = { days: MAX_DAYS, cutoff: undefined, minToKeep: 0, staleAfterDays: undefined };
      try {
        const { expired, remaining, cursor } = await owners.count(call, rule, '', 1);
        if (expired + remaining > 0 || cursor !== undefined) return true;
      } catch (error) {
        if (!(error instanceof DomainError)) throw error;
        return true;
      }
    }
    return false;
  };
  const unknown: string[] = [];
  for (const tenantId of asked) if (!(await hasRows(tenantId))) unknown.push(tenantId);
  if (unknown.length > 0) throw tenantsUnknown(unknown);
}

/**
 * Why a purge must be held as a whole: too many of its tenants have a narrower window than in their last COMPLETE purge.
 * Undefined: it need not be.
 */
async function findFleetHold(
  { purges, windows }: OrderPurgePorts,
  ceiling: FleetCeiling,
  tenantIds: readonly string[],
  subjects: readonly string[],
): Promise<NewFleetHold | undefined> {
  if (ceiling.share === undefined || tenantIds.length < ceiling.tenants) return undefined;
  const last = Map.groupBy(await purges.findLastDays(tenantIds), ({ tenantId }) => tenantId);
  const resolved = new Map<string, readonly ResolvedWindow[]>();
  let narrowed = 0;
  for (let first = 0; first < tenantIds.length; first += TENANTS_AT_ONCE) {
    const slice = tenantIds.slice(first, first + TENANTS_AT_ONCE);
    const resolutions = await Promise.all(slice.map((tenantId) => windows.resolve(tenantId, undefined)));
    for (const [index, { windows: all }] of resolutions.entries()) {
      const tenantId = slice[index] ?? '';
      const used = subjects.length === 0 ? all : all.filter(({ subject }) => subjects.includes(subject));
      resolved.set(tenantId, used);
      const isNarrowed = used.some(({ subject, window }) => {
        const days = last.get(tenantId)?.find((candidate) => candidate.subject === subject)?.days;
        return isNarrower(window, days === undefined ? undefined : { kind: 'DAYS', days });
      });
      if (isNarrowed) narrowed += 1;
    }
  }
  if (!narrowedTooMany({ narrowed, tenants: tenantIds.length }, ceiling)) return undefined;
  return {
    narrowed,
    windows: [...resolved].flatMap(([tenantId, all]) =>
      all.map(({ subject, window, source, minToKeep }) => ({
        tenantId,
        subject,
        days: window.kind === 'DAYS' ? window.days : undefined,
        source,
        minToKeep,
      })),
    ),
  };
}
