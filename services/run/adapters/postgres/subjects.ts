import type { OwnedSubject } from '#libs/owner/subject.ts';

/** Executions as data that ages. The floor is the policy's min_executions_to_keep. */
export const executions: OwnedSubject = {
  name: 'executions',
  resourceType: 'execution',
  ageOf: 'executions.started_at, or executions.created_at where it never started',
  hasFloor: true,
  table: 'executions',
  age: 'age',
  key: [
    { column: 'id', type: 'uuid' },
    { column: 'created_at', type: 'timestamptz' },
  ],
  unfinished: "r.state = 'RUNNING'",
  // One purge of a tenant at a time, so that each finds its floor among rows that no other is removing.
  lock: [
    'insert into execution_watermarks (tenant_id) values (:tenantId) on conflict do nothing',
    'select from execution_watermarks where tenant_id = :tenantId for update',
  ],
  // By a range of the index, since a ctid repeats in every partition and a key costs a probe in each of them. Between
  // the first and the last that were chosen there are only rows that have not finished besides.
  remove: `last as materialized (
      select age, id, created_at from chosen order by age desc, id desc, created_at desc limit 1),
    first as materialized (
      select age, id, created_at from chosen order by age, id, created_at limit 1),
    gone as (
      delete from executions r
      where r.tenant_id = :tenantId and r.age < :cutoff
        and (r.state <> 'RUNNING' or r.age < cast(:stale as timestamptz))
        and (r.age, r.id, r.created_at)
            >= ((select age from first), (select id from first), (select created_at from first))
        and (r.age, r.id, r.created_at)
            <= ((select age from last), (select id from last), (select created_at from last))
      returning 1),
    mark as (
      update execution_watermarks w set age = l.age, id = l.id, created_at = l.created_at from last l
      where w.tenant_id = :tenantId
        and (w.age is null or (w.age, w.id, w.created_at) < (l.age, l.id, l.created_at))
      returning 1)`,
  afterRange: `update execution_watermarks w
    set age = cast(:last as timestamptz), id = cast(:last0 as uuid), created_at = cast(:last1 as timestamptz)
    where w.tenant_id = :tenantId
      and (w.age is null or (w.age, w.id, w.created_at)
        < (cast(:last as timestamptz), cast(:last0 as uuid), cast(:last1 as timestamptz)))`,
};

/** What RunService owns that ages. */
export const RUN_SUBJECTS: readonly OwnedSubject[] = [executions];
