import { execFile } from 'node:child_process';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { openOwner } from '#test/support/owner-clients.ts';
import { startTestStack } from '#test/support/test-stack.ts';
import { type OwnerUnderTest, ownerContract } from './owner.ts';

// The suite for an owner of somebody else's, told by the environment where it is and how to make rows in it:
//
//   LETHE_OWNER_ADDRESS  host:port
//   LETHE_OWNER_NAME     its name in LETHE_RETENTION_OWNERS, which is in the audience of its tokens
//   LETHE_OWNER_KEY      a private JWK whose public half is in the key set that the owner believes
//   LETHE_OWNER_SEEDER   a module that exports what OwnerUnderTest has, but for `client`
//
// Told nothing, it is run so against IncidentService, to see that this entry works.

/** What a module named by LETHE_OWNER_SEEDER exports. */
type Seeder = Omit<OwnerUnderTest, 'client'>;

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const { env } = process;

function setting(name: string): string {
  const value = env[name];
  if (!value) throw new Error(`${name} is required; see the head of test/contract/owner-foreign.test.ts`);
  return value;
}

async function declareForForeign(): Promise<void> {
  const access = await openOwner({
    address: setting('LETHE_OWNER_ADDRESS'),
    name: setting('LETHE_OWNER_NAME'),
    keyFile: setting('LETHE_OWNER_KEY'),
    issuer: env['LETHE_JWT_ISSUER'] ?? 'lethe',
  });
  test.after.always(() => access.close());
  const seeder: Seeder = await import(pathToFileURL(resolve(setting('LETHE_OWNER_SEEDER'))).href);
  ownerContract(test, 'foreign owner', () => ({ ...seeder, client: access.client }));
}

if (env['LETHE_OWNER_ADDRESS'] !== undefined) await declareForForeign();
else {
  test('an owner that is known by its address alone is held to the contract', async (t) => {
    const stack = await startTestStack({ services: ['incident'] });
    t.teardown(() => stack.dispose());
    // One of the suite's tests: all of them are run against IncidentService in a file of their own.
    const args = ['ava', 'test/contract/owner-foreign.test.ts', '--match=*a purge takes as many rows as were counted*'];
    const { stdout } = await promisify(execFile)('npx', args, {
      cwd: REPOSITORY,
      env: {
        ...env,
        LETHE_OWNER_ADDRESS: stack.addresses.incident,
        LETHE_OWNER_NAME: 'incident',
        LETHE_OWNER_KEY: stack.suiteKeyFile,
        LETHE_OWNER_SEEDER: 'test/support/drift-check-seeder.ts',
        LETHE_SEEDER_DATABASE_URL: stack.superuserUrl('incident'),
      },
    });
    t.regex(stdout, /foreign owner: a purge takes as many rows as were counted/);
    t.regex(stdout, /1 test passed/);
  });
}
