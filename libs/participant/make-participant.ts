import { crashPoint } from '#libs/durable/crash-point.ts';
import { DomainError, type ErrorKind } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Action } from './action.ts';
import { withLeft } from './counts.ts';
import type { Inventory, Look, Participant, Participation, Preview, RunOperation, RunScope } from './participant.ts';
import type { Deed, RunGate } from './run-gate.ts';

type Removed = Pick<Awaited<ReturnType<RunGate['remove']>>, 'counts' | 'removed' | 'isDone' | 'isNew'>;

/** The rows that a service keeps of runs. Hidden ones are there for every method. */
export interface RunRows extends Pick<RunGate, 'hide' | 'restore' | 'forbid'> {
  /**
   * Must tell what a purge would take and what forbids it, by the predicates that `removeBatch` uses; with `blockersOnly`
   * it need not count.
   */
  preview(scope: RunScope, look?: Look & { readonly blockersOnly?: boolean }): Promise<Preview>;
  /** Must tell what is left, of the whole run or of a step, by the same predicates. */
  left(scope: RunScope, look?: Look): Promise<Inventory>;
  /**
   * Must remove up to `limit` rows in one transaction and add them to the counts of the operation, which are answered.
   * `isNew` when this batch was the one that found the end after something had gone.
   */
  removeBatch(scope: RunScope, operation: RunOperation, limit: number): Promise<Removed>;
}

/** What a service is told of what is done to its runs. */
export interface ParticipantObserver {
  /** Something was hidden, brought back or removed to the end. Once for each operation that did anything. */
  onTouched?(deed: Deed, scope: RunScope, operation: RunOperation, counts: readonly ResourceCount[]): void;
  /** An operation was refused for `reason`; must be written down before the caller hears of it. */
  onRefused?(deed: Deed, scope: RunScope, operation: RunOperation, reason: string): Promise<void>;
}

/** What a participant is made of. */
export interface ParticipantParts extends ParticipantObserver {
  readonly rows: RunRows;
  readonly actions?: Readonly<Record<string, Action>>;
  /** So many rows are done well within a second. */
  readonly rowsPerBatch: number;
  /** The names of the persisted points, for the tests that kill the process there. */
  readonly crashPoints?: { readonly afterIntent?: string; readonly afterBatch?: string };
}

const COMPENSATED_PER_CALL = 10_000;
const BUDGET_MS = 5_000;
// A PARTIAL answer tells as much of what is left as is seen in this time.
const LEFT_BUDGET_MS = 500;

// Of what is there; a failure has refused nothing.
const REFUSALS: ReadonlySet<ErrorKind> = new Set(['failed-precondition', 'aborted']);

/** Makes the participant of a service all of whose data of runs is rows of its own database. */
export function makeParticipant({
  rows,
  actions = {},
  rowsPerBatch,
  crashPoints,
  ...observer
}: ParticipantParts): Participant {
  const { onTouched = () => undefined, onRefused = async () => undefined } = observer;

  const noting = async <T>(
    deed: Deed,
    scope: RunScope,
    operation: RunOperation,
    work: () => Promise<T>,
  ): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      if (error instanceof DomainError && REFUSALS.has(error.kind)) {
        await onRefused(deed, scope, operation, error.reason);
      }
      throw error;
    }
  };

  const touch = async (
    deed: Deed,
    scope: RunScope,
    operation: RunOperation,
    work: () => ReturnType<RunGate['hide']>,
  ): Promise<readonly ResourceCount[]> => {
    const { counts, isNew } = await noting(deed, scope, operation, work);
    if (isNew) onTouched(deed, scope, operation, counts);
    return shown(counts);
  };

  /** Removes batch after batch, each in its own transaction, until nothing is left, or the limit or the time is reached. */
  const remove = async (
    deed: Deed,
    scope: RunScope,
    operation: RunOperation,
    limit: number,
  ): Promise<Participation> => {
    const startedAt = performance.now();
    await noting(deed, scope, operation, () => rows.forbid(scope, operation));
    if (crashPoints?.afterIntent) crashPoint(crashPoints.afterIntent);
    for (let rest = limit; ; ) {
      const { counts, removed, isDone, isNew } = await rows.removeBatch(scope, operation, Math.min(rest, rowsPerBatch));
      if (crashPoints?.afterBatch) crashPoint(crashPoints.afterBatch);
      rest -= removed;
      if (isNew) onTouched(deed, scope, operation, counts);
      if (isDone) return { progress: 'COMPLETE', counts: shown(counts), failedItems: [] };
      if (rest <= 0 || performance.now() - startedAt > BUDGET_MS) {
        const { counts: seen, cursor } = await rows.left(scope, { budgetMs: LEFT_BUDGET_MS });
        const left = cursor === undefined ? seen : seen.map((count) => ({ ...count, atLeast: true }));
        return { progress: 'PARTIAL', counts: withLeft(counts, left), failedItems: [] };
      }
    }
  };

  return {
    actions,
    preview: rows.preview,
    softDelete: (scope, operation) => touch('soft-delete', scope, operation, () => rows.hide(scope, operation)),
    restore: (scope, operation, softDeleteId) =>
      touch('undelete', scope, operation, () => rows.restore(scope, operation, softDeleteId)),
    purge: (scope, operation, limit) => remove('purge', scope, operation, limit),
    compensate: (scope, operation) => remove('compensate', scope, operation, COMPENSATED_PER_CALL),
    verify: (scope, _, look) => rows.left(scope, look),
  };
}

const shown = (counts: readonly ResourceCount[]): readonly ResourceCount[] => counts.filter(({ found }) => found > 0);
