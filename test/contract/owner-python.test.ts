import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { makeKeyPair, readSigningKey } from '#libs/auth/keys.ts';
import { makeOwnerCredential, type OwnerCall } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { FOREIGN_OWNER_NEEDS, hasForeignOwner, startForeignOwner } from '#test/support/foreign-owner.ts';
import { testIfFound } from '#test/support/require.ts';
import { refusalOf } from '#test/support/test-stack.ts';

const testForeign = (title: string, body: Parameters<typeof testIfFound>[4]): void =>
  testIfFound(test, hasForeignOwner(), FOREIGN_OWNER_NEEDS, title, body);

const DAY_HOURS = 24;

testForeign('an owner in Python counts what it purges, also where it is killed on the way', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-owner-python-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const { privateJwk, publicJwk } = await makeKeyPair();
  const jwks = join(folder, 'jwks.json');
  await writeFile(jwks, JSON.stringify({ keys: [publicJwk] }));
  await writeFile(join(folder, 'key.json'), JSON.stringify(privateJwk));
  const key = await readSigningKey(join(folder, 'key.json'));
  const owner = await startForeignOwner({ jwks, name: 'mail' });
  t.teardown(() => owner.stop());
  const connection = connect({ address: owner.address, token: async () => 'no token' });
  t.teardown(() => connection.close());
  const credential = makeOwnerCredential({ key, issuer: 'lethe', audience: 'lethe' }, 'retention');
  const clientWith = (call: Omit<OwnerCall, 'owner' | 'actor'>) =>
    connection.client(RetentionOwnerService, () => credential({ owner: 'mail', actor: 'system:retention', ...call }));

  const [tenant, subject, operationId] = ['acme', 'messages', randomUUID()];
  const now = Temporal.Now.instant();
  const old = now.subtract({ hours: DAY_HOURS * 10 });
  const dated = Array.from({ length: 3_000 }, (_, n) => ({
    sentAt: old.subtract({ microseconds: n }),
    id: `old-${n}`,
    attachments: n % 2,
  }));
  const kept = [
    { sentAt: now, id: 'new' },
    { sentAt: null, id: 'unsent' },
  ];
  owner.store.insert(tenant, [...dated, ...kept]);
  owner.store.insert('zeta', dated);

  const rule = { subject, retentionDays: 5, latestCutoffTime: toTimestamp(now), minToKeep: 21n };
  const counting = clientWith({ scope: 'owner:count', tenantId: tenant, subject });
  const counted = await counting.count({ rule, upTo: 1_000_000n });
  t.like(counted, { expiredCount: 2_980n, remainingCount: 22n, undatedCount: 1n, progress: Progress.COMPLETE });

  const purging = clientWith({ scope: 'owner:purge', tenantId: tenant, subject, operationId });
  const request = { operationId, rule, limit: 1_000 };
  t.is((await purging.purge(request)).progress, Progress.PARTIAL);
  await owner.kill();
  let answer = await purging.purge(request);
  while (answer.progress === Progress.PARTIAL) answer = await purging.purge(request);
  const sums = { resourceType: 'message', found: 2_980n, deleted: 2_980n, left: 0n };
  t.like(answer.resourceCounts[0], sums);
  t.like((await purging.end({ operationId, subject })).resourceCounts[0], sums);
  t.is((await refusalOf(purging.purge(request))).reason, 'OPERATION_ENDED');

  t.is(owner.store.ids(tenant).length, 22);
  t.is(owner.store.ids('zeta').length, 3_000);
  t.is(answer.resourceCounts[1]?.deleted, BigInt(1_500 - owner.store.attachments(tenant)));
});
