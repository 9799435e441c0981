/** What every call takes beside its request. */
export interface CallOptions {
  /** Ends the call with CANCELLED. What the service has committed by then stays. */
  readonly signal?: AbortSignal | undefined;
  /**
   * How long the call may take, in milliseconds; after that it ends with DEADLINE_EXCEEDED. Default: 30 seconds for an
   * answer, no limit for a stream. For a list it holds for each page, for a watch or with `wait` for the whole.
   */
  readonly timeoutMs?: number | undefined;
}

/** CallOptions as the transport takes them: what is not set is not there. */
export interface TransportOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

/** Separates the options of the call from what goes into the request. */
export const splitCall = <T extends CallOptions>({ signal, timeoutMs, ...request }: T) => ({
  request,
  call: toTransport({ signal, timeoutMs }),
});

/** CallOptions without what is undefined. */
export const toTransport = ({ signal, timeoutMs }: CallOptions): TransportOptions => ({
  ...(signal ? { signal } : {}),
  ...(timeoutMs === undefined ? {} : { timeoutMs }),
});

/** The options of each call of a watch, so that `timeoutMs` bounds all of them together from now on. */
export function sharedDeadline({ signal, timeoutMs }: CallOptions): () => TransportOptions {
  if (timeoutMs === undefined) return () => toTransport({ signal });
  const deadline = performance.now() + timeoutMs;
  return () => toTransport({ signal, timeoutMs: Math.max(0, deadline - performance.now()) });
}
