import { readFile, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { createLocalJWKSet, createRemoteJWKSet, errors, type JWK, type JWTVerifyGetKey } from 'jose';
import { dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { parseKeySet, parseTrustFile, type TrustEntry } from './trust-file.ts';

/** The trust file as it was read; another one after each change. */
export interface TrustSnapshot {
  /** The entry that holds this key of this issuer, and the key; undefined where none does. */
  find(issuer: string, kid: string): { readonly entry: TrustEntry; readonly key: JWTVerifyGetKey } | undefined;
}

/** Which keys are believed, and for what. */
export type Trust = () => Promise<TrustSnapshot>;

/** Told of each change of the trust file. */
export interface TrustEvents {
  onReloaded?(): void;
  /** A change that cannot be used; what was read before still holds. */
  onBroken?(error: Error): void;
}

const RECHECK_MS = 1_000;

/**
 * Opens a trust file. It is read again, with the key files that it names, within a second of a change. An Error that
 * names file, entry and field when it cannot be used at first; later what was read before holds until it is mended.
 */
export async function openTrust(path: string, events: TrustEvents = {}): Promise<Trust> {
  let { snapshot, files, states: seen } = await read(path);
  let checkedAt = performance.now();
  let checking: Promise<void> | undefined;
  let problem: string | undefined;

  const check = async (): Promise<void> => {
    const now = await Promise.all(files.map(stateOf));
    if (now.every((state, index) => state === seen[index])) return;
    try {
      ({ snapshot, files, states: seen } = await read(path));
      problem = undefined;
      events.onReloaded?.();
    } catch (error) {
      const { message } = error as Error;
      if (message !== problem) events.onBroken?.(error as Error);
      problem = message;
    }
  };
  return async () => {
    if (performance.now() - checkedAt > RECHECK_MS) {
      checking ??= check().finally(() => {
        checkedAt = performance.now();
        checking = undefined;
      });
      await checking;
    }
    return snapshot;
  };
}

/** What tells that a file was changed, replaced or taken away. */
const stateOf = (file: string): Promise<string> =>
  stat(file).then(
    ({ mtimeMs, size, ino }) => `${mtimeMs} ${size} ${ino}`,
    () => 'away',
  );

/** What was read, and the state of each file from before it was read: what changes meanwhile is read again. */
interface Reading {
  readonly snapshot: TrustSnapshot;
  readonly files: readonly string[];
  readonly states: readonly string[];
}

async function read(path: string): Promise<Reading> {
  const files = [path];
  const states = [await stateOf(path)];
  const entries = parseTrustFile(path, await readText(path, `the trust file ${path}`));
  const known = new Map<string, { entry: TrustEntry; key: JWTVerifyGetKey }>();
  const remote = new Map<string, { entry: TrustEntry; key: JWTVerifyGetKey }>();
  const problems: string[] = [];
  for (const [index, entry] of entries.entries()) {
    const { source, issuer, name } = entry;
    const where = `trust[${index}] (${name})`;
    if (source.kind === 'url') {
      remote.set(issuer, { entry, key: remoteKeys(source.url) });
      continue;
    }
    let keys: readonly JWK[];
    if (source.kind === 'inline') ({ keys } = source);
    else {
      const file = resolve(dirname(path), source.path);
      files.push(file);
      states.push(await stateOf(file));
      const text = await readText(file, `the trust file ${path} cannot be used: ${where}: jwks_file ${file}`);
      keys = parseKeySet(toJson(text), `${where}: jwks_file`, (at, problem) => problems.push(`${at} ${problem}`));
    }
    for (const jwk of keys) {
      const id = idOf(issuer, jwk.kid ?? '');
      if (known.has(id)) problems.push(`${where}: the key ${jwk.kid} is in ${known.get(id)?.entry.name} too`);
      else known.set(id, { entry, key: createLocalJWKSet({ keys: [jwk] }) });
    }
  }
  if (problems.length > 0) throw new Error(`the trust file ${path} cannot be used: ${problems.join('; ')}`);
  return { snapshot: { find: (issuer, kid) => known.get(idOf(issuer, kid)) ?? remote.get(issuer) }, files, states };
}

const idOf = (issuer: string, kid: string): string => JSON.stringify([issuer, kid]);

async function readText(path: string, what: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unreadable';
    throw new Error(`${what} cannot be read: ${code}`);
  }
}

function toJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A key set behind a URL. That none of its keys fits is the token's fault, anything else is not. */
function remoteKeys(url: URL): JWTVerifyGetKey {
  const set = createRemoteJWKSet(url);
  const { JOSENotSupported, JWKSMultipleMatchingKeys, JWKSNoMatchingKey } = errors;
  return async (header, token) => {
    try {
      return await set(header, token);
    } catch (error) {
      const isUnfit = [JOSENotSupported, JWKSMultipleMatchingKeys, JWKSNoMatchingKey].some(
        (kind) => error instanceof kind,
      );
      throw isUnfit ? error : dependencyUnavailable('key set', error);
    }
  };
}
