import { useEffect, useRef } from 'react';

/** Calls `onEnd` once each time that any of `moving`, by id, is not among them any more. Undefined: not known yet. */
export function useEndings(moving: readonly string[] | undefined, onEnd: () => void): void {
  const latest = useRef({ moving, onEnd });
  latest.current = { moving, onEnd };
  const before = useRef<readonly string[]>([]);
  const key = moving?.join(' ');
  useEffect(() => {
    const now = latest.current.moving;
    if (key === undefined || now === undefined) return;
    const hasEnded = before.current.some((id) => !now.includes(id));
    before.current = now;
    if (hasEnded) latest.current.onEnd();
  }, [key]);
}
