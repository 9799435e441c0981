import type { BulkTargets } from '#libs/bulk-deletion/bulk-deletion-repository.ts';
import { deletionRefusal, JOB_STATES } from '../../domain/job.ts';
import type { JobFilter } from '../../domain/job-filter.ts';

/** Jobs as what a bulk deletion selects, by the predicates of ListJobs and of `assertDeletable`. */
export const jobTargets: BulkTargets<JobFilter> = {
  targetType: 'job',
  table: 'jobs',
  deletions: 'job_deletions',
  // As etagOf of the domain.
  etag: `format('"%s"', t.version)`,
  where: ({ filter }) => ({
    sql: `t.deletion_id is null and t.deleted_at is null
      and (cast(:states as text[]) is null or t.state = any(cast(:states as text[])))
      and (cast(:runId as uuid) is null or t.run_id = cast(:runId as uuid))
      and (cast(:minCreatedAt as timestamptz) is null or t.created_at >= cast(:minCreatedAt as timestamptz))
      and (cast(:maxCreatedAt as timestamptz) is null or t.created_at < cast(:maxCreatedAt as timestamptz))`,
    bindings: {
      states: filter.states.length === 0 ? null : [...filter.states],
      runId: filter.runId ?? null,
      minCreatedAt: filter.minCreatedAt ?? null,
      maxCreatedAt: filter.maxCreatedAt ?? null,
    },
  }),
  skipReason: () => ({
    sql: `case when t.state <> all(cast(:deletable as text[])) then 'JOB_NOT_TERMINAL' end`,
    bindings: { deletable: JOB_STATES.filter((state) => deletionRefusal(state) === undefined) },
  }),
};
