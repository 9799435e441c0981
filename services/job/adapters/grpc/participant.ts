import type { Action, Participant, Participation } from '#libs/participant/participant.ts';
import { toResourceCounts } from '../../domain/deletion.ts';
import { deletionRefusal } from '../../domain/job.ts';
import type { CreateJobAction } from '../../domain/step-action.ts';
import type { ExecuteStep } from '../../use-cases/execute-step.ts';
import type { Participation as JobParticipation, Participate } from '../../use-cases/participate.ts';
import { parseCreateJobAction } from './parse-action.ts';

/** JobService as a participant of runs: the actions of their steps, and the deletions. */
export const makeJobParticipant = (participate: Participate, executeStep: ExecuteStep): Participant => ({
  actions: { 'create-job': makeCreateJob(executeStep) },

  async preview(scope) {
    const { inventory, stored } = await participate.preview(scope);
    return {
      counts: toResourceCounts(stored, 'found'),
      blockers: inventory.unfinishedJobs.map(({ jobId, state }) => ({
        reason: 'JOB_NOT_TERMINAL',
        resourceType: 'job',
        resourceId: jobId,
        message: deletionRefusal(state) ?? '',
      })),
      samples: inventory.sampleJobIds.map(toSample),
    };
  },

  softDelete: async (scope, operation) =>
    toResourceCounts({ jobs: await participate.softDelete(scope, operation) }, 'removed'),

  restore: async (scope, operation, softDeleteId) =>
    toResourceCounts({ jobs: await participate.restore(scope, operation, softDeleteId) }, 'removed'),

  purge: async (scope, operation, limit) => toParticipation(await participate.purge(scope, operation, limit)),

  compensate: async (scope, operation) => toParticipation(await participate.compensate(scope, operation)),

  async verify(scope, rowsOnly) {
    const { jobs, objects, samples } = await participate.verify(scope, rowsOnly);
    return { counts: toResourceCounts({ jobs, objects }, 'found'), samples: samples.map(toSample) };
  },
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

const toParticipation = ({ progress, counts, failedKeys, isQueued }: JobParticipation): Participation => ({
  progress,
  counts: toResourceCounts(counts, 'removed'),
  failedItems: failedKeys.map(({ isPermanent: permanent = false, ...item }) => ({ ...item, permanent })),
  isQueued,
});

const toSample = (resourceId: string) => ({ resourceType: 'job', resourceId });
