import { create } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { type Execution, type ExecutionCount, ExecutionSchema, type ExecutionState } from '#gen/lethe/run/v1/run_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CallOptions, splitCall, toTransport } from './call-options.ts';
import { cancelledBy, LetheError, makeLetheError } from './lethe-error.ts';
import type { Services } from './services.ts';
import { listOf } from './streams.ts';

/** One line of execution history to record. */
export interface NewExecution {
  /** A UUID; the same id and createTime again bring the execution up to date. Absent: a new one. */
  readonly id?: string;
  readonly workflow: string;
  /** How it ended, in the caller's own words, e.g. `success`. */
  readonly status?: string;
  /** ENDED by default. */
  readonly state?: ExecutionState;
  readonly startTime?: Timestamp | undefined;
  readonly finishTime?: Timestamp | undefined;
  /** Absent: the time in the id, which must then be a UUIDv7. */
  readonly createTime?: Timestamp | undefined;
}

/** How many executions were recorded. */
export interface RecordedExecutions {
  readonly created: number;
  /** Those that were there and changed. */
  readonly updated: number;
  /** Those that a purge had reached already; they were not stored. */
  readonly expired: number;
}

/** How executions are recorded. */
export interface RecordOptions {
  /** How many go in one call, 1 to 1,000; 1,000 by default. */
  readonly batchSize?: number;
  /** How long an execution waits for its batch to fill, in milliseconds; 1,000 by default. */
  readonly maxDelayMs?: number;
  /** How many calls are under way at most; 4 by default. The source is not read on while they are. */
  readonly concurrency?: number;
  /** Called after each call that went well, with the sums so far. */
  readonly onProgress?: (recorded: RecordedExecutions) => void;
  /** Stops reading, with CANCELLED; what was read already is not recorded unless its call is under way. */
  readonly signal?: AbortSignal;
  /** How long each call may take, in milliseconds; 30,000 by default. */
  readonly timeoutMs?: number;
}

/** Execution history. */
export interface Executions {
  /**
   * Records whatever the source gives, in batches, and answers with the sums once all of it is recorded. When a call
   * fails, no more is read and its LetheError is thrown when the calls under way have ended, also while the source is
   * silent: its `return` is called, and what it still gives is dropped. What was recorded stays, and recording all of it
   * again is safe where the executions have ids. Fields of a FIELD_INVALID name the execution by its place in the source,
   * e.g. `executions[2003].workflow`.
   */
  record(
    executions: Iterable<NewExecution> | AsyncIterable<NewExecution>,
    options?: RecordOptions,
  ): Promise<RecordedExecutions>;
  /** Every execution, newest first by start, or creation where there is none. */
  list(
    filter?: CallOptions & {
      readonly workflow?: string;
      readonly status?: string;
      readonly state?: ExecutionState;
      /** Inclusive. */
      readonly afterTime?: Timestamp;
      /** Exclusive. */
      readonly beforeTime?: Timestamp;
    },
  ): AsyncIterable<Execution>;
  /** How many there were by day (UTC) and state, over at most 31 days; by default the last 31. */
  count(
    query?: CallOptions & {
      readonly firstDay?: string;
      readonly lastDay?: string;
      readonly workflow?: string;
    },
  ): Promise<readonly ExecutionCount[]>;
}

const MAX_BATCH = 1_000;
const MAX_DELAY_MS = 1_000;
const CONCURRENCY = 4;

/** Makes `lethe.executions`. */
export const makeExecutions = (services: Services): Executions => ({
  record: (executions, options = {}) => recordAll(services, executions, options),
  list: (options = {}) => listOf('executions', options, (request, call) => services.run.listExecutions(request, call)),
  async count(options = {}) {
    const { request, call } = splitCall(options);
    return (await services.run.countExecutions(request, call)).counts;
  },
});

async function recordAll(
  services: Services,
  source: Iterable<NewExecution> | AsyncIterable<NewExecution>,
  options: RecordOptions,
): Promise<RecordedExecutions> {
  const { batchSize = MAX_BATCH, maxDelayMs = MAX_DELAY_MS, concurrency = CONCURRENCY, onProgress, signal } = options;
  const callOptions = toTransport(options);
  let recorded: RecordedExecutions = { created: 0, updated: 0, expired: 0 };
  let failure: { readonly error: unknown } | undefined;
  const failed = new AbortController();
  const stop = signal ? AbortSignal.any([failed.signal, signal]) : failed.signal;
  const underWay = new Set<Promise<void>>();
  const send = async (batch: readonly NewExecution[], first: number): Promise<void> => {
    try {
      const executions = batch.map((execution) => create(ExecutionSchema, { id: newId(), ...execution }));
      const { createdCount, updatedCount, expiredIds } = await services.run.recordExecutions(
        { executions },
        callOptions,
      );
      recorded = {
        created: recorded.created + createdCount,
        updated: recorded.updated + updatedCount,
        expired: recorded.expired + expiredIds.length,
      };
      onProgress?.(recorded);
    } catch (error) {
      failure ??= { error: placedInSource(error, first) };
      failed.abort();
    }
  };
  let sent = 0;
  try {
    for await (const batch of inBatches(source, batchSize, maxDelayMs, stop)) {
      const call = send(batch, sent).finally(() => underWay.delete(call));
      underWay.add(call);
      sent += batch.length;
      if (underWay.size >= concurrency) await Promise.race(underWay);
    }
  } finally {
    // Also where the source throws: what is under way may be recorded, and nothing may go on after this.
    await Promise.all(underWay);
  }
  if (failure) throw failure.error;
  if (signal?.aborted) throw cancelledBy(signal);
  return recorded;
}

/**
 * The items in batches: each when it is full, or when its first item has waited for so long. A stop ends it at once; a
 * source that is silent then is told by its `return` and not waited for.
 */
async function* inBatches<T>(
  source: Iterable<T> | AsyncIterable<T>,
  size: number,
  maxDelayMs: number,
  stop: AbortSignal,
): AsyncIterable<readonly T[]> {
  if (stop.aborted) return;
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  let batch: T[] = [];
  let isOver = false;
  let isReading = false;
  let timer: NodeJS.Timeout | undefined;
  // Of each batch its own: what is raced against one promise for ever is kept by it for ever.
  let interruption = Promise.withResolvers<undefined>();
  const interrupt = (): void => interruption.resolve(undefined);
  stop.addEventListener('abort', interrupt, { once: true });
  const take = (): readonly T[] => {
    clearTimeout(timer);
    interruption = Promise.withResolvers();
    const full = batch;
    batch = [];
    return full;
  };
  const read = async () => {
    isReading = true;
    try {
      return await iterator.next();
    } finally {
      isReading = false;
    }
  };
  try {
    let next: ReturnType<typeof read> | undefined;
    while (!stop.aborted) {
      next ??= read();
      const step = await Promise.race([next, interruption.promise]);
      if (stop.aborted) return;
      if (!step) {
        yield take();
        continue;
      }
      next = undefined;
      if (step.done) {
        isOver = true;
        if (batch.length > 0) yield take();
        return;
      }
      batch.push(step.value);
      if (batch.length === 1) timer = setTimeout(interrupt, maxDelayMs);
      if (batch.length >= size) yield take();
    }
  } finally {
    clearTimeout(timer);
    stop.removeEventListener('abort', interrupt);
    if (!isOver) {
      const isSilent = isReading;
      const closed = (async () => iterator.return?.())();
      if (isSilent) closed.catch(() => {});
      else await closed;
    }
  }
}

const PLACE = /^executions\[(\d+)\]/;

/** A refusal whose fields count from the source's first execution, and not from the batch's. */
function placedInSource(error: unknown, first: number): unknown {
  if (!(error instanceof LetheError) || error.reason !== 'FIELD_INVALID' || first === 0) return error;
  const placed = (text: string): string =>
    text.replaceAll(/executions\[(\d+)\]/g, (_, at: string) => `executions[${Number(at) + first}]`);
  const violations = error.violations.map(({ field, description }) => ({
    field: field.replace(PLACE, placed),
    description: placed(description),
  }));
  return makeLetheError(error.code, error.reason, placed(error.message), {
    metadata: { ...error.metadata, fields: violations.map(({ field }) => field).join(',') },
    violations,
    cause: error,
  });
}
