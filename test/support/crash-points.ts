// The persisted points of durable operations, for the tests that kill the process there.

/** Of a cascade. */
export const CASCADE_CRASH_POINTS = [
  'run.delete.after-intent',
  'run.delete.after-claim',
  'run.delete.after-call',
  'run.delete.after-step',
  'run.delete.after-verify',
  'run.delete.between-own-batches',
  'run.delete.after-complete',
] as const;

/** Of a run as a whole. */
export const RUN_CRASH_POINTS = ['run.start.after-commit', 'run.step.after-claim'] as const;

/** Of each step of a run; `:` and the step's name follow. Only steps that ask anybody have calls. */
export const STEP_CRASH_POINTS = [
  'run.step.before-action',
  'run.step.after-call',
  'run.step.after-outcome',
  'run.step.before-compensation',
  'run.step.after-compensate-call',
  'run.step.after-compensation',
] as const;

/** Of a job's removal. */
export const DELETION_CRASH_POINTS = [
  'job.delete.after-intent',
  'job.delete.after-claim',
  'job.delete.after-batch',
  'job.delete.between-batches',
  'job.delete.after-objects',
  'job.delete.after-read-back',
  'job.delete.after-rows',
] as const;

/** Of a step's action in JobService. */
export const EXECUTE_CRASH_POINTS = [
  'job.execute.after-intent',
  'upload.after-intent',
  'upload.after-put',
  'job.execute.between-objects',
  'job.execute.after-objects',
  'job.execute.after-outcome',
] as const;

/** The awaits of an upload; those that begin with `store` are the store's. */
export const UPLOAD_CRASH_POINTS = [
  'upload.before-intent',
  'upload.after-intent',
  'store.put.after-create',
  'store.put.after-part',
  'upload.before-last-look',
  'upload.after-last-look',
  'store.put.before-complete',
  'store.put.after-complete',
  'upload.after-put',
  'upload.after-finish',
] as const;

/** Of an ending and of an action in IncidentService. */
export const PARTICIPANT_CRASH_POINTS = [
  'incident.execute.after-outcome',
  'incident.cascade.after-intent',
  'incident.cascade.after-batch',
] as const;

/** Of a tenant's purge. */
export const PURGE_CRASH_POINTS = [
  'retention.purge.after-claim',
  'retention.purge.after-count',
  'retention.purge.after-operation',
  'retention.purge.before-save',
  'retention.purge.after-batch',
  'retention.purge.before-end',
  'retention.purge.after-end',
  'retention.purge.after-tenant',
] as const;

/** Of a bulk deletion, after the service's name. */
export const BULK_CRASH_POINTS = [
  'bulk.after-intent',
  'bulk.after-claim',
  'bulk.between-chunks',
  'bulk.after-selection',
  'bulk.after-item',
  'bulk.after-items',
  'bulk.before-end',
  'bulk.after-end',
] as const;

/** Of a preview or a read-back in parts, in RunService, which holds the cursor. */
export const LOOK_CRASH_POINTS = ['run.look.between-parts'] as const;

/** Of the removal of an object that was replaced, or that an upload left. */
export const DISCARD_CRASH_POINTS = ['discard.after-claim', 'discard.after-removal'] as const;
