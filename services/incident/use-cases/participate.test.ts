import test from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { stepCompensated } from '#libs/participant/errors.ts';
import { makeOpenForStep } from './participate.ts';
import type { StepAction } from './ports.ts';

const ACTION: Omit<StepAction, 'fingerprint'> = {
  tenantId: 'acme',
  runId: '01890000-0000-7000-8000-00000000000a',
  step: 'check',
  actor: 'ada',
  environmentId: '01890000-0000-7000-8000-00000000000c',
  driftCheckId: undefined,
  title: 'drift',
  payload: { a: 1 },
};

/** The fingerprints that were remembered, in order. */
function fixture({ refusal = undefined as Error | undefined } = {}) {
  const prints: string[] = [];
  const open = makeOpenForStep({
    async open({ fingerprint }) {
      prints.push(fingerprint);
      if (refusal) throw refusal;
      return { incidentId: 'i', hasPayload: true };
    },
  });
  return { open, prints };
}

test('what names nothing that is there can never succeed; any other refusal stays what it is', async (t) => {
  const gone = new DomainError('not-found', 'ENVIRONMENT_NOT_FOUND', 'Environment not found.');
  const refused = await t.throwsAsync(fixture({ refusal: gone }).open(ACTION));
  t.like(refused, { kind: 'failed-precondition', reason: 'ACTION_REFUSED', message: 'Environment not found.' });
  const late = stepCompensated(ACTION.runId, 'check');
  t.is(await t.throwsAsync(fixture({ refusal: late }).open(ACTION)), late);
  const broken = new Error('no database');
  t.is(await t.throwsAsync(fixture({ refusal: broken }).open(ACTION)), broken);
});

test('the key stands for the input, whoever acts', async (t) => {
  const { open, prints } = fixture();
  await open(ACTION);
  await open({ ...ACTION, actor: 'bob' });
  await open({ ...ACTION, payload: { a: 2 } });
  await open({ ...ACTION, title: 'other' });
  t.is(prints[0], prints[1]);
  t.is(new Set(prints).size, 3);
});
