import { setTimeout as delay } from 'node:timers/promises';
import type { Connection } from '#libs/grpc/client.ts';

/** Something that a service stands on and can do without for a while: an object store, another service. */
export interface Part {
  /** As `/ready` and the metric name it, e.g. `object store` or `participant job`. */
  readonly name: string;
  /** Must answer what is wrong with it, as a sentence, or undefined. What it throws is told as no answer. */
  look(): Promise<string | undefined>;
}

/** What is known of the parts without asking them. */
export interface PartsWatch {
  /** A sentence of each part that was not well when it was last looked at. */
  problems(): ReadonlyMap<string, string>;
  stop(): Promise<void>;
}

const EVERY_MS = 2_000;
const PATIENCE_MS = 5_000;
const SILENT = 'It does not answer.';

/** Looks at every part all the time, each by itself; `onChange` is called when one is not well, and when it is again. */
export function watchParts(
  parts: readonly Part[],
  onChange: (part: string, problem: string | undefined) => void,
): PartsWatch {
  const stopping = new AbortController();
  const { signal } = stopping;
  const problems = new Map<string, string>();
  const look = async (part: Part): Promise<string | undefined> => {
    const over = new AbortController();
    try {
      const silence = delay(PATIENCE_MS, SILENT, { signal: AbortSignal.any([signal, over.signal]), ref: false });
      return await Promise.race([part.look(), silence]);
    } catch {
      return SILENT;
    } finally {
      over.abort();
    }
  };
  const watch = async (part: Part): Promise<void> => {
    while (!signal.aborted) {
      const problem = await look(part);
      if (signal.aborted) return;
      const before = problems.get(part.name);
      if (problem === undefined) problems.delete(part.name);
      else problems.set(part.name, problem);
      if (problem !== before) onChange(part.name, problem);
      await delay(EVERY_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  };
  const watching = Promise.all(parts.map(watch));
  return {
    problems: () => problems,
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
