import test from 'ava';
import { DomainError, operationInProgress } from '#libs/kernel/domain-error.ts';
import type { RunOperation, RunScope } from '#libs/participant/participant.ts';
import { stepCompensated } from '../domain/incident.ts';
import { makeParticipate } from './participate.ts';
import type { EndingCounts, Refusal, RunIncidents, StepAction, StepActions } from './ports.ts';

const SCOPE: RunScope = { tenantId: 'acme', runId: '01890000-0000-7000-8000-00000000000a', step: undefined };
const OPERATION: RunOperation = {
  operationId: '01890000-0000-7000-8000-00000000000b',
  part: 'incident',
  caller: { actor: 'ada', subject: 'service:run' },
  reason: 'asked for',
};
const ACTION: Omit<StepAction, 'fingerprint'> = {
  tenantId: 'acme',
  runId: SCOPE.runId,
  step: 'check',
  actor: 'ada',
  environmentId: '01890000-0000-7000-8000-00000000000c',
  driftCheckId: undefined,
  title: 'drift',
  payload: { a: 1 },
};

/** A run with so many payloads; what the fake was asked for, in order. */
function fixture({ payloads = 0, isPurged = false, refusal = undefined as Error | undefined } = {}) {
  const calls: string[] = [];
  const told: [string, Partial<EndingCounts>][] = [];
  const refused: Refusal[] = [];
  const prints: string[] = [];
  let left = payloads;
  const counts = (n: number): EndingCounts => ({ incidents: 0, payloads: n, payloadBytes: 10 * n });
  const touch = async () => {
    if (isPurged) throw operationInProgress('a purge');
    return { incidents: 3, isNew: true };
  };
  const runIncidents: RunIncidents = {
    inspect: async () => ({ ...counts(left), sampleIds: [] }),
    hide: touch,
    restore: touch,
    async forbid() {
      calls.push('forbid');
    },
    async endBatch(_, __, limit) {
      const ended = Math.min(limit, left);
      calls.push(`end ${limit}`);
      left -= ended;
      return { ended, isDone: left === 0, sums: counts(payloads - left), isNew: left === 0 && ended > 0 };
    },
  };
  const stepActions: StepActions = {
    async open({ fingerprint }) {
      prints.push(fingerprint);
      if (refusal) throw refusal;
      return { incidentId: 'i', hasPayload: true };
    },
  };
  const audit = { record: async (one: Refusal) => void refused.push(one) };
  const participate = makeParticipate(runIncidents, stepActions, audit, (action, _, __, sums) =>
    told.push([action, sums]),
  );
  return { participate, calls, told, refused, prints };
}

test('later incidents are forbidden before the first payload goes, also where there is none', async (t) => {
  const { participate, calls, told } = fixture();
  t.like(await participate.purge(SCOPE, OPERATION, 10_000), { progress: 'COMPLETE', sums: { payloads: 0 } });
  t.deepEqual(calls, ['forbid', 'end 500']);
  t.deepEqual(told, [], 'what took nothing is told to nobody');
});

test('a purge goes on in batches of 500 until nothing is left, and is told once', async (t) => {
  const { participate, calls, told } = fixture({ payloads: 1_100 });
  const answer = await participate.purge(SCOPE, OPERATION, 10_000);
  t.like(answer, { progress: 'COMPLETE', sums: { payloads: 1_100, payloadBytes: 11_000 }, left: { payloads: 0 } });
  t.deepEqual(calls, ['forbid', 'end 500', 'end 500', 'end 500']);
  t.deepEqual(told, [['purge', { incidents: 0, payloads: 1_100, payloadBytes: 11_000 }]]);
});

test('the limit is never exceeded, and what is left then is told as PARTIAL', async (t) => {
  const { participate, calls, told } = fixture({ payloads: 1_100 });
  const answer = await participate.purge(SCOPE, OPERATION, 700);
  t.like(answer, { progress: 'PARTIAL', sums: { payloads: 700 }, left: { payloads: 400 } });
  t.deepEqual(calls, ['forbid', 'end 500', 'end 200']);
  t.deepEqual(told, []);
});

test('what names nothing that is there can never succeed; any other refusal stays what it is', async (t) => {
  const gone = new DomainError('not-found', 'ENVIRONMENT_NOT_FOUND', 'Environment not found.');
  const refused = await t.throwsAsync(fixture({ refusal: gone }).participate.execute(ACTION));
  t.like(refused, { kind: 'failed-precondition', reason: 'ACTION_REFUSED', message: 'Environment not found.' });
  const late = stepCompensated(SCOPE.runId, 'check');
  t.is(await t.throwsAsync(fixture({ refusal: late }).participate.execute(ACTION)), late);
  const broken = new Error('no database');
  t.is(await t.throwsAsync(fixture({ refusal: broken }).participate.execute(ACTION)), broken);
});

test('the key stands for the input, whoever acts', async (t) => {
  const { participate, prints } = fixture();
  await participate.execute(ACTION);
  await participate.execute({ ...ACTION, actor: 'bob' });
  await participate.execute({ ...ACTION, payload: { a: 2 } });
  await participate.execute({ ...ACTION, title: 'other' });
  t.is(prints[0], prints[1]);
  t.is(new Set(prints).size, 3);
});

test('what is hidden and brought back is told, and what a purge forbids is in the audit', async (t) => {
  const open = fixture();
  t.is(await open.participate.softDelete(SCOPE, OPERATION), 3);
  t.is(await open.participate.restore(SCOPE, OPERATION, OPERATION.operationId), 3);
  t.deepEqual(open.told, [
    ['soft-delete', { incidents: 3 }],
    ['undelete', { incidents: 3 }],
  ]);
  const purged = fixture({ isPurged: true });
  for (const call of [
    purged.participate.softDelete(SCOPE, OPERATION),
    purged.participate.restore(SCOPE, OPERATION, OPERATION.operationId),
  ]) {
    t.like(await t.throwsAsync(call), { reason: 'OPERATION_IN_PROGRESS' });
  }
  t.deepEqual(
    purged.refused.map(({ action, outcome }) => [action, outcome]),
    [
      ['soft-delete', 'OPERATION_IN_PROGRESS'],
      ['undelete', 'OPERATION_IN_PROGRESS'],
    ],
  );
  t.deepEqual(purged.told, []);
});
