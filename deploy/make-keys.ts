import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeKeyPair } from '#libs/auth/keys.ts';

/** Who signs tokens in a cluster: the services that call others, the nightly purge, the weekly report, and the operators. */
const SIGNERS = ['run', 'retention', 'retention-purge', 'orphan-report', 'operator'] as const;

/**
 * Makes a key pair for each signer: private keys as `NAME.json`, readable for their owner only, and all public ones
 * in `jwks.json`. An Error when one of them is there already: a key that is replaced unasked locks everybody out.
 */
export async function makeKeys(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const keys = [];
  for (const name of SIGNERS) {
    const { privateJwk, publicJwk } = await makeKeyPair();
    await writeFile(join(folder, `${name}.json`), JSON.stringify(privateJwk), { mode: 0o600, flag: 'wx' });
    keys.push(publicJwk);
  }
  await writeFile(join(folder, 'jwks.json'), JSON.stringify({ keys }), { flag: 'wx' });
}

if (import.meta.main) {
  const [folder] = process.argv.slice(2);
  if (folder === undefined) throw new Error('usage: node deploy/make-keys.ts FOLDER');
  await makeKeys(folder);
}
