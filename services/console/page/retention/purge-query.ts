import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { PurgeItemState, type RetentionPurge, type RetentionPurgeItem } from '#gen/lethe/retention/v1/retention_pb.ts';
import { retention } from '../rpc.ts';
import { hasEnded } from './retention-words.tsx';

/** A purge with the first page of its tenants. */
export interface PurgeDetails {
  readonly purge: RetentionPurge;
  readonly items: readonly RetentionPurgeItem[];
  readonly hasMore: boolean;
}

const LIVE_MS = 500;

/** One purge, asked for again twice a second until it has ended. Undefined: none. */
export const usePurge = (purgeId: string | undefined) =>
  useQuery({
    queryKey: ['purge', purgeId],
    enabled: purgeId !== undefined,
    queryFn: async ({ signal }): Promise<PurgeDetails> => {
      const { purge, items, nextPageToken } = await retention.getPurge(
        { purgeId: purgeId ?? '', pageSize: 200 },
        { signal },
      );
      if (!purge) throw new Error('The answer has no purge.');
      return { purge, items, hasMore: nextPageToken !== '' };
    },
    refetchInterval: ({ state }) => (state.data && !isLive(state.data) ? false : LIVE_MS),
  });

// A purge that has ended but for what was held goes on when that is approved, without a change of its own state.
const isLive = ({ purge, items }: PurgeDetails): boolean =>
  !hasEnded(purge) || items.some(({ state }) => state === PurgeItemState.PENDING || state === PurgeItemState.RUNNING);

/** The purges of a tenant, or for an empty id all that the caller may see, newest first. */
export const usePurges = (tenantId: string) =>
  useInfiniteQuery({
    queryKey: ['purges', tenantId],
    queryFn: ({ signal, pageParam }) =>
      retention.listPurges({ tenantId, pageSize: 50, pageToken: pageParam }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
    refetchInterval: ({ state }) =>
      state.data?.pages[0]?.purges.some((purge) => !hasEnded(purge)) ? LIVE_MS * 4 : false,
  });
