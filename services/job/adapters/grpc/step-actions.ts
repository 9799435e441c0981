import type { Action } from '#libs/participant/action.ts';
import { toResourceCounts } from '../../domain/deletion.ts';
import type { CreateJobAction } from '../../domain/step-action.ts';
import type { ExecuteStep } from '../../use-cases/execute-step.ts';
import { parseCreateJobAction } from './parse-action.ts';

/** What the steps of runs can have done here. */
export const makeJobActions = (executeStep: ExecuteStep): Readonly<Record<string, Action>> => ({
  'create-job': makeCreateJob(executeStep),
});

// A job names nothing that has to be there, so nothing is checked before it is made.
const makeCreateJob = (executeStep: ExecuteStep): Action<CreateJobAction> => ({
  parse: parseCreateJobAction,
  async execute({ tenantId, runId, step, signal }, action) {
    const outcome = await executeStep({ tenantId, runId, step, action, signal });
    if (!outcome) return undefined;
    const { jobId, state, tasks, assets } = outcome;
    const bytes = assets.reduce((sum, asset) => sum + asset.bytes, 0);
    const { length } = assets;
    return {
      output: { job_id: jobId, state, assets: assets.map((asset) => ({ name: asset.name, size_bytes: asset.bytes })) },
      counts: toResourceCounts({ jobs: 1, tasks, artifacts: length, objects: length, bytes }, 'found'),
    };
  },
});
