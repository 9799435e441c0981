import { fromJson, type JsonObject } from '@bufbuild/protobuf';
import { type Timestamp, TimestampSchema } from '@bufbuild/protobuf/wkt';
import { InvalidArgumentError } from 'commander';
import { isTenantId } from '#libs/kernel/id.ts';
import { UsageError } from './usage-error.ts';

/** Reads a whole number within bounds; `5d`, `1e9` and `0x10` are none. */
export const wholeNumber =
  ({ min, max }: { min: number; max: number }) =>
  (text: string): number => {
    if (/^\d{1,15}$/.test(text) && Number(text) >= min && Number(text) <= max) return Number(text);
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  };

/** Reads the name of an enum's value in any case; UNSPECIFIED is none. */
export const enumValue = <T extends number>(values: Readonly<Record<string, string | T>>) =>
  withChoices(enumNames(values), (text: string): T => {
    const value = values[text.toUpperCase()];
    if (typeof value === 'number' && value !== 0) return value;
    throw new InvalidArgumentError(`It must be one of ${enumNames(values).join(', ')}.`);
  });

/** As enumValue for several, given one by one or parted by commas; collects them. */
export const enumValues = <T extends number>(values: Readonly<Record<string, string | T>>) =>
  withChoices(enumNames(values), (text: string, before: readonly T[] = []): readonly T[] => [
    ...before,
    ...names(text).map(enumValue(values)),
  ]);

const CHOICES = Symbol('what a parser takes');

const withChoices = <Parser extends object>(choices: readonly string[], parser: Parser): Parser =>
  Object.assign(parser, { [CHOICES]: choices });

/** What a parser of this file takes, for shells to complete; undefined where that is no list of names. */
export const choicesOf = (parser: unknown): readonly string[] | undefined =>
  (parser as { [CHOICES]?: readonly string[] } | undefined)?.[CHOICES];

/** The names of an enum's values that can be given, in order. */
export const enumNames = (values: Readonly<Record<string, string | number>>): string[] =>
  Object.entries(values)
    .filter(([, value]) => typeof value === 'number' && value !== 0)
    .map(([name]) => name);

/** Reads an instant such as 2026-11-21T08:00:00Z. */
export function instant(text: string): Timestamp {
  try {
    return fromJson(TimestampSchema, text.replace(/(T\d\d:\d\d)(?=Z|[+-])/i, '$1:00'));
  } catch {
    throw new InvalidArgumentError('It must be an instant such as 2026-11-21T08:00:00Z.');
  }
}

/** Reads a JSON object. */
export function jsonObject(text: string): JsonObject {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject;
  } catch {
    // Told below.
  }
  // No InvalidArgumentError: Commander would repeat the text, which may hold what nobody should read in a log.
  throw new UsageError('what should be a JSON object is none');
}

/** Reads names, given one by one or parted by commas; collects them. */
export const names = (text: string, before: readonly string[] = []): readonly string[] => [
  ...before,
  ...text.split(',').filter((name) => name !== ''),
];

/** Reads the id of a tenant. */
export function tenantId(text: string): string {
  if (isTenantId(text)) return text;
  throw new InvalidArgumentError('A tenant is 1 to 63 of a-z, 0-9 and -, not starting with -.');
}

/** Reads tenants, given one by one or parted by commas; collects them. */
export const tenantIds = (text: string, before: readonly string[] = []): readonly string[] => [
  ...before,
  ...names(text).map(tenantId),
];
