import type { JWK } from 'jose';
import type { Role } from '#libs/kernel/caller.ts';
import { isTenantId } from '#libs/kernel/id.ts';
import { ROLES } from './keys.ts';

/**
 * What tokens of some keys may say. A token must fit one grant as a whole; of its scopes only those count that a fitting
 * grant names. Patterns are exact, or end in `*` for any ending.
 */
export interface Grant {
  readonly roles: readonly Role[];
  readonly scopes: readonly string[];
  /** Exact names; `lethe-owner:*` and `lethe-participant:*` stand for all callees of their kind. */
  readonly audiences: readonly string[];
  /** Absent: the token names no tenant. */
  readonly tenants?: readonly string[];
  /** Of `sub`. */
  readonly subjects: readonly string[];
  /** Of `act.sub`. Absent: the token has no `act`. */
  readonly actors?: readonly string[];
  /** From `iat` to `exp`. */
  readonly max_lifetime_seconds: number;
}

/** Where an issuer's tokens say what Lethe asks of them; Lethe's own names by default. */
export interface ClaimNames {
  readonly subject: string;
  readonly tenant: string;
  readonly role: string;
  readonly scope: string;
}

/** Where the public keys of an entry are. */
export type KeySource =
  | { readonly kind: 'inline'; readonly keys: readonly JWK[] }
  /** Relative to the trust file. */
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'url'; readonly url: URL };

/** Some keys of one issuer, and what they may sign. */
export interface TrustEntry {
  /** For messages and the log. */
  readonly name: string;
  readonly issuer: string;
  readonly source: KeySource;
  readonly claims: ClaimNames;
  readonly allow: readonly Grant[];
}

const CLAIMS: ClaimNames = { subject: 'sub', tenant: 'tenant', role: 'role', scope: 'scope' };
const MAX_LIFETIME_SECONDS = 10 * 365 * 86_400;
const LOOPBACK: ReadonlySet<string> = new Set(['localhost', '127.0.0.1', '[::1]']);
const CALLEE_AUDIENCE = /^lethe-(owner|participant):\*$/;

type Fields = Readonly<Record<string, unknown>>;

/**
 * Parses a trust file. An Error that names the file and, for every problem, entry and field; no key is in it.
 */
export function parseTrustFile(path: string, text: string): readonly TrustEntry[] {
  const problems: string[] = [];
  const entries = parseEntries(text, (where, problem) => problems.push(where === '' ? problem : `${where} ${problem}`));
  if (problems.length > 0) throw new Error(`the trust file ${path} cannot be used: ${problems.join('; ')}`);
  return entries;
}

/** Told of each problem, with the field it is in. */
type Report = (where: string, problem: string) => void;

function parseEntries(text: string, report: Report): readonly TrustEntry[] {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    report('', 'it is not JSON');
    return [];
  }
  if (!isObject(file)) {
    report('', 'it is not a JSON object');
    return [];
  }
  refuseUnknown(file, ['trust'], '', report);
  if (!Array.isArray(file['trust'])) {
    report('trust', 'must be a list');
    return [];
  }
  const entries = file['trust'].map((value, index) => parseEntry(value, `trust[${index}]`, report));
  refuseDoubles(
    entries.map(({ name }) => name),
    (name) => report('trust', `has the name ${name} twice`),
  );
  refuseDoubles(
    entries.flatMap(({ issuer, source }) => (source.kind === 'url' ? [issuer] : [])),
    (issuer) => report('trust', `has two entries with a jwks_url for the issuer ${issuer}`),
  );
  return entries;
}

const ENTRY_FIELDS = ['name', 'issuer', 'jwks', 'jwks_file', 'jwks_url', 'claims', 'allow'];

function parseEntry(value: unknown, index: string, report: Report): TrustEntry {
  const entry = isObject(value) ? value : {};
  if (!isObject(value)) report(index, 'must be an object');
  const name = text(entry, 'name', index, report);
  const where = name === '' ? index : `${index} (${name})`;
  refuseUnknown(entry, ENTRY_FIELDS, where, report);
  const { allow } = entry;
  if (!Array.isArray(allow) || allow.length === 0) report(`${where}: allow`, 'must be a list with at least one grant');
  return {
    name,
    issuer: text(entry, 'issuer', where, report),
    source: parseSource(entry, where, report),
    claims: parseClaims(entry['claims'], `${where}: claims`, report),
    allow: Array.isArray(allow) ? allow.map((grant, at) => parseGrant(grant, `${where}: allow[${at}]`, report)) : [],
  };
}

function parseSource(entry: Fields, where: string, report: Report): KeySource {
  const given = ['jwks', 'jwks_file', 'jwks_url'].filter((field) => entry[field] !== undefined);
  if (given.length !== 1) report(where, 'must have one of jwks, jwks_file and jwks_url');
  if (entry['jwks_file'] !== undefined) return { kind: 'file', path: text(entry, 'jwks_file', where, report) };
  if (entry['jwks_url'] !== undefined) {
    const url = URL.parse(text(entry, 'jwks_url', where, report));
    if (url && (url.protocol === 'https:' || (url.protocol === 'http:' && LOOPBACK.has(url.hostname)))) {
      return { kind: 'url', url };
    }
    report(`${where}: jwks_url`, 'must be an https URL');
  }
  if (entry['jwks'] === undefined) return { kind: 'inline', keys: [] };
  return { kind: 'inline', keys: parseKeySet(entry['jwks'], `${where}: jwks`, report) };
}

/** The public keys of a JWKS, each with a `kid`; problems are reported without the keys. */
export function parseKeySet(value: unknown, where: string, report: Report): readonly JWK[] {
  const keys = isObject(value) ? value['keys'] : undefined;
  if (!Array.isArray(keys)) {
    report(where, 'must be a JWKS: an object with a list of keys');
    return [];
  }
  for (const [index, key] of keys.entries()) {
    const at = `${where}.keys[${index}]`;
    if (!isObject(key) || typeof key['kid'] !== 'string' || key['kid'] === '') report(at, 'must have a kid');
    else if (key['kty'] === 'oct') report(at, 'is a shared secret');
    else if (key['d'] !== undefined) report(at, 'is a private key; only its public half belongs here');
    else if (!['OKP', 'EC', 'RSA'].includes(String(key['kty']))) report(at, 'must have the kty OKP, EC or RSA');
  }
  return keys as JWK[];
}

function parseClaims(value: unknown, where: string, report: Report): ClaimNames {
  if (value === undefined) return CLAIMS;
  if (!isObject(value)) {
    report(where, 'must be an object');
    return CLAIMS;
  }
  refuseUnknown(value, Object.keys(CLAIMS), where, report);
  const named = Object.keys(value).map((field) => [field, text(value, field, where, report)]);
  return { ...CLAIMS, ...Object.fromEntries(named) };
}

const GRANT_FIELDS = ['roles', 'scopes', 'audiences', 'tenants', 'subjects', 'actors', 'max_lifetime_seconds'];

function parseGrant(value: unknown, where: string, report: Report): Grant {
  const grant = isObject(value) ? value : {};
  if (!isObject(value)) report(where, 'must be an object');
  refuseUnknown(grant, GRANT_FIELDS, where, report);
  const list = (field: string, isGood: (item: string) => boolean, what: string): readonly string[] => {
    const items = grant[field];
    const isList = Array.isArray(items) && items.length > 0 && items.every((item) => typeof item === 'string');
    if (!isList || !items.every(isGood)) report(`${where}.${field}`, `must be a list of ${what}`);
    return isList ? items : [];
  };
  const seconds = grant['max_lifetime_seconds'];
  const isLifetime = Number.isInteger(seconds) && Number(seconds) >= 1 && Number(seconds) <= MAX_LIFETIME_SECONDS;
  if (!isLifetime) report(`${where}.max_lifetime_seconds`, `must be a whole number from 1 to ${MAX_LIFETIME_SECONDS}`);
  const isTenantPattern = (item: string) => item === '*' || isTenantId(item.replace(/\*$/, ''));
  const isAudience = (item: string) => isPattern(item) && (!item.endsWith('*') || CALLEE_AUDIENCE.test(item));
  return {
    roles: list('roles', (item) => ROLES.some((role) => role === item), ROLES.join(', ')) as Role[],
    scopes: list('scopes', isPattern, 'scopes, where a * may stand at the end'),
    audiences: list('audiences', isAudience, 'names; only lethe-owner:* and lethe-participant:* stand for several'),
    ...(grant['tenants'] === undefined
      ? {}
      : { tenants: list('tenants', isTenantPattern, 'tenants, where a * may stand at the end') }),
    subjects: list('subjects', isPattern, 'subjects, where a * may stand at the end'),
    ...(grant['actors'] === undefined
      ? {}
      : { actors: list('actors', isPattern, 'acting services, where a * may stand at the end') }),
    max_lifetime_seconds: isLifetime ? Number(seconds) : 0,
  };
}

/** Whether one of the patterns stands for the value. */
export const matches = (patterns: readonly string[], value: string): boolean =>
  patterns.some((pattern) => (pattern.endsWith('*') ? value.startsWith(pattern.slice(0, -1)) : value === pattern));

const isPattern = (item: string): boolean => /^[^\s*]*\*?$/.test(item) && item !== '';

const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function text(fields: Fields, field: string, where: string, report: Report): string {
  const value = fields[field];
  if (typeof value === 'string' && value !== '') return value;
  report(`${where}: ${field}`, 'must be a text');
  return '';
}

/** A field that is misspelt would be one that limits nothing. */
function refuseUnknown(fields: Fields, known: readonly string[], where: string, report: Report): void {
  for (const field of Object.keys(fields)) {
    if (!known.includes(field)) report(where === '' ? field : `${where}: ${field}`, 'is not a field of it');
  }
}

function refuseDoubles(values: readonly string[], onDouble: (value: string) => void): void {
  for (const value of new Set(values.filter((each, index) => values.indexOf(each) !== index))) onDouble(value);
}
