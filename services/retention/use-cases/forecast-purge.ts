import type { ResolvedWindow } from '../domain/windows.ts';
import type { CountExpired } from './ports.ts';

/** What the next purge would take of one subject after a change that was not made. */
export interface PurgeForecast {
  readonly subject: string;
  /** Over the tenants that were counted, dependents left out. */
  readonly expired: number;
  /** The same as things stand. */
  readonly currentExpired: number;
  readonly tenants: number;
  /** Tenants that could not be counted in time, or whose owner did not answer. */
  readonly uncounted: number;
  /** When the change would first take something; undefined: with the next purge. */
  readonly effectAt: Temporal.Instant | undefined;
}

/** One subject of one tenant before and after a change. */
export interface WindowChange {
  /** As things stand. */
  readonly before: ResolvedWindow;
  /** When all grace that the change gives is over. */
  readonly after: ResolvedWindow;
  /** When `after` begins; undefined: at once. */
  readonly effectAt: Temporal.Instant | undefined;
}

/** The change to count. */
export interface ForecastOrder {
  readonly subjects: readonly string[];
  readonly tenants: readonly string[];
  readonly actor: string;
  /** The change's effect on one tenant, for each subject. */
  changesOf(tenantId: string): Promise<readonly WindowChange[]>;
}

/**
 * Counts, tenant by tenant, what the next purge would take. Stops when its time budget is spent and reports the tenants
 * it did not reach as uncounted.
 */
export type ForecastPurge = (order: ForecastOrder) => Promise<readonly PurgeForecast[]>;

/** How long a forecast may take, and how many tenants it counts concurrently. */
export interface ForecastSettings {
  readonly budgetMs: number;
  readonly parallel: number;
}

/** Short enough for a caller that waits for the answer. */
export const FORECAST_SETTINGS: ForecastSettings = { budgetMs: 10_000, parallel: 8 };

/** Makes ForecastPurge. */
export const makeForecastPurge =
  (countExpired: CountExpired, { budgetMs, parallel }: ForecastSettings): ForecastPurge =>
  async ({ subjects, tenants, actor, changesOf }) => {
    const signal = AbortSignal.timeout(budgetMs);
    const count = async (tenantId: string, window: ResolvedWindow): Promise<number | undefined> => {
      if (window.window.kind === 'KEEP_ALL') return 0;
      const { subject, minToKeep, staleAfterDays } = window;
      const retentionDays = window.window.days;
      const counted = countExpired({ tenantId, subject, retentionDays, minToKeep, staleAfterDays, actor, signal });
      return unlessAborted(counted, signal);
    };
    const countChange = async (tenantId: string, change: WindowChange): Promise<Counted> => {
      const { before, after } = change;
      const currentExpired = await count(tenantId, before);
      const expired = isSame(before, after) ? currentExpired : await count(tenantId, after);
      return { ...change, currentExpired, expired };
    };
    const counted = new Map<string, Counted[]>(subjects.map((subject) => [subject, []]));
    const waiting = [...tenants];
    const work = async (): Promise<void> => {
      for (let tenantId = waiting.shift(); tenantId !== undefined && !signal.aborted; tenantId = waiting.shift()) {
        const of = tenantId;
        const changes = (await unlessAborted(changesOf(of), signal)) ?? [];
        for (const change of await Promise.all(changes.map((one) => countChange(of, one)))) {
          counted.get(change.after.subject)?.push(change);
        }
      }
    };
    await Promise.all(Array.from({ length: parallel }, work));
    return subjects.map((subject) => toForecast(subject, tenants.length, counted.get(subject) ?? []));
  };

interface Counted extends WindowChange {
  readonly expired: number | undefined;
  readonly currentExpired: number | undefined;
}

function toForecast(subject: string, tenants: number, all: readonly Counted[]): PurgeForecast {
  const counted = all.filter(({ expired, currentExpired }) => expired !== undefined && currentExpired !== undefined);
  const changed = all.filter(({ before, after }) => !isSame(before, after));
  const isAtOnce = changed.some(({ effectAt }) => effectAt === undefined);
  const [first] = changed.flatMap(({ effectAt }) => effectAt ?? []).toSorted(Temporal.Instant.compare);
  return {
    subject,
    expired: counted.reduce((sum, { expired }) => sum + (expired ?? 0), 0),
    currentExpired: counted.reduce((sum, { currentExpired }) => sum + (currentExpired ?? 0), 0),
    tenants: counted.length,
    uncounted: tenants - counted.length,
    effectAt: isAtOnce ? undefined : first,
  };
}

const isSame = (a: ResolvedWindow, b: ResolvedWindow): boolean =>
  a.window.kind === b.window.kind &&
  (a.window.kind !== 'DAYS' || b.window.kind !== 'DAYS' || a.window.days === b.window.days) &&
  a.minToKeep === b.minToKeep &&
  a.staleAfterDays === b.staleAfterDays;

/** What the promise resolves to; undefined when the signal comes first. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  if (signal.aborted) return undefined;
  const { promise: aborted, resolve } = Promise.withResolvers<undefined>();
  const stop = (): void => resolve(undefined);
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
