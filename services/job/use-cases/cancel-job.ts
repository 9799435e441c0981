import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { jobNotFound } from '../domain/errors.ts';
import { assertEtag, cancel, isCancelled, type Job } from '../domain/job.ts';
import type { JobChange, JobRepository } from './ports.ts';

/** Cancels a job: at once while PENDING, by asking its worker to stop while RUNNING. Repeating changes nothing. */
export type CancelJob = (command: {
  caller: Caller;
  jobId: string;
  etag: string;
  reason: string | undefined;
}) => Promise<Job>;

/** Makes CancelJob. */
export const makeCancelJob =
  (jobs: JobRepository): CancelJob =>
  async ({ caller, jobId, etag, reason }) => {
    const change: JobChange = (job, now) => {
      if (!isCancelled(job)) assertEtag(job, etag);
      return cancel(job, now);
    };
    const cancelled = await jobs.update(tenantOf(caller), jobId, change, { caller, action: 'cancel', reason });
    if (!cancelled) throw jobNotFound();
    return cancelled;
  };
