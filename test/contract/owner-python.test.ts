import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { makeKeyPair } from '#libs/auth/keys.ts';
import {
  FOREIGN_OWNER_NEEDS,
  type ForeignOwner,
  hasForeignOwner,
  startForeignOwner,
} from '#test/support/foreign-owner.ts';
import { type OwnerAccess, openOwner } from '#test/support/owner-clients.ts';
import { testIfFound } from '#test/support/require.ts';
import { type Declare, ownerContract } from './owner.ts';

const NAME = 'mail';
const isFound = hasForeignOwner();

let folder: string;
let owner: ForeignOwner | undefined;
let access: OwnerAccess | undefined;

test.before(async () => {
  if (!isFound) return;
  folder = await mkdtemp(join(tmpdir(), 'lethe-owner-python-'));
  const { privateJwk, publicJwk } = await makeKeyPair();
  const [jwks, keyFile] = [join(folder, 'jwks.json'), join(folder, 'key.json')];
  await writeFile(jwks, JSON.stringify({ keys: [publicJwk] }));
  await writeFile(keyFile, JSON.stringify(privateJwk));
  owner = await startForeignOwner({ jwks, name: NAME });
  access = await openOwner({ address: owner.address, name: NAME, keyFile });
});

test.after.always(async () => {
  access?.close();
  await owner?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

// One after the other, since one of them kills the owner.
const declare: Declare = (title, body) => testIfFound(test.serial, isFound, FOREIGN_OWNER_NEEDS, title, body);
let messages = 0;

ownerContract(declare, 'an owner in Python', () => ({
  subject: 'messages',
  // As many as it takes to be met at work.
  bulk: 20_000,
  client(token) {
    if (!access) throw new Error('the owner was not started');
    return access.client(token);
  },
  async seed(tenantId, rows) {
    const named = rows.map(({ age }) => ({ sentAt: age, id: `message-${++messages}`, attachments: 2 }));
    owner?.store.insert(tenantId, named);
  },
  async left(tenantId) {
    return {
      ages: owner?.store.instants(tenantId) ?? [],
      dependents: owner?.store.attachments(tenantId) ?? 0,
    };
  },
  armCrash: async () => owner?.killAfterNextBatch() ?? (async () => false),
}));
