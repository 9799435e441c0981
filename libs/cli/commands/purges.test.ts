import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { PurgeState, RetentionPurgeSchema } from '#gen/lethe/retention/v1/retention_pb.ts';
import { EXIT } from '../output.ts';
import { exitOfPurge } from './purges.ts';

const { COMPLETE, PARTIAL, HELD } = PurgeState;

for (const [what, purge, exit] of [
  ['complete', { state: COMPLETE, completeTenantCount: 2 }, EXIT.ok],
  ['held as a whole', { state: HELD }, EXIT.held],
  ['one tenant held, the others complete', { state: PARTIAL, heldTenantCount: 1, completeTenantCount: 1 }, EXIT.held],
  ['one tenant held, one failed', { state: PARTIAL, heldTenantCount: 1, failedTenantCount: 1 }, EXIT.partial],
  [
    'one tenant held, one left to a purge that failed it',
    { state: PARTIAL, heldTenantCount: 1, skippedTenantCount: 1, skippedFailedTenantCount: 1 },
    EXIT.partial,
  ],
  [
    'one tenant held, one left to a purge that completed it',
    { state: PARTIAL, heldTenantCount: 1, skippedTenantCount: 1 },
    EXIT.held,
  ],
  ['one tenant failed', { state: PARTIAL, failedTenantCount: 1 }, EXIT.partial],
  ['one tenant left to a purge that did not finish it', { state: PARTIAL, skippedTenantCount: 1 }, EXIT.partial],
] as const) {
  test(`a purge that ended ${what} exits with ${exit}`, (t) => {
    t.is(exitOfPurge(create(RetentionPurgeSchema, purge)), exit);
  });
}

test('a purge whose end was never told has failed', (t) => t.is(exitOfPurge(undefined), EXIT.failed));
