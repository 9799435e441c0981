import { parseId } from '#libs/kernel/id.ts';
import { addCounts, type ResourceCount } from '#libs/kernel/resource-count.ts';
import { leftCount } from '#libs/participant/counts.ts';
import type { RunRows } from '#libs/participant/make-participant.ts';
import type { RunScope, Sample } from '#libs/participant/participant.ts';
import type { Database } from '#libs/postgres/open-database.ts';

/**
 * The payloads, in bytes as the table stores them, after which a piece of work takes no other incident: to measure or to
 * delete more than this can take longer than a statement may.
 */
export const BYTES_PER_PIECE = 1_048_576;
const INCIDENTS_PER_PIECE = 500;
const MAX_SAMPLES = 100;

/**
 * Counts what is left of a run's incidents, piece by piece in the order of their ids, until all were seen or the time is
 * up. The cursor is the id of the last that was seen.
 */
export function makeLookAtIncidents(database: Database): RunRows['left'] {
  return async (scope, { budgetMs = Number.POSITIVE_INFINITY, cursor, signal } = {}) => {
    const endsAt = performance.now() + budgetMs;
    let last = cursor === undefined ? undefined : parseId('cursor', cursor);
    let counts: readonly ResourceCount[] = [];
    const samples: Sample[] = [];
    for (;;) {
      signal?.throwIfAborted();
      const piece = await lookAtPiece(database, scope, last);
      counts = addCounts(counts, [
        leftCount('incident', piece.incidents),
        leftCount('incident_payload', piece.payloads, piece.payload_bytes),
      ]);
      for (const resourceId of piece.samples ?? [])
        if (samples.length < MAX_SAMPLES) samples.push({ resourceType: 'incident', resourceId });
      last = piece.last ?? undefined;
      if (last === undefined || performance.now() >= endsAt)
        return { counts: counts.filter(({ found }) => found > 0), samples, cursor: last };
    }
  };
}

interface Piece {
  readonly incidents: number;
  readonly payloads: number;
  readonly payload_bytes: number;
  readonly samples: string[] | null;
  /** The last incident that was looked at; null: no other one follows. */
  readonly last: string | null;
}

/** Counts what is left of the next incidents of a run, in the order of their ids: of some, so that it is soon done. */
async function lookAtPiece(
  database: Database,
  { tenantId, runId, step }: RunScope,
  after: string | undefined,
): Promise<Piece> {
  const [piece] = await database.readForTenant<Piece>(tenantId, {
    text: `with next as materialized (
             select i.id, i.step, i.state, coalesce(pg_column_size(p.payload_json), 0) as size
             from incidents i
               left join incident_payloads p on p.tenant_id = i.tenant_id and p.incident_id = i.id
             where i.tenant_id = $1 and i.run_id = $2 and ($3::text is null or i.step = $3)
               and ($4::uuid is null or i.id > $4)
             order by i.id limit ${INCIDENTS_PER_PIECE}),
           piece as materialized (
             select id, step, state from (
               select id, step, state, sum(size) over (order by id) - size as before from next) s
             where before < ${BYTES_PER_PIECE}),
           payloads as (
             select p.incident_id as id, octet_length(p.payload_json::text) as bytes
             from incident_payloads p where p.tenant_id = $1 and p.incident_id = any(array(select id from piece))),
           open as (
             select i.id from piece i
             where i.step = $3 and i.state <> 'CLOSED' and exists (
               select from step_tombstones s
               where s.tenant_id = $1 and s.run_id = $2 and s.step = i.step and s.kind = 'COMPENSATE')),
           ids as (select id from payloads union select id from open order by id limit ${MAX_SAMPLES})
           select (select count(*) from open) as incidents, (select count(*) from payloads) as payloads,
                  (select coalesce(sum(bytes), 0)::bigint from payloads) as payload_bytes,
                  (select json_agg(id) from ids) as samples,
                  case when (select count(*) from piece) < (select count(*) from next)
                    or (select count(*) from next) = ${INCIDENTS_PER_PIECE}
                  then (select id from piece order by id desc limit 1) end as last`,
    values: [tenantId, runId, step ?? null, after ?? null],
  });
  if (!piece) throw new Error('the count gave no row');
  return piece;
}
