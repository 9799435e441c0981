import { type Deletion, type DeletionMode, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type CallOptions, sharedDeadline, splitCall, toTransport } from './call-options.ts';
import type { Services } from './services.ts';
import { changesOf, everyChange, everyItem, type PollOptions, present, untilLast } from './streams.ts';

/** Whose deletions: each service keeps those of its own targets. */
export interface DeletionsOf extends CallOptions {
  /** `run` by default. */
  readonly of?: 'run' | 'job';
}

/** Durable deletions, the receipts of what went. */
export interface Deletions {
  get(deletionId: string, options?: DeletionsOf): Promise<Deletion>;
  /** Every deletion, newest first. */
  list(
    filter?: DeletionsOf & {
      readonly state?: DeletionState;
      /** Deletions of runs only. */
      readonly mode?: DeletionMode;
      /** The run, or the job, that was deleted. */
      readonly targetId?: string;
    },
  ): AsyncIterable<Deletion>;
  /** The deletion now and after each change, until it is COMPLETE, STUCK or CANCELLED. Survives a lost connection. */
  watch(deletionId: string, options?: DeletionsOf & PollOptions): AsyncIterable<Deletion>;
  /** Gives a STUCK deletion its attempts anew and sets it going at once. */
  redrive(deletionId: string, options?: DeletionsOf & { readonly reason?: string }): Promise<Deletion>;
}

const SETTLED: ReadonlySet<DeletionState> = new Set([
  DeletionState.COMPLETE,
  DeletionState.STUCK,
  DeletionState.CANCELLED,
]);

/** Whether nothing more happens to a deletion by itself. STUCK is no end: it can be redriven. */
export const hasSettled = (deletion: Deletion): boolean => SETTLED.has(deletion.state);

/** Makes `lethe.deletions`. */
export function makeDeletions(services: Services): Deletions {
  const get: Deletions['get'] = async (deletionId, { of = 'run', ...options } = {}) =>
    present('deletion', (await services[of].getDeletion({ deletionId }, toTransport(options))).deletion);
  return {
    get,
    list({ of = 'run', targetId = '', mode, ...options } = {}) {
      const { request, call } = splitCall(options);
      return everyItem(async (page) => {
        const filter = { ...request, ...page };
        const { deletions, nextPageToken } =
          of === 'run'
            ? await services.run.listDeletions({ ...filter, runId: targetId, ...(mode ? { mode } : {}) }, call)
            : await services.job.listDeletions({ ...filter, jobId: targetId }, call);
        return { items: deletions, nextPageToken };
      });
    },
    watch(deletionId, { of = 'run', ...options } = {}) {
      if (of === 'job') {
        return everyChange((call) => get(deletionId, { of, ...call }), versionOf, hasSettled, options);
      }
      const call = sharedDeadline(options);
      const changed = changesOf(versionOf);
      return untilLast(() => services.run.watchDeletion({ deletionId }, call()), hasSettled, {
        toItem: ({ deletion }) => deletion && changed(deletion),
        signal: options.signal,
      });
    },
    async redrive(deletionId, { of = 'run', reason = '', ...options } = {}) {
      const { deletion } = await services[of].redriveDeletion({ deletionId, reason }, toTransport(options));
      return present('deletion', deletion);
    },
  };
}

const versionOf = ({ state, updateTime }: Deletion): string => `${state}:${updateTime?.seconds}.${updateTime?.nanos}`;
