import { type Caller, hasRole, tenantOf } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { runNotFound } from '../domain/errors.ts';
import { assertEtag, finish, type JsonObject, type Run } from '../domain/run.ts';
import type { NewRun, Page, RunQuery, RunRepository } from './ports.ts';

/** How a caller ends the run that it drives. */
export interface FinishRunCommand {
  readonly tenantId: string;
  readonly runId: string;
  readonly state: 'COMPLETED' | 'FAILED' | 'CANCELLED';
  readonly error: string | undefined;
  readonly output: JsonObject | undefined;
  readonly etag: string;
}

/** Runs that are driven by their callers. */
export interface KeepRuns {
  create(command: Omit<NewRun, 'fingerprint'>): Promise<Run>;
  /** RUN_NOT_FOUND; ROLE_TOO_LOW for `showDeleted` by less than an admin. */
  get(caller: Caller, runId: string, showDeleted: boolean): Promise<Run>;
  list(caller: Caller, query: RunQuery): Promise<Page<Run>>;
  /** RUN_NOT_FOUND, RUN_NOT_RUNNING, ETAG_MISMATCH. */
  finish(command: FinishRunCommand): Promise<Run>;
}

/** Makes KeepRuns. */
export const makeKeepRuns = (runs: RunRepository): KeepRuns => ({
  create: (command) => {
    const { workflow, displayName, input } = command;
    return runs.create({ ...command, fingerprint: fingerprint({ rpc: 'CreateRun', workflow, displayName, input }) });
  },

  async get(caller, runId, showDeleted) {
    assertMayShowDeleted(caller, showDeleted);
    const run = await runs.get(tenantOf(caller), runId, showDeleted);
    if (!run) throw runNotFound();
    return run;
  },

  async list(caller, query) {
    assertMayShowDeleted(caller, query.showDeleted);
    return runs.list(tenantOf(caller), query);
  },

  async finish({ tenantId, runId, state, error, output, etag }) {
    const finished = await runs.update(tenantId, runId, (run, now) => {
      assertEtag(run, etag);
      return finish(run, state, now, { error, output });
    });
    if (!finished) throw runNotFound();
    return finished;
  },
});

function assertMayShowDeleted(caller: Caller, showDeleted: boolean): void {
  if (!showDeleted || hasRole(caller, 'admin')) return;
  throw new DomainError('permission-denied', 'ROLE_TOO_LOW', 'Only an admin may see what is deleted.', {
    role: 'admin',
  });
}
