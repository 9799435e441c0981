import type { MessageInitShape } from '@bufbuild/protobuf';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import type { RunFilterSchema } from '#gen/lethe/run/v1/run_service_pb.ts';
import type { MatchSearch } from '../bulk/match-filters.tsx';
import { constantOf } from '../parts/enum-names.ts';
import { toTimestamp } from '../parts/format.ts';

/** What the address says about the list of runs. */
export interface RunsSearch extends MatchSearch {
  readonly tab?: 'deleted' | undefined;
  readonly workflow?: string | undefined;
}

const DAY_MS = 86_400_000;

/** The first instant of a day in UTC, or of the day after it; undefined for what is no day. */
function startOf(day: string | undefined, addMs = 0) {
  const ms = day ? Date.parse(`${day}T00:00:00Z`) : Number.NaN;
  return Number.isNaN(ms) ? undefined : toTimestamp(ms + addMs);
}

/** Bounds of the time of creation, as the filters of lists have them. */
export function createdBetween({ from, to }: Pick<MatchSearch, 'from' | 'to'>) {
  const minCreateTime = startOf(from);
  const maxCreateTime = startOf(to, DAY_MS);
  return { ...(minCreateTime && { minCreateTime }), ...(maxCreateTime && { maxCreateTime }) };
}

/** The search as the filter of a bulk deletion; undefined where it has no condition. */
export function toRunFilter(search: RunsSearch): MessageInitShape<typeof RunFilterSchema> | undefined {
  const state = constantOf(RunState, search.state);
  const filter = {
    ...createdBetween(search),
    ...(state !== undefined && { states: [state] }),
    ...(search.workflow && { workflow: search.workflow }),
  };
  return Object.keys(filter).length > 0 ? filter : undefined;
}
