import { type Caller, hasRole, tenantOf } from '#libs/kernel/caller.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { View } from '#libs/kernel/view.ts';
import { roleTooLow, runNotFound } from '../domain/errors.ts';
import type { Run } from '../domain/run.ts';
import type { RunStep } from '../domain/step.ts';
import type { RunQuery, RunRepository } from './ports.ts';

/** Reads runs and their steps. What is hidden is not there, unless an admin asks with `showDeleted`: ROLE_TOO_LOW. */
export interface ReadRuns {
  /** RUN_NOT_FOUND. */
  get(caller: Caller, runId: string, showDeleted: boolean, view?: View): Promise<Run>;
  /** In the BASIC view. */
  list(caller: Caller, query: RunQuery): Promise<Page<Run>>;
  /** RUN_NOT_FOUND. */
  listSteps(
    caller: Caller,
    runId: string,
    query: PageQuery & { readonly showDeleted: boolean },
  ): Promise<Page<RunStep>>;
}

/** Makes ReadRuns. */
export const makeReadRuns = (runs: Pick<RunRepository, 'get' | 'list' | 'listSteps'>): ReadRuns => ({
  async get(caller, runId, showDeleted, view) {
    assertMayShowDeleted(caller, showDeleted);
    const run = await runs.get(tenantOf(caller), runId, showDeleted, view);
    if (!run) throw runNotFound();
    return run;
  },

  async list(caller, query) {
    assertMayShowDeleted(caller, query.showDeleted);
    return runs.list(tenantOf(caller), query);
  },

  async listSteps(caller, runId, query) {
    assertMayShowDeleted(caller, query.showDeleted);
    const steps = await runs.listSteps(tenantOf(caller), runId, query);
    if (!steps) throw runNotFound();
    return steps;
  },
});

function assertMayShowDeleted(caller: Caller, showDeleted: boolean): void {
  if (!showDeleted || hasRole(caller, 'admin')) return;
  throw roleTooLow('admin', 'Only an admin may see what is deleted.');
}
