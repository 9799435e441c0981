import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { exportJWK, generateKeyPair } from 'jose';
import { parseTrustFile } from '#libs/auth/trust-file.ts';
import { SAMPLE_PEOPLE } from './sample-people.ts';
import { trustProvider } from './trust-provider.ts';

test('a trust file of before gets the development provider, and keeps the entries that were added by hand', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-trust-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const trustFile = join(folder, 'trust.json');
  const keyFile = join(folder, 'provider.private.json');
  const { privateKey } = await generateKeyPair('ES256', { extractable: true });
  await writeFile(keyFile, JSON.stringify({ ...(await exportJWK(privateKey)), kid: 'p', alg: 'ES256' }));
  const byHand = {
    name: 'ours',
    issuer: 'https://id.example.com',
    jwks_url: 'https://id.example.com/jwks',
    claims: { tenant: 'org_id' },
    allow: [
      {
        roles: ['viewer'],
        scopes: ['*'],
        audiences: ['lethe'],
        tenants: ['acme'],
        subjects: ['*'],
        max_lifetime_seconds: 60,
      },
    ],
  };
  await writeFile(trustFile, JSON.stringify({ trust: [byHand] }));
  const read = async () => JSON.parse(await readFile(trustFile, 'utf8')).trust;

  await trustProvider(trustFile, { issuer: 'http://127.0.0.1:7406', keyFile });
  await trustProvider(trustFile, { issuer: 'http://127.0.0.1:17406', keyFile });
  const [first, ...others] = await read();
  t.deepEqual(first, byHand);
  t.is(others.length, 1);
  t.is(others[0].issuer, 'http://127.0.0.1:17406', 'the port of the last start');
  t.is(others[0].jwks.keys[0].d, undefined);
  const [, parsed] = parseTrustFile(trustFile, await readFile(trustFile, 'utf8'));
  const tenants = new Set(SAMPLE_PEOPLE.map(({ tenantId }) => tenantId));
  for (const { tenants: allowed, subjects } of parsed?.allow ?? []) {
    t.true(
      allowed === undefined ? subjects.join() === 'operator@platform' : allowed.every((each) => tenants.has(each)),
    );
  }

  await writeFile(trustFile, '{ "trust": [');
  await trustProvider(trustFile, { issuer: 'http://127.0.0.1:7406', keyFile });
  t.is(await readFile(trustFile, 'utf8'), '{ "trust": [', 'a broken file is for its owner to mend');
});
