import { useQuery, useQueryClient } from '@tanstack/react-query';
import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { newest } from '../parts/newest.ts';
import { useWatch } from '../parts/use-watch.ts';
import { runs } from '../rpc.ts';
import { getDeletion } from './deletion-client.ts';
import { isMoving } from './deletion-words.tsx';

const POLL_MS = 1_000;

/** A deletion that is kept up to date while it moves: a run's by its stream, a job's by asking again. */
export function useLiveDeletion(given: Deletion): Deletion {
  const queries = useQueryClient();
  const isJob = given.targetType === 'job';
  const onEnd = (deletion: Deletion | undefined) => {
    if (!deletion || isMoving(deletion)) return;
    for (const key of ['deletions', 'receipt', 'runs', 'run', 'deleted-runs']) {
      void queries.invalidateQueries({ queryKey: [key] });
    }
  };
  const { latest } = useWatch(
    !isJob && isMoving(given) ? `${given.id} ${given.attempts}` : undefined,
    (signal) => runs.watchDeletion({ deletionId: given.id }, { signal }),
    ({ deletion }) => onEnd(deletion),
  );
  const polled = useQuery({
    queryKey: ['live-deletion', given.id],
    queryFn: async ({ signal }) => {
      const deletion = await getDeletion(given, signal);
      onEnd(deletion);
      return deletion ?? null;
    },
    enabled: isJob && isMoving(given),
    refetchInterval: ({ state }) => (state.data && !isMoving(state.data) ? false : POLL_MS),
  });
  return newest(given, latest?.deletion, polled.data ?? undefined);
}
