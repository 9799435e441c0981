import { setTimeout as delay } from 'node:timers/promises';
import { type CallOptions, sharedDeadline, splitCall, type TransportOptions } from './call-options.ts';
import { cancelledBy, LetheError, makeLetheError } from './lethe-error.ts';

/** The largest page that a list gives. */
const PAGE_SIZE = 200;
const ATTEMPTS = 5;
const PAUSE_MS = 1_000;

/** One page of a list, as every List RPC answers. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly nextPageToken: string;
}

/** Which page an RPC is asked for. */
export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

/** Every item of a list; the next page is asked for when the one before is used up. */
export async function* everyItem<T>(page: (request: PageRequest) => Promise<Page<T>>): AsyncIterable<T> {
  let pageToken = '';
  do {
    const { items, nextPageToken } = await page({ pageSize: PAGE_SIZE, pageToken });
    yield* items;
    pageToken = nextPageToken;
  } while (pageToken !== '');
}

/** Sends a request. */
type Send<Request, Answer> = (request: Request, call: TransportOptions) => Promise<Answer>;

type RequestOf<Options> = Omit<Options, keyof CallOptions>;

/** Every item of a list, which each page holds under `name`. */
export function listOf<Name extends string, Options extends CallOptions, Answer extends ListAnswer<Name>>(
  name: Name,
  options: Options,
  send: Send<RequestOf<Options> & PageRequest, Answer>,
): AsyncIterable<Answer[Name][number]> {
  const { request, call } = splitCall(options);
  return everyItem(async (page) => {
    const answer = await send({ ...request, ...page }, call);
    return { items: answer[name], nextPageToken: answer.nextPageToken };
  });
}

type ListAnswer<Name extends string> = Readonly<Record<Name, readonly unknown[]>> &
  Pick<Page<unknown>, 'nextPageToken'>;

/**
 * Merges lists that are sorted alike into one. They are read side by side, a page at a time, each from the beginning on:
 * one that cannot be read fails the whole before it shows an item.
 */
export async function* mergeSorted<T>(
  lists: readonly AsyncIterable<T>[],
  isBefore: (a: T, b: T) => boolean,
): AsyncIterable<T> {
  const iterators = lists.map((list) => list[Symbol.asyncIterator]());
  try {
    const heads = await Promise.all(iterators.map((iterator) => iterator.next()));
    for (;;) {
      const first = heads.reduce<number | undefined>((best, { done, value }, index) => {
        if (done) return best;
        return best === undefined || isBefore(value, heads[best]?.value) ? index : best;
      }, undefined);
      if (first === undefined) return;
      yield heads[first]?.value;
      const next = await iterators[first]?.next();
      if (next) heads[first] = next;
    }
  } finally {
    for (const iterator of iterators) await iterator.return?.();
  }
}

/** What a stream's messages tell, and how long to wait before it is opened again. */
export interface UntilLastOptions<Message, Item> {
  /** The item that a message tells; undefined for one that tells nothing new. By default each message is an item. */
  readonly toItem?: (message: Message) => Item | undefined;
  readonly pauseMs?: number;
  /** Ends the pauses too, with CANCELLED. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * The items of a stream up to its last one. When the connection breaks, or the stream ends without its last item, it
 * is opened again, up to five times in a row without a message; then the LetheError is thrown. What an opening tells
 * again, `toItem` must leave out.
 */
export async function* untilLast<Item, Message = Item>(
  open: () => AsyncIterable<Message>,
  isLast: (item: Item) => boolean,
  {
    toItem = (message) => message as unknown as Item,
    pauseMs = PAUSE_MS,
    signal,
  }: UntilLastOptions<Message, Item> = {},
): AsyncIterable<Item> {
  for (let failures = 0; ; ) {
    try {
      for await (const message of open()) {
        failures = 0;
        const item = toItem(message);
        if (item === undefined) continue;
        yield item;
        if (isLast(item)) return;
      }
      throw makeLetheError('UNAVAILABLE', 'STREAM_INCOMPLETE', 'The stream ended before its last message.');
    } catch (error) {
      failures += 1;
      if (!(error instanceof LetheError) || error.code !== 'UNAVAILABLE' || failures === ATTEMPTS) throw error;
    }
    await pause(pauseMs, signal);
  }
}

/** Waits for so long; CancelledError once the signal is aborted. */
async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await delay(ms, undefined, signal ? { signal } : {});
  } catch (error) {
    throw signal?.aborted ? cancelledBy(signal) : error;
  }
}

/** Leaves out what is as it was told last; an item is the same while `versionOf` it is. */
export function changesOf<T>(versionOf: (item: T) => string): (item: T) => T | undefined {
  let told: string | undefined;
  return (item) => {
    const version = versionOf(item);
    if (version === told) return undefined;
    told = version;
    return item;
  };
}

/** How a thing is polled. */
export interface PollOptions extends CallOptions {
  /** How long between two looks, in milliseconds. */
  readonly pollMs?: number;
}

/**
 * A thing as it is now, and again whenever `versionOf` it has changed, up to where it `isFinal`. While its service is
 * UNAVAILABLE it is looked at again, up to five times in a row; then the LetheError is thrown.
 */
export function everyChange<T>(
  look: (call: TransportOptions) => Promise<T>,
  versionOf: (item: T) => string,
  isFinal: (item: T) => boolean,
  { pollMs = 500, pauseMs = PAUSE_MS, signal, timeoutMs }: PollOptions & { readonly pauseMs?: number } = {},
): AsyncIterable<T> {
  const call = sharedDeadline({ signal, timeoutMs });
  const looks = async function* () {
    for (;;) {
      if (signal?.aborted) throw cancelledBy(signal);
      yield await look(call());
      await pause(pollMs, signal);
    }
  };
  return untilLast(looks, isFinal, { toItem: changesOf(versionOf), pauseMs, signal });
}

/** What an answer must hold; LetheError/ANSWER_INCOMPLETE where a service left it out. */
export function present<T>(what: string, value: T): NonNullable<T> {
  if (value !== undefined && value !== null) return value;
  throw makeLetheError('INTERNAL', 'ANSWER_INCOMPLETE', `The answer holds no ${what}.`);
}

/** What the answer holds under `name`; LetheError/ANSWER_INCOMPLETE as for `present`. */
export async function itemOf<
  Name extends string,
  Options extends CallOptions,
  Answer extends Readonly<Partial<Record<Name, unknown>>>,
>(name: Name, options: Options, send: Send<RequestOf<Options>, Answer>): Promise<NonNullable<Answer[Name]>> {
  const { request, call } = splitCall(options);
  const answer = await send(request, call);
  return present(name, answer[name]);
}
