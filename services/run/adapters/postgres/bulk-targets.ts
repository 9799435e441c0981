import type { BulkTargets } from '#libs/bulk-deletion/bulk-deletion-repository.ts';
import { isTerminal, RUN_STATES } from '../../domain/run.ts';
import type { RunFilter } from '../../domain/run-filter.ts';

/** Runs as what a bulk deletion selects, by the predicates of ListRuns and of `assertPurgeable`. */
export const makeRunTargets = (minPurgeAgeHours: number): BulkTargets<RunFilter> => ({
  targetType: 'run',
  table: 'workflow_runs',
  deletions: 'deletions',
  // As etagOf of the domain.
  etag: `case when t.deleted_at is null then format('"%s"', t.version)
              else format('"%s.%s"', t.version, t.deletion_id) end`,
  where: ({ mode, filter }) => ({
    sql: `(:showDeleted or t.deleted_at is null)
      and (cast(:states as text[]) is null or t.state = any(cast(:states as text[])))
      and (cast(:workflow as text) is null or t.workflow = :workflow)
      and (cast(:minCreatedAt as timestamptz) is null or t.created_at >= cast(:minCreatedAt as timestamptz))
      and (cast(:maxCreatedAt as timestamptz) is null or t.created_at < cast(:maxCreatedAt as timestamptz))`,
    bindings: {
      showDeleted: filter.showDeleted && mode === 'PURGE',
      states: filter.states.length === 0 ? null : [...filter.states],
      workflow: filter.workflow ?? null,
      minCreatedAt: filter.minCreatedAt ?? null,
      maxCreatedAt: filter.maxCreatedAt ?? null,
    },
  }),
  skipReason: ({ mode, force }) => ({
    sql: `case when t.state <> all(cast(:terminal as text[])) then 'RUN_NOT_TERMINAL'
               when :isGuarded and greatest(t.created_at, t.finished_at) + :guardHours * interval '1 hour'
                    > clock_timestamp()
                 then 'RETENTION_GUARD' end`,
    bindings: {
      terminal: RUN_STATES.filter(isTerminal),
      isGuarded: mode === 'PURGE' && !force,
      guardHours: minPurgeAgeHours,
    },
  }),
});
