/** The sessions that were signed out of before their time, so that a copy of their cookie is worth nothing. */
export interface EndedSessions {
  has(id: string): boolean;
  /** Remembers a session until it would have ended by itself, in seconds since 1970. */
  add(id: string, until: number): void;
}

/**
 * Keeps them in the memory of this process: another replica, and this one after a restart, does not know them. A copied
 * cookie is good there until its access token expires.
 */
export function makeEndedSessions(now: () => number = () => Date.now() / 1_000): EndedSessions {
  const ended = new Map<string, number>();
  let sweptAt = now();
  return {
    has: (id) => ended.has(id),
    add(id, until) {
      if (now() - sweptAt > 60) {
        sweptAt = now();
        for (const [each, end] of ended) if (end < sweptAt) ended.delete(each);
      }
      ended.set(id, until);
    },
  };
}
