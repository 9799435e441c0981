import { readFile } from 'node:fs/promises';
import type { JWK } from 'jose';
import { toTrustFile, type WrittenEntry } from '#libs/auth/lethe-keys.ts';
import { replaceFile } from './replace-file.ts';
import { developmentProviderKey } from './sample-people.ts';

const ENTRY = 'development-provider';

/**
 * Has a trust file admit the development provider for the sample's people alone. Its issuer is another when its port is
 * taken. Every other entry stays as it is, and so does a file that is no trust file: the services say what is wrong.
 */
export async function trustProvider(
  trustFile: string,
  { issuer, keyFile }: { issuer: string; keyFile: string },
): Promise<void> {
  const { d: _, ...publicJwk } = JSON.parse(await readFile(keyFile, 'utf8')) as JWK;
  const entry: WrittenEntry = { name: ENTRY, issuer, jwks: { keys: [publicJwk] }, allow: developmentProviderKey() };
  const text = await readFile(trustFile, 'utf8');
  const entries = entriesOf(text);
  if (entries === undefined) return;
  const changed = toTrustFile([...entries.filter((each) => each?.name !== ENTRY), entry]);
  if (changed !== text) await replaceFile(trustFile, changed, 0o644);
}

function entriesOf(text: string): readonly WrittenEntry[] | undefined {
  try {
    const { trust } = JSON.parse(text);
    return Array.isArray(trust) ? trust : undefined;
  } catch {
    return undefined;
  }
}
