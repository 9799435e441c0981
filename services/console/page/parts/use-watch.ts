import { Code, ConnectError } from '@connectrpc/connect';
import { useEffect, useRef, useState } from 'react';
import { isPassing } from '../query-client.ts';

const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 10_000;

/** What a stream told so far. */
export interface Watched<Message> {
  /** The last message; undefined before the first. */
  readonly latest: Message | undefined;
  /** Why the stream ended, where it was refused; undefined while it goes on or after it ended well. */
  readonly error: unknown;
  /** Whether changes still arrive, or will once the service answers again. */
  readonly isLive: boolean;
}

/**
 * Follows a server's stream while the component is shown and `key` stays the same. A stream that breaks off is opened
 * again, after pauses that grow, and so is one that is refused because there are too many; one that is refused for
 * another reason is not. Undefined as `key`: nothing is followed.
 */
export function useWatch<Message>(
  key: string | undefined,
  open: (signal: AbortSignal) => AsyncIterable<Message>,
  onMessage?: (message: Message) => void,
): Watched<Message> {
  const [watched, setWatched] = useState<Watched<Message> & { key: string | undefined }>();
  const latest = useRef({ open, onMessage });
  latest.current = { open, onMessage };
  useEffect(() => {
    if (key === undefined) return;
    const stop = new AbortController();
    const follow = async () => {
      for (let pauseMs = FIRST_PAUSE_MS; !stop.signal.aborted; pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS)) {
        try {
          for await (const message of latest.current.open(stop.signal)) {
            if (stop.signal.aborted) return;
            pauseMs = FIRST_PAUSE_MS;
            latest.current.onMessage?.(message);
            setWatched({ key, latest: message, error: undefined, isLive: true });
          }
          setWatched((before) => before && { ...before, isLive: false });
          return;
        } catch (error) {
          if (stop.signal.aborted) return;
          if (!isPassing(error) && ConnectError.from(error).code !== Code.ResourceExhausted) {
            setWatched((before) => ({ key, latest: before?.latest, error, isLive: false }));
            return;
          }
          await new Promise((resolve) => setTimeout(resolve, pauseMs));
        }
      }
    };
    void follow();
    return () => stop.abort();
  }, [key]);
  if (watched === undefined || watched.key !== key) {
    return { latest: undefined, error: undefined, isLive: key !== undefined };
  }
  return watched;
}
