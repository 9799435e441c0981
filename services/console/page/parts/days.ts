import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { toMs } from './format.ts';

const DAY_MS = 86_400_000;

// Days are in UTC and written YYYY-MM-DD, as the services count them.

/** The day of an instant. */
export const dayOf = (time: Timestamp): string => toDay(toMs(time));

/** The day it is now by the browser's clock. */
export const today = (): string => toDay(Date.now());

/** The first instant of a day, in milliseconds since the epoch. */
export const startOfDay = (day: string): number => Date.parse(`${day}T00:00:00Z`);

/** The day so many days after another one, or before it. */
export const dayAfter = (day: string, count: number): string => toDay(startOfDay(day) + count * DAY_MS);

/** So many days up to this one, oldest first. */
export const daysUpTo = (last: string, count: number): string[] =>
  Array.from({ length: count }, (_, index) => dayAfter(last, index + 1 - count));

const toDay = (ms: number): string => new Date(ms).toISOString().slice(0, 10);
