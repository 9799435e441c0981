import { DomainError, type FieldViolation, fieldInvalid, fieldsInvalid } from '#libs/kernel/domain-error.ts';
import { parseOptionalId } from '#libs/kernel/id.ts';
import { isPlainText } from '#libs/kernel/text.ts';
import type { View } from '#libs/kernel/view.ts';

/** A reason is free text for people who read the audit. */
export const MAX_REASON_LENGTH = 500;

const MAX_ETAG_LENGTH = 100;

// What a client reads of headers is bounded, and the violations are sent in one.
const MAX_VIOLATIONS = 100;

/**
 * Reads a whole request and reports every bad field at once: each property is a function that reads one field and
 * throws FIELD_INVALID; the answer holds what they returned. REASON_REQUIRED keeps its reason where it is the only
 * problem and is one of the violations otherwise.
 */
export function parseFields<T extends Record<string, () => unknown>>(
  readers: T,
): { readonly [K in keyof T]: ReturnType<T[K]> } {
  const violations: FieldViolation[] = [];
  const refusals: DomainError[] = [];
  const read: Record<string, unknown> = {};
  for (const [name, reader] of Object.entries(readers)) {
    try {
      read[name] = reader();
    } catch (error) {
      if (!(error instanceof DomainError) || !WRONG_FIELD.has(error.reason)) throw error;
      refusals.push(error);
      violations.push(...error.violations);
    }
  }
  if (refusals.length === 1) throw refusals[0];
  if (violations.length > 0) throw fieldsInvalid(violations);
  return read as { readonly [K in keyof T]: ReturnType<T[K]> };
}

const WRONG_FIELD: ReadonlySet<string> = new Set(['FIELD_INVALID', 'REASON_REQUIRED']);

/** Reads every item of a list and reports every bad one, up to a hundred, at once. */
export function parseEach<T, U>(items: readonly T[], read: (item: T, index: number) => U): readonly U[] {
  const violations: FieldViolation[] = [];
  const parsed = items.flatMap((item, index) => {
    try {
      return [read(item, index)];
    } catch (error) {
      if (!(error instanceof DomainError) || error.reason !== 'FIELD_INVALID') throw error;
      violations.push(...error.violations);
      return [];
    }
  });
  if (violations.length > 0) throw fieldsInvalid(violations.slice(0, MAX_VIOLATIONS));
  return parsed;
}

/** Text of `min` to `max` characters without control characters; FIELD_INVALID otherwise. */
export function parseText(field: string, value: string, { min = 0, max }: { min?: number; max: number }): string {
  if (value.length < min) throw fieldInvalid(field, min === 1 ? 'is required' : `must have at least ${min} characters`);
  if (value.length > max) throw fieldInvalid(field, `must have at most ${max} characters`);
  if (!isPlainText(value)) throw fieldInvalid(field, 'must not hold control characters');
  return value;
}

/** As parseText, and undefined for the empty text. */
export const parseOptionalText = (field: string, value: string, max: number): string | undefined =>
  value === '' ? undefined : parseText(field, value, { max });

/** An optional reason of up to 500 characters. */
export const parseReason = (value: string): string | undefined => parseOptionalText('reason', value, MAX_REASON_LENGTH);

/** A mandatory reason: INVALID_ARGUMENT/REASON_REQUIRED where there is none. */
export function parseRequiredReason(value: string): string {
  const reason = parseReason(value.trim());
  if (reason !== undefined) return reason;
  throw new DomainError(
    'invalid-argument',
    'REASON_REQUIRED',
    'A reason is required; it goes into the audit.',
    {},
    { violations: [{ field: 'reason', description: 'is required' }] },
  );
}

/** The etag as it stands, empty for none. */
export const parseEtag = (etag: string): string => parseText('etag', etag, { max: MAX_ETAG_LENGTH });

/** The optional UUID that makes a repetition recognisable. */
export const parseRequestId = (value: string): string | undefined => parseOptionalId('request_id', value);

/** What an enum's value stands for in the domain; FIELD_INVALID for UNSPECIFIED and for what is not in the table. */
export function parseEnum<T>(field: string, value: number, table: ReadonlyMap<number, T>): T {
  const found = table.get(value);
  if (found === undefined) throw fieldInvalid(field, 'must be one of its values');
  return found;
}

/** As parseEnum, and undefined for 0, which is UNSPECIFIED. */
export const parseOptionalEnum = <T>(field: string, value: number, table: ReadonlyMap<number, T>): T | undefined =>
  value === 0 ? undefined : parseEnum(field, value, table);

// Every enum of views has these numbers.
const VIEW_OF: ReadonlyMap<number, View> = new Map([
  [1, 'BASIC'],
  [2, 'FULL'],
]);

/** The view that a request asks for, `byDefault` where it names none. */
export const parseView = (value: number, byDefault: View): View =>
  parseOptionalEnum('view', value, VIEW_OF) ?? byDefault;

/** A whole number within bounds; FIELD_INVALID otherwise. */
export function parseInteger(
  field: string,
  value: number | bigint,
  { min, max }: { min: number; max: number },
): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < min || number > max) {
    throw fieldInvalid(field, `must be a whole number from ${min} to ${max}`);
  }
  return number;
}
