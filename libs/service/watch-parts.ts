import { setTimeout as delay } from 'node:timers/promises';
import type { Connection } from '#libs/grpc/client.ts';

/** Something that a service stands on: its schema, an object store, another service. */
export interface Part {
  /** As `/ready` and the metric name it, e.g. `object store` or `participant job`. */
  readonly name: string;
  /** Whether the service can serve nothing without it, and `/ready` is 503 then. Absent: it can do without for a while. */
  readonly isVital?: boolean;
  /** Must answer what is wrong with it, as a sentence, or undefined. What it throws is told as no answer. */
  look(): Promise<string | undefined>;
}

/** What is known of the parts without asking them. */
export interface PartsWatch {
  /** Of every part, by name, what was wrong with it when it was last looked at; undefined where nothing was. */
  states(): ReadonlyMap<string, string | undefined>;
  /** Whether a vital part is not well. */
  isVitalAway(): boolean;
  stop(): Promise<void>;
}

const EVERY_MS = 5_000;
const EVERY_MS_IN_FAULT = 1_000;
const PATIENCE_MS = 1_000;
const SILENT = 'It does not answer.';

/**
 * Looks at every part all the time, each by itself, one look at a time; `onChange` is called when one is not well, and
 * when it is again. Of a look that takes longer than a second, what is known stands until it is over; a part that was well
 * and is not vital counts as not answering. Of a vital part that would take a busy service out of service.
 */
export function watchParts(
  parts: readonly Part[],
  onChange: (part: string, problem: string | undefined) => void,
): PartsWatch {
  const stopping = new AbortController();
  const { signal } = stopping;
  const states = new Map<string, string | undefined>(parts.map(({ name }) => [name, undefined]));
  const watch = async (part: Part): Promise<void> => {
    let looking: Promise<string | undefined> | undefined;
    const look = (): Promise<string | undefined> => {
      looking ??= part
        .look()
        .catch(() => SILENT)
        .finally(() => {
          looking = undefined;
        });
      const over = new AbortController();
      const known = states.get(part.name) ?? (part.isVital ? undefined : SILENT);
      const patience = delay(PATIENCE_MS, known, { signal: AbortSignal.any([signal, over.signal]), ref: false });
      return Promise.race([looking, patience.catch(() => known)]).finally(() => over.abort());
    };
    while (!signal.aborted) {
      const problem = await look();
      if (signal.aborted) return;
      const before = states.get(part.name);
      states.set(part.name, problem);
      if (problem !== before) onChange(part.name, problem);
      const pauseMs = problem === undefined ? EVERY_MS : EVERY_MS_IN_FAULT;
      await delay(pauseMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  };
  const watching = Promise.all(parts.map(watch));
  return {
    states: () => states,
    isVitalAway: () => parts.some(({ name, isVital }) => isVital && states.get(name) !== undefined),
    async stop() {
      stopping.abort();
      await watching;
    },
  };
}

/** Another service that this one calls, as a part that it stands on. */
export const reachabilityOf = (kind: string, name: string, connection: Pick<Connection, 'isReachable'>): Part => ({
  name: `${kind} ${name}`,
  look: async () => ((await connection.isReachable()) ? undefined : 'It takes no calls.'),
});
