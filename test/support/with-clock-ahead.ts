/** Runs `work` while this process's clock is so many milliseconds ahead; nothing else may run meanwhile. */
export async function withClockAhead<T>(ms: number, work: () => Promise<T>): Promise<T> {
  const { Date: RealDate } = globalThis;
  const realInstant = Temporal.Now.instant;
  const now = (): number => RealDate.now() + ms;
  globalThis.Date = new Proxy(RealDate, {
    construct: (target, args, self) => Reflect.construct(target, args.length === 0 ? [now()] : args, self),
    get: (target, key, self) => (key === 'now' ? now : Reflect.get(target, key, self)),
  });
  Temporal.Now.instant = () => Temporal.Instant.fromEpochMilliseconds(now());
  try {
    return await work();
  } finally {
    globalThis.Date = RealDate;
    Temporal.Now.instant = realInstant;
  }
}
