import { DomainError, type ErrorKind } from '#libs/kernel/domain-error.ts';
import type { Refusal, RefusalAudit } from './ports.ts';

/** Runs an order; where it is refused, that is in the audit before the caller hears of it. */
export type RecordRefusal = <T>(order: Omit<Refusal, 'outcome'>, work: () => Promise<T>) => Promise<T>;

// Of what is there; what is not found is nobody's, and a store that fails has refused nothing.
const REFUSALS: ReadonlySet<ErrorKind> = new Set(['failed-precondition', 'aborted']);

/** Makes RecordRefusal. */
export const makeRecordRefusal =
  (refusals: RefusalAudit): RecordRefusal =>
  async (order, work) => {
    try {
      return await work();
    } catch (error) {
      if (error instanceof DomainError && REFUSALS.has(error.kind)) {
        await refusals.record({ ...order, outcome: error.reason });
      }
      throw error;
    }
  };
