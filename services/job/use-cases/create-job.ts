import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { Job } from '../domain/job.ts';
import type { JobRepository, NewJob } from './ports.ts';

/** What the caller asks for. */
export type CreateJobCommand = Omit<NewJob, 'fingerprint'>;
/** Creates a PENDING job; the same request id and body answer with the same job. */
export type CreateJob = (command: CreateJobCommand) => Promise<Job>;

/** Makes CreateJob. */
export const makeCreateJob =
  (jobs: JobRepository): CreateJob =>
  (command) => {
    const { requestId: _, tenantId: __, ...body } = command;
    return jobs.create({ ...command, fingerprint: fingerprint({ rpc: 'CreateJob', ...body }) });
  };
