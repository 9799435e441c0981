import { fieldsInvalid } from '#libs/kernel/domain-error.ts';
import type { Execution } from '../domain/execution.ts';
import type { ExecutionRepository } from './execution-ports.ts';

/** What was recorded. */
export interface ExecutionReceipt {
  readonly created: number;
  readonly updated: number;
  /** The ids of those that a purge had reached already. */
  readonly expiredIds: readonly string[];
}

/** Records executions, all or none. FIELD_INVALID naming every instant that no execution can have. */
export type RecordExecutions = (tenantId: string, executions: readonly Execution[]) => Promise<ExecutionReceipt>;

/** Makes RecordExecutions. */
export const makeRecordExecutions =
  (repository: ExecutionRepository): RecordExecutions =>
  async (tenantId, executions) => {
    const recorded = await repository.record(tenantId, executions);
    if ('misdated' in recorded) {
      const { created, started, finished } = recorded.misdated;
      throw fieldsInvalid([
        ...created.map((at) => ({
          field: `executions[${at}].create_time`,
          description: 'must lie within the last ten years and not more than a day ahead',
        })),
        ...started.map((at) => ({
          field: `executions[${at}].start_time`,
          description: 'must not lie more than a day ahead',
        })),
        ...finished.map((at) => ({
          field: `executions[${at}].finish_time`,
          description: 'must not lie more than a day ahead',
        })),
      ]);
    }
    const { created, updated, expired } = recorded;
    return { created, updated, expiredIds: expired.map((at) => executions[at]?.id ?? '') };
  };
