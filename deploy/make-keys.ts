import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeKeyPair } from '#libs/auth/keys.ts';
import { LETHE_KEYS, tenantKey, toTrustFile, type WrittenEntry } from '#libs/auth/lethe-keys.ts';
import type { Grant } from '#libs/auth/trust-file.ts';
import { isTenantId } from '#libs/kernel/id.ts';

const ISSUER = 'lethe';

/**
 * Makes a key pair for each of Lethe's signers and for each named tenant: private keys as `NAME.json`, readable for
 * their owner only, and the trust file `trust.json` with all public ones and what each may sign. For services of other
 * makers, which believe RunService or RetentionService, there are `run.jwks.json` and `retention.jwks.json`. `console-session-key` seals the console's cookies. An Error
 * when one of the files is there already: a key that is replaced unasked locks everybody out.
 */
export async function makeKeys(folder: string, tenants: readonly string[] = []): Promise<void> {
  const odd = tenants.find((tenant) => !isTenantId(tenant));
  if (odd !== undefined) throw new Error(`${odd} is no tenant's id`);
  await mkdir(folder, { recursive: true });
  const signers: [string, readonly Grant[]][] = [
    ...Object.entries(LETHE_KEYS),
    ...tenants.map((tenant): [string, readonly Grant[]] => [`tenant-${tenant}`, tenantKey(tenant)]),
  ];
  const entries: WrittenEntry[] = [];
  for (const [name, allow] of signers) {
    const { privateJwk, publicJwk } = await makeKeyPair();
    await writeFile(join(folder, `${name}.json`), JSON.stringify(privateJwk), { mode: 0o600, flag: 'wx' });
    const jwks = { keys: [publicJwk] };
    if (name === 'run' || name === 'retention')
      await writeFile(join(folder, `${name}.jwks.json`), JSON.stringify(jwks), { flag: 'wx' });
    entries.push({ name, issuer: ISSUER, jwks, allow });
  }
  const sessionKey = `${randomBytes(32).toString('base64')}\n`;
  await writeFile(join(folder, 'console-session-key'), sessionKey, { mode: 0o600, flag: 'wx' });
  await writeFile(join(folder, 'trust.json'), toTrustFile(entries), { flag: 'wx' });
}

if (import.meta.main) {
  const [folder, ...tenants] = process.argv.slice(2);
  if (folder === undefined) throw new Error('usage: node deploy/make-keys.ts FOLDER [TENANT...]');
  await makeKeys(folder, tenants);
}
