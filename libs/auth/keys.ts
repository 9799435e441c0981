import { randomUUID } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { exportJWK, generateKeyPair, importJWK, type JWK } from 'jose';
import { type Role, TENANT_ROLES } from '#libs/kernel/caller.ts';

/** The signature of every token that Lethe makes; tokens of others may also use ES256 and RS256. */
export const SIGNATURE_ALGORITHM = 'EdDSA';

/** A private key as a JWK with `kid` and `alg`, ready to sign. */
export interface SigningKey {
  readonly kid: string;
  readonly key: CryptoKey | Uint8Array;
}

/** A new Ed25519 key pair as JWKs that share a random `kid`. */
export async function makeKeyPair(): Promise<{ privateJwk: JWK; publicJwk: JWK }> {
  const { privateKey, publicKey } = await generateKeyPair(SIGNATURE_ALGORITHM, { extractable: true });
  const common = { kid: randomUUID(), alg: SIGNATURE_ALGORITHM, use: 'sig' };
  return {
    privateJwk: { ...(await exportJWK(privateKey)), ...common },
    publicJwk: { ...(await exportJWK(publicKey)), ...common },
  };
}

/** Reads a private JWK from a file; an Error that names the file, never its content, when it is none. */
export async function readSigningKey(path: string): Promise<SigningKey> {
  try {
    const jwk = JSON.parse(await readFile(path, 'utf8')) as JWK;
    if (!jwk.kid || !jwk.d) throw new Error('it is not a private JWK with a kid');
    return { kid: jwk.kid, key: await importJWK(jwk, SIGNATURE_ALGORITHM) };
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'it is not a private JWK with a kid';
    throw new Error(`the signing key ${path} cannot be used: ${code}`);
  }
}

const RECHECK_MS = 1_000;

/**
 * Opens a private JWK for signing, as readSigningKey does. The file is read again within a second of a change, so that a
 * key is replaced without a restart; while it is away or broken, the key that was read before signs on.
 */
export async function openSigningKey(path: string): Promise<() => Promise<SigningKey>> {
  const stateOf = () =>
    stat(path).then(
      ({ mtimeMs, size, ino }) => `${mtimeMs} ${size} ${ino}`,
      () => 'away',
    );
  let seen = await stateOf();
  let key = await readSigningKey(path);
  let checkedAt = performance.now();
  return async () => {
    if (performance.now() - checkedAt <= RECHECK_MS) return key;
    checkedAt = performance.now();
    const now = await stateOf();
    if (now === seen) return key;
    try {
      key = await readSigningKey(path);
      seen = now;
    } catch {
      // It is being replaced, or is no key: looked at again in a second.
    }
    return key;
  };
}

/** Every role that a token can carry. */
export const ROLES: readonly Role[] = [...TENANT_ROLES, 'platform', 'service'];
