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
  /** Looks no more; a look that is under way is told to nobody. */
  stop(): void;
}

const EVERY_MS = 5_000;
const EVERY_MS_IN_FAULT = 1_000;
const PATIENCE_MS = 1_000;
const SILENT = 'It does not answer.';

/**
 * Looks at every part all the time, each by itself, one look at a time; `onChange` is called when one is not well, and
 * when it is again. A part that was well counts as not answering while a look takes longer than a second, unless it is
 * vital: that would take a busy service out of service. What a look finds counts however long it took.
 */
export function watchParts(
  parts: readonly Part[],
  onChange: (part: string, problem: string | undefined) => void,
): PartsWatch {
  const stopping = new AbortController();
  const { signal } = stopping;
  const states = new Map<string, string | undefined>(parts.map(({ name }) => [name, undefined]));
  const tell = (part: Part, problem: string | undefined): void => {
    if (signal.aborted || problem === states.get(part.name)) return;
    states.set(part.name, problem);
    onChange(part.name, problem);
  };
  const watch = async (part: Part): Promise<void> => {
    while (!signal.aborted) {
      const impatience = setTimeout(() => {
        if (!part.isVital) tell(part, states.get(part.name) ?? SILENT);
      }, PATIENCE_MS).unref();
      tell(part, await part.look().catch(() => SILENT));
      clearTimeout(impatience);
      const pauseMs = states.get(part.name) === undefined ? EVERY_MS : EVERY_MS_IN_FAULT;
      await delay(pauseMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  };
  for (const part of parts) void watch(part);
  return {
    states: () => states,
    isVitalAway: () => parts.some(({ name, isVital }) => isVital && states.get(name) !== undefined),
    stop: () => stopping.abort(),
  };
}

/** Another service that this one calls, as a part that it stands on. */
export const reachabilityOf = (kind: string, name: string, connection: Pick<Connection, 'isReachable'>): Part => ({
  name: `${kind} ${name}`,
  look: async () => ((await connection.isReachable()) ? undefined : 'It takes no calls.'),
});
