import type { Duration, Timestamp } from '@bufbuild/protobuf/wkt';

const COUNT = new Intl.NumberFormat('en-GB');
const SHORT_COUNT = new Intl.NumberFormat('en-GB', { notation: 'compact', maximumFractionDigits: 1 });
const DAY = new Intl.DateTimeFormat('en-GB', {
  weekday: 'short',
  day: 'numeric',
  month: 'short',
  year: 'numeric',
  timeZone: 'UTC',
});
const SHORT_DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', timeZone: 'UTC' });
const RELATIVE = new Intl.RelativeTimeFormat('en-GB', { numeric: 'auto' });
const BYTE_UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'] as const;

const SPANS = [
  ['year', 31_536_000],
  ['month', 2_592_000],
  ['week', 604_800],
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
  ['second', 1],
] as const;

/** 1234567 as `1,234,567`. */
export const formatCount = (count: number | bigint): string => COUNT.format(count);

/** 1234567 as `1.2M`, for axes. */
export const formatShortCount = (count: number | bigint): string => SHORT_COUNT.format(count);

/** `1 run`, `3 runs`, `2 policies`. */
export function plural(count: number | bigint, one: string, many = `${one}s`): string {
  return `${formatCount(count)} ${Number(count) === 1 ? one : many}`;
}

/** Bytes in decimal units: `0 B`, `1.5 kB`, `12 MB`. */
export function formatBytes(bytes: number | bigint): string {
  let value = Number(bytes);
  let unit = 0;
  while (value >= 1_000 && unit < BYTE_UNITS.length - 1) {
    value /= 1_000;
    unit++;
  }
  return `${unit > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} ${BYTE_UNITS[unit]}`;
}

/** Milliseconds since the epoch. */
export const toMs = (time: Timestamp): number => Number(time.seconds) * 1_000 + Math.floor(time.nanos / 1_000_000);

/** An instant of the browser as a message. */
export const toTimestamp = (ms: number): { seconds: bigint; nanos: number } => ({
  seconds: BigInt(Math.floor(ms / 1_000)),
  nanos: (((ms % 1_000) + 1_000) % 1_000) * 1_000_000,
});

/** `2026-11-26 10:51:24 UTC`. */
export const formatInstant = (time: Timestamp): string =>
  `${new Date(toMs(time)).toISOString().slice(0, 19).replace('T', ' ')} UTC`;

/** `5 minutes ago`, `in 3 hours`, `now`. */
export function formatRelative(ms: number, nowMs: number): string {
  const seconds = (ms - nowMs) / 1_000;
  const [unit, length] = SPANS.find(([, span]) => Math.abs(seconds) >= span) ?? ['second', 1];
  if (unit === 'second') return Math.abs(seconds) < 10 ? 'now' : RELATIVE.format(Math.trunc(seconds), 'second');
  return RELATIVE.format(Math.trunc(seconds / length), unit);
}

/** A span of time by its two largest units: `2 d 3 h`, `45 s`, `320 ms`. */
export function formatMs(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  const parts = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3_600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ] as const;
  const first = parts.findIndex(([count]) => count > 0);
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(' ');
}

/** A Duration message, as `formatMs` writes it. */
export const formatDuration = (duration: Duration): string =>
  formatMs(Number(duration.seconds) * 1_000 + duration.nanos / 1_000_000);

/** From one instant to another, as `formatMs` writes it. */
export const formatSpan = (from: Timestamp, to: Timestamp): string => formatMs(toMs(to) - toMs(from));

/** A day given as YYYY-MM-DD: `Thu, 26 Nov 2026`. */
export const formatDay = (day: string): string => DAY.format(new Date(`${day}T00:00:00Z`));

/** A day given as YYYY-MM-DD: `26 Nov`. */
export const formatShortDay = (day: string): string => SHORT_DAY.format(new Date(`${day}T00:00:00Z`));

/** The word that a constant of an enum stands for: `NOT_TERMINAL` as `Not terminal`. */
export function toWords(constant: string): string {
  const words = constant.toLowerCase().replaceAll('_', ' ');
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}`;
}
