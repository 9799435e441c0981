import { type Caller, hasRole, tenantOf } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { View } from '#libs/kernel/view.ts';
import type { Artifact, ArtifactKind } from '../domain/artifact.ts';
import type { JobDeletion } from '../domain/deletion.ts';
import { deletionNotFound, jobNotFound } from '../domain/errors.ts';
import type { Job } from '../domain/job.ts';
import type { ArtifactIndex, DeletionQuery, DeletionRecords, JobQuery, JobRepository } from './ports.ts';

/** The reading use cases of jobs; each answers JOB_NOT_FOUND or DELETION_NOT_FOUND for what the caller cannot see. */
export interface ReadJobs {
  get(caller: Caller, jobId: string, showDeleted: boolean, view?: View): Promise<Job>;
  list(caller: Caller, query: JobQuery): Promise<Page<Job>>;
  listArtifacts(
    caller: Caller,
    jobId: string,
    kind: ArtifactKind | undefined,
    page: PageQuery,
    showDeleted: boolean,
  ): Promise<Page<Artifact>>;
  getDeletion(caller: Caller, deletionId: string): Promise<JobDeletion>;
  listDeletions(caller: Caller, query: DeletionQuery): Promise<Page<JobDeletion>>;
}

/** Makes the reading use cases. */
export function makeReadJobs(jobs: JobRepository, artifacts: ArtifactIndex, deletions: DeletionRecords): ReadJobs {
  const get = async (caller: Caller, jobId: string, showDeleted: boolean, view?: View): Promise<Job> => {
    assertMayShowDeleted(caller, showDeleted);
    const job = await jobs.get(tenantOf(caller), jobId, showDeleted, view);
    if (!job) throw jobNotFound();
    return job;
  };
  return {
    get,
    async list(caller, query) {
      assertMayShowDeleted(caller, query.showDeleted);
      return jobs.list(tenantOf(caller), query);
    },
    async listArtifacts(caller, jobId, kind, page, showDeleted) {
      const { tenantId, id } = await get(caller, jobId, showDeleted);
      return artifacts.list(tenantId, id, kind, page);
    },
    async getDeletion(caller, deletionId) {
      const deletion = await deletions.get(tenantOf(caller), deletionId);
      if (!deletion) throw deletionNotFound();
      return deletion;
    },
    listDeletions: (caller, query) => deletions.list(tenantOf(caller), query),
  };
}

/** Passes unless what is hidden is asked for by less than an admin. */
export function assertMayShowDeleted(caller: Caller, showDeleted: boolean): void {
  if (!showDeleted || hasRole(caller, 'admin')) return;
  const message = 'Only an admin may see what is deleted.';
  throw new DomainError('permission-denied', 'ROLE_TOO_LOW', message, { role: 'admin' });
}
