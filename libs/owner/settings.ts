import type { SettingsReader } from '#libs/kernel/settings.ts';

const UNIT_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const;
const MAX_PERIOD_MS = 7 * 24 * UNIT_MS.h;

/** What a retention owner is told; durations in milliseconds. */
export const readOwnerSettings = (reader: SettingsReader) => ({
  maxPauseMs: reader.parsed('LETHE_PURGE_MAX_PAUSE', parsePeriodMs, '1h'),
  snapshotAgeMs: reader.parsed('LETHE_PURGE_SNAPSHOT_AGE', parsePeriodMs, '1m'),
});

/** `500ms`, `30s`, `10m` or `1h` in milliseconds, up to a week; an Error saying so otherwise. */
export function parsePeriodMs(text: string): number {
  const [, count, unit] = /^(\d{1,9})(ms|s|m|h)$/.exec(text) ?? [];
  const ms = count === undefined ? Number.NaN : Number(count) * UNIT_MS[unit as keyof typeof UNIT_MS];
  if (!(ms <= MAX_PERIOD_MS)) throw new Error('must be a whole number of ms, s, m or h, such as 30s, up to a week');
  return ms;
}
