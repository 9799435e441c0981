import type {
  BulkDeletion,
  BulkDeletionItem,
  BulkDeletionItemState,
  BulkDeletionPreview,
} from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CallOptions, sharedDeadline, type TransportOptions, toTransport } from './call-options.ts';
import type { DeletionsOf } from './deletions.ts';
import type { Services } from './services.ts';
import { changesOf, listOf, present, untilLast } from './streams.ts';

/** How everything that a filter matches is to be deleted. */
export interface BulkDeletionOptions extends CallOptions {
  /** Why, for the audit; every item's deletion has it. */
  readonly reason: string;
  /** How many the preview counted: COUNT_CHANGED when more match by now. */
  readonly expectedCount?: bigint;
  /** By default one of its own, so that a call that is sent again orders one bulk deletion. */
  readonly requestId?: string;
  /** Resolve when it is COMPLETE, STUCK or CANCELLED, and not when it is committed; `timeoutMs` bounds it all. */
  readonly wait?: boolean;
}

/** Deletions of everything that a filter matched, and their items. `of` is `run` by default. */
export interface BulkDeletions {
  get(bulkDeletionId: string, options?: DeletionsOf): Promise<BulkDeletion>;
  /** Every bulk deletion, newest first. */
  list(filter?: DeletionsOf & { readonly state?: BulkDeletionState }): AsyncIterable<BulkDeletion>;
  /** Every item, in the order in which they are deleted. */
  items(
    bulkDeletionId: string,
    filter?: DeletionsOf & { readonly state?: BulkDeletionItemState },
  ): AsyncIterable<BulkDeletionItem>;
  /** The bulk deletion now and after each change, until it has ended. Survives a lost connection. */
  watch(bulkDeletionId: string, options?: DeletionsOf): AsyncIterable<BulkDeletion>;
  /** Begins no further item; what is under way is finished. */
  cancel(bulkDeletionId: string, options?: DeletionsOf & { readonly reason?: string }): Promise<BulkDeletion>;
}

const ENDED: ReadonlySet<BulkDeletionState> = new Set([
  BulkDeletionState.COMPLETE,
  BulkDeletionState.STUCK,
  BulkDeletionState.CANCELLED,
]);

/** Whether nothing more happens to a bulk deletion by itself. STUCK is no end: its items can be redriven. */
export const hasBulkEnded = ({ state }: BulkDeletion): boolean => ENDED.has(state);

/** Makes `lethe.bulkDeletions`. */
export const makeBulkDeletions = (services: Services): BulkDeletions => ({
  async get(bulkDeletionId, { of = 'run', ...options } = {}) {
    const { bulkDeletion } = await services[of].getBulkDeletion({ bulkDeletionId }, toTransport(options));
    return present('bulk deletion', bulkDeletion);
  },
  list: ({ of = 'run', ...options } = {}) =>
    listOf('bulkDeletions', options, async (request, call) => services[of].listBulkDeletions(request, call)),
  items: (bulkDeletionId, { of = 'run', ...options } = {}) =>
    listOf('items', options, async (request, call) =>
      services[of].listBulkDeletionItems({ bulkDeletionId, ...request }, call),
    ),
  watch(bulkDeletionId, { of = 'run', ...options } = {}) {
    const call = sharedDeadline(options);
    const changed = changesOf(keyOf);
    const open = (): AsyncIterable<{ readonly bulkDeletion?: BulkDeletion | undefined }> =>
      services[of].watchBulkDeletion({ bulkDeletionId }, call());
    return untilLast(open, hasBulkEnded, {
      toItem: ({ bulkDeletion }) => bulkDeletion && changed(bulkDeletion),
      signal: options.signal,
    });
  },
  async cancel(bulkDeletionId, { of = 'run', reason = '', ...options } = {}) {
    const request = { bulkDeletionId, reason };
    const { bulkDeletion } = await services[of].cancelBulkDeletion(request, toTransport(options));
    return present('bulk deletion', bulkDeletion);
  },
});

/** The order that one of these calls sends, and the bulk deletion as it is answered: at once, or when it has ended. */
export async function orderBulk(
  bulkDeletions: BulkDeletions,
  of: 'run' | 'job',
  { wait = false, signal, timeoutMs, ...request }: BulkDeletionOptions,
  send: (
    request: Omit<BulkDeletionOptions, 'wait' | keyof CallOptions> & { readonly requestId: string },
    call: TransportOptions,
  ) => Promise<{ readonly bulkDeletion?: BulkDeletion | undefined }>,
): Promise<BulkDeletion> {
  const call = sharedDeadline({ signal, timeoutMs });
  const answer = await send({ requestId: newId(), ...request }, call());
  let bulk = present('bulk deletion', answer.bulkDeletion);
  if (wait) for await (bulk of bulkDeletions.watch(bulk.id, { of, ...call() }));
  return bulk;
}

/** The preview that a dry run must have been answered with. */
export const presentPreview = ({
  preview,
}: {
  readonly preview?: BulkDeletionPreview | undefined;
}): BulkDeletionPreview => present('preview', preview);

const keyOf = ({ state, counts, lastError }: BulkDeletion): string =>
  [state, ...Object.values(counts ?? {}).map(String), lastError].join(' ');
