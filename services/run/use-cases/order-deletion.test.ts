import test from 'ava';
import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import type { Blocker } from '#libs/participant/participant.ts';
import type { Deletion, DeletionMode } from '../domain/deletion.ts';
import { participantChanged } from '../domain/errors.ts';
import type { DeletionOrders, Participant, ParticipantPreview, PreviewOptions } from './deletion-ports.ts';
import { makeOrderDeletion } from './order-deletion.ts';
import type { RunRepository } from './ports.ts';

const PENDING_JOB: Blocker = {
  reason: 'JOB_NOT_TERMINAL',
  resourceType: 'job',
  resourceId: 'j',
  message: 'The job is PENDING.',
};

/** Participants that answer what they are given, or throw it; and with what options each was asked. */
function fixture(answers: Readonly<Record<string, Partial<ParticipantPreview> | Error>>) {
  const asked: PreviewOptions[] = [];
  let begun = 0;
  const participants = Object.entries(answers).map(([name, answer]) => ({
    name,
    async preview(_: unknown, options: PreviewOptions) {
      asked.push(options);
      if (answer instanceof Error) throw answer;
      return { counts: [], blockers: [], samples: [], ...answer };
    },
  }));
  const deletions = {
    async begin(_order: unknown, _check: unknown, checkOnly: boolean) {
      if (checkOnly) return { checked: { participants: Object.keys(answers), undoes: undefined, now: undefined } };
      begun += 1;
      return { deletion: { id: 'd' } as Deletion };
    },
    recordRefusal: async () => undefined,
  };
  const order = makeOrderDeletion(
    { get: async () => undefined } as unknown as RunRepository,
    deletions as unknown as DeletionOrders,
    participants as unknown as readonly Participant[],
    { minPurgeAgeHours: 0 },
    () => undefined,
    () => undefined,
  );
  const orderAs = (mode: DeletionMode, more: { readonly validateOnly?: boolean; readonly signal?: AbortSignal } = {}) =>
    order({
      caller: { subject: 'ana', actor: 'ana', kind: 'user', role: 'admin', tenantId: 'acme' } as Caller,
      runId: 'r',
      mode,
      reason: 'asked for',
      requestId: undefined,
      etag: '',
      allowMissing: false,
      validateOnly: false,
      force: false,
      ...more,
    });
  return { asked, orderAs, begun: () => begun };
}

const DOWN = dependencyUnavailable('notes');

for (const mode of ['SOFT_DELETE', 'PURGE'] as const) {
  test(`${mode}: a participant that does not answer hides no blocker of another`, async (t) => {
    for (const answers of [
      { notes: DOWN, job: { blockers: [PENDING_JOB] } },
      { job: { blockers: [PENDING_JOB] }, notes: DOWN },
    ]) {
      const { orderAs, begun } = fixture(answers);
      await t.throwsAsync(orderAs(mode), { instanceOf: DomainError, message: PENDING_JOB.message });
      t.is(begun(), 0);
    }
  });

  test(`${mode}: a participant that does not answer hides no refusal of another`, async (t) => {
    const { orderAs, begun } = fixture({ notes: DOWN, job: participantChanged('job') });
    t.like(await t.throwsAsync(orderAs(mode)), { reason: 'PARTICIPANT_CHANGED' });
    t.is(begun(), 0);
  });
}

test('a soft delete waits for whoever does not answer, and a purge that nobody could check does not begin', async (t) => {
  const { orderAs, begun } = fixture({ job: {}, notes: DOWN });
  t.like(await t.throwsAsync(orderAs('PURGE')), { reason: 'DEPENDENCY_UNAVAILABLE' });
  t.is(begun(), 0);
  await orderAs('SOFT_DELETE');
  t.is(begun(), 1);
});

test('counts are asked for only where they are told, and what is only checked ends with its caller', async (t) => {
  const { signal } = new AbortController();
  const optionsOf = async (mode: DeletionMode, validateOnly: boolean) => {
    const { orderAs, asked } = fixture({ job: {} });
    await orderAs(mode, { validateOnly, signal });
    return asked;
  };
  t.deepEqual(await optionsOf('PURGE', true), [{ blockersOnly: false, signal }]);
  t.deepEqual(await optionsOf('SOFT_DELETE', true), [{ blockersOnly: true, signal }]);
  for (const mode of ['PURGE', 'SOFT_DELETE'] as const)
    t.deepEqual(await optionsOf(mode, false), [{ blockersOnly: true }], mode);
});
