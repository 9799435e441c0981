import { useEffect, useRef, useSyncExternalStore } from 'react';
import { isPassing } from '../query-client.ts';

const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 10_000;

/**
 * Follows a server's stream while the component is shown, the window can be seen and `key` stays the same. A stream that
 * breaks off is opened again, after pauses that grow; one that is refused is not. Undefined as `key`: nothing is followed.
 *
 * A stream keeps one of the six connections that a browser makes to the console, in all its windows together. So it is
 * for the one thing that a page is about; what stands in a list is asked for again with the list.
 */
export function useWatch<Message>(
  key: string | undefined,
  open: (signal: AbortSignal) => AsyncIterable<Message>,
  onMessage: (message: Message) => void,
): void {
  const latest = useRef({ open, onMessage });
  latest.current = { open, onMessage };
  const isVisible = useSyncExternalStore(onVisibilityChange, () => document.visibilityState === 'visible');
  useEffect(() => {
    if (key === undefined || !isVisible) return;
    const stop = new AbortController();
    const follow = async () => {
      for (let pauseMs = FIRST_PAUSE_MS; !stop.signal.aborted; pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS)) {
        try {
          for await (const message of latest.current.open(stop.signal)) {
            if (stop.signal.aborted) return;
            pauseMs = FIRST_PAUSE_MS;
            latest.current.onMessage(message);
          }
          return;
        } catch (error) {
          if (stop.signal.aborted || !isPassing(error)) return;
          await new Promise((resolve) => setTimeout(resolve, pauseMs));
        }
      }
    };
    void follow();
    return () => stop.abort();
  }, [key, isVisible]);
}

function onVisibilityChange(listener: () => void): () => void {
  document.addEventListener('visibilitychange', listener);
  return () => document.removeEventListener('visibilitychange', listener);
}
