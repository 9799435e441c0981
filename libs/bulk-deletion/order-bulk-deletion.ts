import { crashPoint } from '#libs/durable/crash-point.ts';
import { type Caller, hasRole, tenantOf } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import {
  assertMatches,
  type BulkDeletion,
  type BulkMode,
  bulkDeletionFinished,
  bulkDeletionNotFound,
  type Matches,
} from './bulk-deletion.ts';
import type { BulkDeletionRepository, BulkOrder } from './ports.ts';

/** What a caller wants deleted: everything that `filter` matches. */
export interface BulkCommand<Filter> {
  readonly caller: Caller;
  readonly mode: BulkMode;
  readonly filter: Filter;
  readonly force: boolean;
}

/** Orders bulk deletions, previews and cancels them. */
export interface OrderBulkDeletion<Filter> {
  /**
   * Commits the intent before it answers; a worker of any replica does the rest. TOO_MANY_MATCHES, COUNT_CHANGED,
   * REQUEST_ID_REUSED, ROLE_TOO_LOW for `force`.
   */
  order(
    command: BulkCommand<Filter> & {
      readonly reason: string;
      readonly requestId: string | undefined;
      readonly expectedCount: number | undefined;
    },
  ): Promise<BulkDeletion<Filter>>;
  /** What an order would take now, with the ids of the newest that match. ROLE_TOO_LOW for `force`. */
  preview(command: BulkCommand<Filter>): Promise<Matches & { readonly samples: readonly string[] }>;
  /** From the answer on no further item is begun. BULK_DELETION_NOT_FOUND, BULK_DELETION_FINISHED. */
  cancel(caller: Caller, bulkDeletionId: string, reason: string | undefined): Promise<BulkDeletion<Filter>>;
}

/** Told of everything that was ordered, and of what was refused, with the reason. */
export type OnBulkOrdered = (
  order: Pick<BulkOrder<unknown>, 'tenantId' | 'mode' | 'caller' | 'reason' | 'filter'>,
  outcome: 'ORDERED' | 'REFUSED' | 'CANCELLED',
  why: string,
) => void;

const SAMPLES = 10;

/** Makes OrderBulkDeletion. `name` is that of the crash points; `wake` tells the workers that something is due. */
export function makeOrderBulkDeletion<Filter extends object>(
  name: string,
  repository: BulkDeletionRepository<Filter>,
  wake: () => void,
  onOrdered: OnBulkOrdered,
): OrderBulkDeletion<Filter> {
  const get = async (tenantId: string, bulkDeletionId: string): Promise<BulkDeletion<Filter>> => {
    const bulk = await repository.get(tenantId, bulkDeletionId);
    if (!bulk) throw bulkDeletionNotFound();
    return bulk;
  };
  return {
    async order({ caller, mode, filter, force, reason, requestId, expectedCount }) {
      const order: BulkOrder<Filter> = {
        caller,
        tenantId: tenantOf(caller),
        mode,
        filter,
        force,
        reason,
        requestId,
        expectedCount,
        fingerprint: fingerprint({ mode, filter, force, reason, expectedCount }),
      };
      try {
        assertMayForce(caller, force);
        const begun = await repository.begin(order, (matches) => assertMatches(matches, expectedCount));
        if (begun.isNew) {
          crashPoint(`${name}.bulk.after-intent`);
          onOrdered(order, 'ORDERED', mode);
        }
        wake();
        return await get(order.tenantId, begun.bulkDeletionId);
      } catch (error) {
        if (error instanceof DomainError && error.kind !== 'unavailable') {
          onOrdered(order, 'REFUSED', error.reason);
          await repository.recordRefusal(order, error.reason);
        }
        throw error;
      }
    },

    async preview({ caller, mode, filter, force }) {
      assertMayForce(caller, force);
      const selection = { tenantId: tenantOf(caller), mode, filter, force };
      return { ...(await repository.count(selection)), samples: await repository.sample(selection, SAMPLES) };
    },

    async cancel(caller, bulkDeletionId, reason) {
      const tenantId = tenantOf(caller);
      const before = await repository.cancel(tenantId, bulkDeletionId, caller, reason);
      if (before === undefined) throw bulkDeletionNotFound();
      if (before === 'COMPLETE' || before === 'STUCK') throw bulkDeletionFinished(before);
      const bulk = await get(tenantId, bulkDeletionId);
      if (before === 'SELECTING' || before === 'RUNNING') {
        const { mode, filter } = bulk;
        onOrdered({ tenantId, mode, caller, reason: reason ?? '', filter }, 'CANCELLED', bulkDeletionId);
        wake();
      }
      return bulk;
    },
  };
}

function assertMayForce(caller: Caller, force: boolean): void {
  if (!force || hasRole(caller, 'owner')) return;
  throw new DomainError('permission-denied', 'ROLE_TOO_LOW', 'Only an owner may force a purge.', { role: 'owner' });
}
