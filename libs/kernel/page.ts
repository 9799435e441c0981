import { createHash } from 'node:crypto';
import { fieldInvalid } from './domain-error.ts';

/** The page size where a request names none. */
export const DEFAULT_PAGE_SIZE = 50;
/** The largest page that can be asked for; more is refused, not silently cut. */
export const MAX_PAGE_SIZE = 200;

/** The page size to use: 0 means 50; FIELD_INVALID for what is negative or over 200. */
export function parsePageSize(pageSize: number): number {
  if (pageSize === 0) return DEFAULT_PAGE_SIZE;
  if (!Number.isInteger(pageSize) || pageSize < 0 || pageSize > MAX_PAGE_SIZE) {
    throw fieldInvalid('page_size', `must be between 0 and ${MAX_PAGE_SIZE}`);
  }
  return pageSize;
}

/** What a page token is bound to: the RPC, the tenant and every filter of the list. */
export interface PageScope {
  readonly rpc: string;
  readonly tenantId: string;
  readonly filter: Readonly<Record<string, string | number | boolean | undefined>>;
}

const MAX_TOKEN_LENGTH = 1_024;

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

/**
 * The keyset of `size` parts that a token continues after, undefined for the empty token.
 * FIELD_INVALID on `page_token` for anything this RPC did not give to this tenant for this very filter.
 */
export function decodePageToken(scope: PageScope, token: string, size: number): readonly string[] | undefined {
  if (token === '') return undefined;
  const refusal = fieldInvalid('page_token', 'must be a token that this list gave for the same filter');
  if (token.length > MAX_TOKEN_LENGTH) throw refusal;
  let parts: unknown;
  try {
    parts = JSON.parse(Buffer.from(token, 'base64url').toString('utf8'));
  } catch {
    throw refusal;
  }
  if (!Array.isArray(parts) || !parts.every((part) => typeof part === 'string')) throw refusal;
  const [given, ...key] = parts as string[];
  if (key.length !== size || given !== seal(scope, key)) throw refusal;
  return key;
}
