import type { Knex } from 'knex';

// What a worker of the queue reads and writes. The queue puts them under row-level security and lets their owner alone
// see rows; a job holds ids and nothing else of a tenant.
const QUEUE_TABLES = ['_private_jobs', '_private_job_queues', '_private_tasks', '_private_known_crontabs'];

/**
 * Creates the schema of the queue that carried purges from migration 003 to 013, as graphile-worker 0.18.0 made it: for the
 * versions of RetentionService between the two, which find it again when 014 is taken back.
 */
export async function createQueueSchema(knex: Knex, appRole: string): Promise<void> {
  await knex.raw('drop schema if exists graphile_worker cascade');
  await knex.raw(SCHEMA);
  await knex.raw('grant usage on schema graphile_worker to ??', [appRole]);
  await knex.raw('grant select on graphile_worker.migrations to ??', [appRole]);
  for (const table of QUEUE_TABLES) {
    const name = `graphile_worker.${table}`;
    await knex.raw('grant select, insert, update, delete on ?? to ??', [name, appRole]);
    await knex.raw('create policy lethe_worker on ?? to ?? using (true) with check (true)', [name, appRole]);
  }
}

// Its tables and functions are graphile-worker's: MIT License, Copyright 2019 Benjie Gillam,
// https://github.com/graphile/worker/blob/main/LICENSE.md.
const SCHEMA = `
create schema graphile_worker;
create type graphile_worker.job_spec as (identifier text, payload json, queue_name text, run_at timestamptz, max_attempts smallint, job_key text, priority smallint, flags text[]);
create table graphile_worker.migrations (
  id integer not null,
  ts timestamptz default now() not null,
  breaking boolean default false not null,
  constraint migrations_pkey primary key (id)
);
create table graphile_worker._private_jobs (
  id bigint generated always as identity not null,
  job_queue_id integer,
  task_id integer not null,
  payload json default '{}'::json not null,
  priority smallint default 0 not null,
  run_at timestamptz default now() not null,
  attempts smallint default 0 not null,
  max_attempts smallint default 25 not null,
  last_error text,
  created_at timestamptz default now() not null,
  updated_at timestamptz default now() not null,
  key text,
  locked_at timestamptz,
  locked_by text,
  revision integer default 0 not null,
  flags jsonb,
  is_available boolean generated always as (((locked_at is null) and (attempts < max_attempts))) stored not null,
  constraint jobs_key_key1 unique (key),
  constraint jobs_pkey1 primary key (id),
  constraint jobs_key_check check (((length(key) > 0) and (length(key) <= 512))),
  constraint jobs_max_attempts_check check ((max_attempts >= 1))
);
alter table graphile_worker._private_jobs enable row level security;
create index jobs_main_index on graphile_worker._private_jobs (priority, run_at) include (id, task_id, job_queue_id) where (is_available = true);
create index jobs_no_queue_index on graphile_worker._private_jobs (priority, run_at) include (id, task_id) where ((is_available = true) and (job_queue_id is null));
create table graphile_worker._private_job_queues (
  id integer generated always as identity not null,
  queue_name text not null,
  locked_at timestamptz,
  locked_by text,
  is_available boolean generated always as ((locked_at is null)) stored not null,
  constraint job_queues_queue_name_key unique (queue_name),
  constraint job_queues_pkey1 primary key (id),
  constraint job_queues_queue_name_check check ((length(queue_name) <= 128))
);
alter table graphile_worker._private_job_queues enable row level security;
create table graphile_worker._private_tasks (
  id integer generated always as identity not null,
  identifier text not null,
  constraint tasks_identifier_key unique (identifier),
  constraint tasks_pkey primary key (id),
  constraint tasks_identifier_check check ((length(identifier) <= 128))
);
alter table graphile_worker._private_tasks enable row level security;
create table graphile_worker._private_known_crontabs (
  identifier text not null,
  known_since timestamptz not null,
  last_execution timestamptz,
  constraint known_crontabs_pkey primary key (identifier)
);
alter table graphile_worker._private_known_crontabs enable row level security;
create function graphile_worker.add_job(identifier text, payload json default null::json, queue_name text default null::text, run_at timestamptz default null::timestamptz, max_attempts integer default null::integer, job_key text default null::text, priority integer default null::integer, flags text[] default null::text[], job_key_mode text default 'replace'::text) returns graphile_worker._private_jobs language plpgsql as $function$
declare
  v_job graphile_worker._private_jobs;
begin
  if (job_key is null or job_key_mode is null or job_key_mode in ('replace', 'preserve_run_at')) then
    select * into v_job
    from graphile_worker.add_jobs(
      ARRAY[(
        identifier,
        payload,
        queue_name,
        run_at,
        max_attempts::smallint,
        job_key,
        priority::smallint,
        flags
      )::graphile_worker.job_spec],
      (job_key_mode = 'preserve_run_at')
    )
    limit 1;
    return v_job;
  elsif job_key_mode = 'unsafe_dedupe' then
    insert into graphile_worker._private_tasks as tasks (identifier)
    select add_job.identifier
    where not exists (
      select 1
      from graphile_worker._private_tasks as existing
      where existing.identifier = add_job.identifier
    )
    on conflict do nothing;
    if add_job.queue_name is not null then
      insert into graphile_worker._private_job_queues as job_queues (queue_name)
      select add_job.queue_name
      where not exists (
        select 1
        from graphile_worker._private_job_queues as existing
        where existing.queue_name = add_job.queue_name
      )
      on conflict do nothing;
    end if;
    insert into graphile_worker._private_jobs as jobs (
      job_queue_id,
      task_id,
      payload,
      run_at,
      max_attempts,
      key,
      priority,
      flags
    )
      select
        job_queues.id,
        tasks.id,
        coalesce(add_job.payload, '{}'::json),
        coalesce(add_job.run_at, now()),
        coalesce(add_job.max_attempts::smallint, 25::smallint),
        add_job.job_key,
        coalesce(add_job.priority::smallint, 0::smallint),
        (
          select jsonb_object_agg(flag, true)
          from unnest(add_job.flags) as item(flag)
        )
      from graphile_worker._private_tasks as tasks
      left join graphile_worker._private_job_queues as job_queues
      on job_queues.queue_name = add_job.queue_name
      where tasks.identifier = add_job.identifier
    on conflict (key)
      do update set
        revision = jobs.revision + 1,
        updated_at = now()
      returning *
      into v_job;
    if v_job.revision = 0 then
      perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":1}');
    end if;
    return v_job;
  else
    raise exception 'Invalid job_key_mode value, expected ''replace'', ''preserve_run_at'' or ''unsafe_dedupe''.' using errcode = 'GWBKM';
  end if;
end;
$function$;
create function graphile_worker.add_jobs(specs graphile_worker.job_spec[], job_key_preserve_run_at boolean default false) returns setof graphile_worker._private_jobs language plpgsql as $function$
begin
  insert into graphile_worker._private_tasks as tasks (identifier)
  select distinct spec.identifier
  from unnest(specs) spec
  where not exists (
    select 1
    from graphile_worker._private_tasks as existing
    where existing.identifier = spec.identifier
  )
  on conflict do nothing;
  insert into graphile_worker._private_job_queues as job_queues (queue_name)
  select distinct spec.queue_name
  from unnest(specs) spec
  where spec.queue_name is not null
  and not exists (
    select 1
    from graphile_worker._private_job_queues as existing
    where existing.queue_name = spec.queue_name
  )
  on conflict do nothing;
  update graphile_worker._private_jobs as jobs
  set
    key = null,
    attempts = jobs.max_attempts,
    updated_at = now()
  from unnest(specs) spec
  where spec.job_key is not null
  and jobs.key = spec.job_key
  and is_available is not true;
  perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":' || array_length(specs, 1)::text || '}');
  return query insert into graphile_worker._private_jobs as jobs (
    job_queue_id,
    task_id,
    payload,
    run_at,
    max_attempts,
    key,
    priority,
    flags
  )
    select
      job_queues.id,
      tasks.id,
      coalesce(spec.payload, '{}'::json),
      coalesce(spec.run_at, now()),
      coalesce(spec.max_attempts, 25),
      spec.job_key,
      coalesce(spec.priority, 0),
      (
        select jsonb_object_agg(flag, true)
        from unnest(spec.flags) as item(flag)
      )
    from unnest(specs) spec
    inner join graphile_worker._private_tasks as tasks
    on tasks.identifier = spec.identifier
    left join graphile_worker._private_job_queues as job_queues
    on job_queues.queue_name = spec.queue_name
  on conflict (key) do update set
    job_queue_id = excluded.job_queue_id,
    task_id = excluded.task_id,
    payload =
      case
      when json_typeof(jobs.payload) = 'array' and json_typeof(excluded.payload) = 'array' then
        (jobs.payload::jsonb || excluded.payload::jsonb)::json
      else
        excluded.payload
      end,
    max_attempts = excluded.max_attempts,
    run_at = (case
      when job_key_preserve_run_at is true and jobs.attempts = 0 then jobs.run_at
      else excluded.run_at
    end),
    priority = excluded.priority,
    revision = jobs.revision + 1,
    flags = excluded.flags,
    attempts = 0,
    last_error = null,
    updated_at = now()
  where jobs.locked_at is null
  returning *;
end;
$function$;
create function graphile_worker.complete_jobs(job_ids bigint[]) returns setof graphile_worker._private_jobs language sql as $function$
  delete from graphile_worker._private_jobs as jobs
    where id = any(job_ids)
    and (
      locked_at is null
    or
      locked_at < now() - interval '4 hours'
    )
    returning *;
$function$;
create function graphile_worker.force_unlock_workers(worker_ids text[]) returns void language sql as $function$
update graphile_worker._private_jobs as jobs
set locked_at = null, locked_by = null
where locked_by = any(worker_ids);
update graphile_worker._private_job_queues as job_queues
set locked_at = null, locked_by = null
where locked_by = any(worker_ids);
$function$;
create function graphile_worker.permanently_fail_jobs(job_ids bigint[], error_message text default null::text) returns setof graphile_worker._private_jobs language sql as $function$
  update graphile_worker._private_jobs as jobs
    set
      last_error = coalesce(error_message, 'Manually marked as failed'),
      attempts = max_attempts,
      updated_at = now()
    where id = any(job_ids)
    and (
      locked_at is null
    or
      locked_at < NOW() - interval '4 hours'
    )
    returning *;
$function$;
create function graphile_worker.remove_job(job_key text) returns graphile_worker._private_jobs language plpgsql strict as $function$
declare
  v_job graphile_worker._private_jobs;
begin
  delete from graphile_worker._private_jobs as jobs
    where key = job_key
    and (
      locked_at is null
    or
      locked_at < NOW() - interval '4 hours'
    )
  returning * into v_job;
  if not (v_job is null) then
    perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":-1}');
    return v_job;
  end if;
  update graphile_worker._private_jobs as jobs
  set
    key = null,
    attempts = jobs.max_attempts,
    updated_at = now()
  where key = job_key
  returning * into v_job;
  return v_job;
end;
$function$;
create function graphile_worker.reschedule_jobs(job_ids bigint[], run_at timestamptz default null::timestamptz, priority integer default null::integer, attempts integer default null::integer, max_attempts integer default null::integer) returns setof graphile_worker._private_jobs language sql as $function$
  update graphile_worker._private_jobs as jobs
    set
      run_at = coalesce(reschedule_jobs.run_at, jobs.run_at),
      priority = coalesce(reschedule_jobs.priority::smallint, jobs.priority),
      attempts = coalesce(reschedule_jobs.attempts::smallint, jobs.attempts),
      max_attempts = coalesce(reschedule_jobs.max_attempts::smallint, jobs.max_attempts),
      updated_at = now()
    where id = any(job_ids)
    and (
      locked_at is null
    or
      locked_at < NOW() - interval '4 hours'
    )
    returning *;
$function$;
create view graphile_worker.jobs as select jobs.id, job_queues.queue_name, tasks.identifier as task_identifier, jobs.priority, jobs.run_at, jobs.attempts, jobs.max_attempts, jobs.last_error, jobs.created_at, jobs.updated_at, jobs.key, jobs.locked_at, jobs.locked_by, jobs.revision, jobs.flags
  from graphile_worker._private_jobs jobs 
  join graphile_worker._private_tasks tasks on tasks.id = jobs.task_id
  left join graphile_worker._private_job_queues job_queues on job_queues.id = jobs.job_queue_id;
insert into graphile_worker.migrations (id, breaking)
  select n, n = any (array[1, 3, 11, 13, 14, 16, 19]) from generate_series(1, 20) n;
`;
