import type { RunRepository } from './ports.ts';

type Reads = Pick<RunRepository, 'get' | 'list' | 'listSteps'>;

/**
 * The same reads, with those of one run shared: a caller who asks while the same is being read for another gets the
 * answer to one further read, together with everybody else who asks meanwhile. No answer is older than its question.
 */
export function shareReads(runs: Reads): Reads {
  const get = makeSingleFlight<Awaited<ReturnType<RunRepository['get']>>>();
  const listSteps = makeSingleFlight<Awaited<ReturnType<RunRepository['listSteps']>>>();
  return {
    list: (...args) => runs.list(...args),
    get: (...args) => get(JSON.stringify(args), () => runs.get(...args)),
    listSteps: (...args) => listSteps(JSON.stringify(args), () => runs.listSteps(...args)),
  };
}

interface Flight<T> {
  readonly current: Promise<T>;
  next: Promise<T> | undefined;
}

/** At most one read of a key at a time, and one that waits for it. */
function makeSingleFlight<T>(): (key: string, read: () => Promise<T>) => Promise<T> {
  const flights = new Map<string, Flight<T>>();
  const begin = (key: string, read: () => Promise<T>): Promise<T> => {
    const flight: Flight<T> = { current: read(), next: undefined };
    flights.set(key, flight);
    const end = (): void => {
      if (flight.next === undefined) flights.delete(key);
    };
    flight.current.then(end, end);
    return flight.current;
  };
  return (key, read) => {
    const flight = flights.get(key);
    if (!flight) return begin(key, read);
    const again = (): Promise<T> => begin(key, read);
    flight.next ??= flight.current.then(again, again);
    return flight.next;
  };
}
