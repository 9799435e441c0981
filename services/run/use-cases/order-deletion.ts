import { crashPoint } from '#libs/durable/crash-point.ts';
import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import { type Caller, hasRole, tenantOf } from '#libs/kernel/caller.ts';
import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { assertPurgeable, type Deletion, type DeletionMode, OWN_PARTICIPANT } from '../domain/deletion.ts';
import { roleTooLow } from '../domain/errors.ts';
import { assertEtag, assertTerminal, type Run } from '../domain/run.ts';
import { askParticipants } from './ask-participants.ts';
import type { DeletionOrder, DeletionOrders, Participant } from './deletion-ports.ts';
import { foretellDeletion } from './foretell-deletion.ts';
import type { RunRepository } from './ports.ts';

/** What a caller asks for; `force` skips the age guard. */
export interface OrderDeletionCommand {
  readonly caller: Caller;
  readonly runId: string;
  readonly mode: DeletionMode;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly etag: string;
  readonly allowMissing: boolean;
  readonly validateOnly: boolean;
  readonly force: boolean;
  /** Aborted when nobody waits for the answer any more; what is only checked then ends early. */
  readonly signal?: AbortSignal;
  /**
   * The item of a bulk deletion that it is for: the run is left out of the answer, and a refusal out of the audit, since
   * the item tells of it.
   */
  readonly bulkItem?: BulkItem;
}

/**
 * Soft-deletes, undeletes or purges a run. Commits the intent before returning; any replica then runs the cascade.
 * Returns the deletion and the run as it is now, without a deletion when there is nothing to do. RUN_NOT_FOUND,
 * RUN_NOT_TERMINAL, RETENTION_GUARD, ETAG_MISMATCH, OPERATION_IN_PROGRESS, REQUEST_ID_REUSED, ROLE_TOO_LOW for
 * `force`, PARTICIPANT_UNKNOWN for a purge whose participant is not configured, and any blocker that a participant
 * reports, such as JOB_NOT_TERMINAL.
 */
export type OrderDeletion = (
  command: OrderDeletionCommand,
) => Promise<{ readonly run: Run | undefined; readonly deletion: Deletion | undefined }>;

/** Told of everything that was ordered, and of everything that was refused, with the refusal's reason. */
export type OnOrdered = (order: DeletionOrder, outcome: 'ORDERED' | 'REFUSED', reason: string) => void;

/** The operator's guard. */
export interface PurgeGuard {
  /** How old a run must be. */
  readonly minPurgeAgeHours: number;
}

/** Makes OrderDeletion. `participants` end with RunService's own; `wake` tells the workers that something is due. */
export function makeOrderDeletion(
  runs: RunRepository,
  deletions: DeletionOrders,
  participants: readonly Participant[],
  { minPurgeAgeHours }: PurgeGuard,
  wake: () => void,
  onOrdered: OnOrdered,
): OrderDeletion {
  const others = participants.map(({ name }) => name).filter((name) => name !== OWN_PARTICIPANT);

  const checkOf =
    ({ mode, etag, force }: OrderDeletionCommand) =>
    (run: Run, now: Temporal.Instant): void => {
      assertEtag(run, etag);
      if (mode === 'SOFT_DELETE') assertTerminal(run);
      if (mode === 'PURGE') assertPurgeable(run, now, minPurgeAgeHours, force);
    };

  const carryOut = async (command: OrderDeletionCommand, order: DeletionOrder): ReturnType<OrderDeletion> => {
    const { runId, mode, validateOnly } = command;
    const { tenantId } = order;
    const check = checkOf(command);
    const { checked, deletion: known } = await deletions.begin(order, check, true);
    let deletion = known;
    if (checked) {
      const previews =
        mode === 'UNDELETE' ? [] : await askParticipants(participants, order, checked.participants, command);
      if (validateOnly) {
        deletion = foretellDeletion(order, checked, previews);
      } else {
        ({ deletion } = await deletions.begin(order, check, false));
        crashPoint('run.delete.after-intent');
        wake();
        onOrdered(order, 'ORDERED', mode);
      }
    }
    const run = command.bulkItem ? undefined : await runs.get(tenantId, runId, true);
    return { run, deletion };
  };

  return async (command) => {
    const { caller, runId, mode, reason, requestId, etag, allowMissing, validateOnly, force, bulkItem } = command;
    const order: DeletionOrder = {
      caller,
      tenantId: tenantOf(caller),
      runId,
      mode,
      reason,
      requestId,
      force,
      fingerprint: fingerprint({ runId, reason, etag, allowMissing, force }),
      participants: others,
      bulkItem,
    };
    try {
      if (force && !hasRole(caller, 'owner')) throw roleTooLow('owner', 'Only an owner may force a purge.');
      return await carryOut(command, order);
    } catch (error) {
      if (allowMissing && hasReason(error, 'RUN_NOT_FOUND')) return { run: undefined, deletion: undefined };
      if (error instanceof DomainError && !validateOnly && !bulkItem && error.kind !== 'unavailable') {
        onOrdered(order, 'REFUSED', error.reason);
        await deletions.recordRefusal(order, error.reason);
      }
      throw error;
    }
  };
}
