import { useQuery, useQueryClient } from '@tanstack/react-query';
import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { useEndings } from '../parts/use-endings.ts';
import { getDeletion } from './deletion-client.ts';
import { isMoving } from './deletion-words.tsx';

const POLL_MS = 1_000;
/** What shows deletions, or what they were of. */
export const CHANGED_BY_DELETIONS = ['deletions', 'receipt', 'runs', 'run', 'deleted-runs'] as const;

/** A deletion that is asked for again every second while it moves. */
export function useLiveDeletion(given: Deletion): Deletion {
  const queries = useQueryClient();
  const { data } = useQuery({
    queryKey: ['live-deletion', given.id],
    queryFn: async ({ signal }) => (await getDeletion(given, signal)) ?? null,
    enabled: isMoving(given),
    refetchInterval: ({ state }) => (isMoving(newest(given, state.data)) ? POLL_MS : false),
  });
  const deletion = newest(given, data);
  useEndings(isMoving(deletion) ? [deletion.id] : [], () => {
    for (const key of CHANGED_BY_DELETIONS) void queries.invalidateQueries({ queryKey: [key] });
  });
  return deletion;
}

/** The one of two readings that was changed last. */
const newest = (given: Deletion, read: Deletion | null | undefined): Deletion =>
  read && changedAt(read) >= changedAt(given) ? read : given;

const changedAt = ({ updateTime }: Deletion): bigint =>
  (updateTime?.seconds ?? 0n) * 1_000_000_000n + BigInt(updateTime?.nanos ?? 0);
