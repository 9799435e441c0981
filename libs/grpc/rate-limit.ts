const BURST_SECONDS = 2;
const MAX_KEPT = 10_000;

/**
 * A token bucket for each key: `perSecond` calls a second, twice as many at once after a pause. The function takes
 * one and answers 0, or takes none and answers in how many milliseconds there is one again.
 */
export function makeRateLimit(perSecond: number, now: () => number = () => performance.now()): (key: string) => number {
  const buckets = new Map<string, { level: number; at: number }>();
  return (key) => {
    const at = now();
    const bucket = buckets.get(key) ?? { level: perSecond * BURST_SECONDS, at };
    // The one that was asked last is kept last, and of so many the first has most likely been full again for long.
    buckets.delete(key);
    const oldest = buckets.size >= MAX_KEPT ? buckets.keys().next().value : undefined;
    if (oldest !== undefined) buckets.delete(oldest);
    buckets.set(key, bucket);
    bucket.level = Math.min(perSecond * BURST_SECONDS, bucket.level + ((at - bucket.at) / 1_000) * perSecond);
    bucket.at = at;
    if (bucket.level < 1) return Math.ceil(((1 - bucket.level) / perSecond) * 1_000);
    bucket.level -= 1;
    return 0;
  };
}
