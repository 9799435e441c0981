import test from 'ava';
import { operationInProgress } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { goneCount, leftCount } from './counts.ts';
import { makeParticipant } from './make-participant.ts';
import type { Look, RunOperation, RunScope } from './participant.ts';

const SCOPE: RunScope = { tenantId: 'acme', runId: '01890000-0000-7000-8000-00000000000a', step: undefined };
const OPERATION: RunOperation = {
  operationId: '01890000-0000-7000-8000-00000000000b',
  part: 'notes',
  caller: { actor: 'ada', subject: 'service:run' },
  reason: 'asked for',
};

/** A run with so many notes; what its rows were asked for, in order. */
function fixture({ notes = 0, isPurged = false, seenAtOnce = Number.POSITIVE_INFINITY } = {}) {
  const calls: string[] = [];
  const told: [string, readonly ResourceCount[]][] = [];
  const refused: [string, string][] = [];
  let left = notes;
  const touch = async () => {
    if (isPurged) throw operationInProgress('a purge');
    return { counts: [goneCount('note', 3)], isNew: true };
  };
  const looks: (Look | undefined)[] = [];
  const inventory = async (_: RunScope, look?: Look) => {
    looks.push(look);
    const seen = Math.min(left, seenAtOnce);
    return { counts: [leftCount('note', seen, 10 * seen)], samples: [], cursor: seen < left ? 'here' : undefined };
  };
  const participant = makeParticipant({
    rows: {
      hide: touch,
      restore: touch,
      preview: inventory,
      left: inventory,
      async forbid() {
        calls.push('forbid');
      },
      async removeBatch(_, __, limit) {
        const removed = Math.min(limit, left);
        calls.push(`remove ${limit}`);
        left -= removed;
        const counts = [goneCount('note', notes - left, 10 * (notes - left))];
        return { counts, removed, isDone: left === 0, isNew: left === 0 && removed > 0 };
      },
    },
    rowsPerBatch: 500,
    onTouched: (deed, _, __, counts) => told.push([deed, counts]),
    onRefused: async (deed, _, __, reason) => void refused.push([deed, reason]),
  });
  return { participant, calls, looks, told, refused };
}

test('what comes later is forbidden before the first row goes, also where there is none', async (t) => {
  const { participant, calls, told } = fixture();
  t.like(await participant.purge(SCOPE, OPERATION, 10_000), { progress: 'COMPLETE', counts: [] });
  t.deepEqual(calls, ['forbid', 'remove 500']);
  t.deepEqual(told, [], 'what took nothing is told to nobody');
});

test('a purge goes on batch by batch until nothing is left, and is told once', async (t) => {
  const { participant, calls, told } = fixture({ notes: 1_100 });
  const counts = [goneCount('note', 1_100, 11_000)];
  t.like(await participant.purge(SCOPE, OPERATION, 10_000), { progress: 'COMPLETE', counts });
  t.deepEqual(calls, ['forbid', 'remove 500', 'remove 500', 'remove 500']);
  t.deepEqual(told, [['purge', counts]]);
});

test('the limit is never exceeded, and what is left then is told as PARTIAL', async (t) => {
  const { participant, calls, told } = fixture({ notes: 1_100 });
  const counts = [{ resourceType: 'note', found: 1_100, deleted: 700, left: 400, bytes: 11_000 }];
  t.like(await participant.purge(SCOPE, OPERATION, 700), { progress: 'PARTIAL', counts });
  t.deepEqual(calls, ['forbid', 'remove 500', 'remove 200']);
  t.deepEqual(told, []);
});

test('a PARTIAL answer looks at what is left for a moment, and says so where that was not all of it', async (t) => {
  const { participant, looks } = fixture({ notes: 1_100, seenAtOnce: 300 });
  const counts = [{ resourceType: 'note', found: 800, deleted: 500, left: 300, bytes: 8_000, atLeast: true }];
  t.like(await participant.purge(SCOPE, OPERATION, 500), { progress: 'PARTIAL', counts });
  t.true(looks.length === 1 && (looks[0]?.budgetMs ?? Number.POSITIVE_INFINITY) < 5_000);
  const look = { budgetMs: 1, cursor: 'here' };
  await participant.verify(SCOPE, false, look);
  await participant.preview(SCOPE, look);
  t.deepEqual(looks.slice(1), [look, look], 'whoever looks says for how long, and from where on');
});

test('what is hidden and brought back is told, and what a purge forbids is written down', async (t) => {
  const open = fixture();
  const three = [goneCount('note', 3)];
  t.deepEqual(await open.participant.softDelete(SCOPE, OPERATION), three);
  t.deepEqual(await open.participant.restore(SCOPE, OPERATION, OPERATION.operationId), three);
  t.deepEqual(open.told, [
    ['soft-delete', three],
    ['undelete', three],
  ]);
  const purged = fixture({ isPurged: true });
  for (const call of [
    purged.participant.softDelete(SCOPE, OPERATION),
    purged.participant.restore(SCOPE, OPERATION, OPERATION.operationId),
  ]) {
    t.like(await t.throwsAsync(call), { reason: 'OPERATION_IN_PROGRESS' });
  }
  t.deepEqual(purged.refused, [
    ['soft-delete', 'OPERATION_IN_PROGRESS'],
    ['undelete', 'OPERATION_IN_PROGRESS'],
  ]);
  t.deepEqual(purged.told, []);
});
