import { createHash } from 'node:crypto';
import { type FieldViolation, fieldInvalid, fieldsInvalid } from './domain-error.ts';
import { isId } from './id.ts';

/** The page size where a request names none. */
export const DEFAULT_PAGE_SIZE = 50;
/** The largest page; a larger page_size counts as this (AIP-158). */
export const MAX_PAGE_SIZE = 200;

/**
 * The page size to use: 0 means 50, and more than 200 means 200. FIELD_INVALID for a negative one, and with it for a page token
 * that no list can have given; whether it is this list's own is up to decodePageToken, which needs the filter.
 */
export function parsePageSize(pageSize: number, pageToken = ''): number {
  const violations: FieldViolation[] = [];
  if (!Number.isInteger(pageSize) || pageSize < 0) {
    violations.push({ field: 'page_size', description: 'must not be negative' });
  }
  if (pageToken !== '' && !partsOf(pageToken)) violations.push({ field: 'page_token', description: WRONG_TOKEN });
  if (violations.length > 0) throw fieldsInvalid(violations);
  return pageSize === 0 ? DEFAULT_PAGE_SIZE : Math.min(pageSize, MAX_PAGE_SIZE);
}

/** What a repository is asked for: at most `limit` rows after the keyset `after`, in the order of the list. */
export interface PageQuery {
  readonly limit: number;
  readonly after: readonly string[] | undefined;
}

/** A page, and the keyset of its last row when there are more. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly next: readonly string[] | undefined;
}

/** A page of a list that was read with one row more than asked for: the keyset is there when that row was. */
export function pageOf<Row, T>(
  rows: readonly Row[],
  limit: number,
  toItem: (row: Row) => T,
  keyOf: (row: Row) => readonly string[],
): Page<T> {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  return { items: shown.map(toItem), next: rows.length > limit && last !== undefined ? keyOf(last) : undefined };
}

/** What a page token is bound to: the RPC, the tenant and every filter of the list. */
export interface PageScope {
  readonly rpc: string;
  readonly tenantId: string;
  readonly filter: Readonly<Record<string, string | number | boolean | undefined>>;
}

const MAX_TOKEN_LENGTH = 1_024;
/** The longest token whose keyset is a row of somebody else's, of which the key can be as long as Postgres has them. */
export const MAX_CURSOR_LENGTH = 16_384;
const WRONG_TOKEN = 'must be a token that this list gave for the same filter';

const seal = (scope: PageScope, key: readonly string[]): string =>
  createHash('sha256')
    .update(JSON.stringify([scope.rpc, scope.tenantId, Object.entries(scope.filter).toSorted(), key]))
    .digest('base64url')
    .slice(0, 22);

/**
 * An opaque token that continues a list after `key`, the keyset of the last row shown.
 * The seal is no secret: a token can only ever continue the caller's own list, since the tenant of the query
 * comes from the credential. It is there so that a token used elsewhere is refused instead of misread.
 */
export const encodePageToken = (scope: PageScope, key: readonly string[]): string =>
  Buffer.from(JSON.stringify([seal(scope, key), ...key])).toString('base64url');

/** Whether a text can be this part of a keyset. */
export type KeyPart = (text: string) => boolean;

const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z$/;
const DIGITS = /^\d{1,19}$/;

/** The parts that keysets have, by what Postgres takes them for. */
export const KEY = {
  /** Of the years 1 to 9999, in UTC. */
  instant: (text) => INSTANT.test(text) && !text.startsWith('0000') && isInstant(text),
  id: isId,
  /** A whole number that is not negative. */
  int4: (text) => DIGITS.test(text) && BigInt(text) < 1n << 31n,
  /** A whole number that is not negative. */
  int8: (text) => DIGITS.test(text) && BigInt(text) < 1n << 63n,
  text: (text) => !text.includes('\0') && text.isWellFormed(),
} satisfies Readonly<Record<string, KeyPart>>;

function isInstant(text: string): boolean {
  try {
    return Temporal.Instant.from(text) !== undefined;
  } catch {
    return false;
  }
}

/**
 * The keyset that a token continues after, undefined for the empty token. FIELD_INVALID on `page_token` for anything this
 * RPC did not give to this tenant for this very filter. Anybody can compute a seal, so that what it covers is not believed
 * either: each part has to be what the list orders by there. A token that is longer than `maxLength` is none.
 */
export function decodePageToken(
  scope: PageScope,
  token: string,
  parts: readonly KeyPart[],
  maxLength: number = MAX_TOKEN_LENGTH,
): readonly string[] | undefined {
  if (token === '') return undefined;
  const [given, ...key] = partsOf(token, maxLength) ?? [];
  const isKey = key.length === parts.length && key.every((text, index) => parts[index]?.(text));
  if (!isKey || given !== seal(scope, key)) throw fieldInvalid('page_token', WRONG_TOKEN);
  return key;
}

/** The strings in a token; undefined for what is no token of any list. */
function partsOf(token: string, maxLength: number = MAX_TOKEN_LENGTH): readonly string[] | undefined {
  if (token.length > maxLength) return undefined;
  try {
    const parts: unknown = JSON.parse(Buffer.from(token, 'base64url').toString('utf8'));
    return Array.isArray(parts) && parts.every((part) => typeof part === 'string') ? parts : undefined;
  } catch {
    return undefined;
  }
}
