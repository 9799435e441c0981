import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import type { Page } from '#libs/kernel/page.ts';
import { type Execution, type ExecutionCount, isCountable, MAX_COUNTED_DAYS } from '../domain/execution.ts';
import type { ExecutionQuery, ExecutionRepository } from './execution-ports.ts';

/** Which days to count, both inclusive. */
export interface CountQuery {
  /** Absent: 30 days before the last one. */
  readonly firstDay: Temporal.PlainDate | undefined;
  /** Absent: today. */
  readonly lastDay: Temporal.PlainDate | undefined;
  readonly workflow: string | undefined;
}

/** Reads executions. */
export interface ReadExecutions {
  list(tenantId: string, query: ExecutionQuery): Promise<Page<Execution>>;
  /** By day and state, oldest day first. FIELD_INVALID for days in the wrong order, more than 31, or before year 1. */
  count(tenantId: string, query: CountQuery): Promise<readonly ExecutionCount[]>;
}

/** Makes ReadExecutions. */
export const makeReadExecutions = (executions: ExecutionRepository): ReadExecutions => ({
  list: executions.list,
  async count(tenantId, { firstDay, lastDay, workflow }) {
    const last = lastDay ?? (await executions.today());
    const first = firstDay ?? last.subtract({ days: MAX_COUNTED_DAYS - 1 });
    if (!isCountable(first)) throw fieldInvalid('last_day', 'must be 0001-01-31 or later where first_day is empty');
    const more = first.until(last).days;
    if (more < 0) throw fieldInvalid('first_day', 'must not be after last_day');
    if (more >= MAX_COUNTED_DAYS) throw fieldInvalid('last_day', 'must be at most 30 days after first_day');
    const days = Array.from({ length: more + 1 }, (_, index) => first.add({ days: index }));
    return executions.count(tenantId, days, workflow);
  },
});
