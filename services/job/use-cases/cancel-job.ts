import { jobNotFound } from '../domain/errors.ts';
import { assertEtag, cancel, type Job } from '../domain/job.ts';
import type { JobRepository } from './ports.ts';

/** Cancels a job: at once while PENDING, by asking its worker to stop while RUNNING. Repeating changes nothing. */
export type CancelJob = (command: { tenantId: string; jobId: string; etag: string }) => Promise<Job>;

/** Makes CancelJob. */
export const makeCancelJob =
  (jobs: JobRepository): CancelJob =>
  async ({ tenantId, jobId, etag }) => {
    const cancelled = await jobs.update(tenantId, jobId, (job, now) => {
      assertEtag(job, etag);
      return cancel(job, now);
    });
    if (!cancelled) throw jobNotFound();
    return cancelled;
  };
