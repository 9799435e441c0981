import test from 'ava';
import { dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { makeMemorySagas } from '#test/support/memory-sagas.ts';
import { callerIn, inputOf, makeEngine, makeFakeParticipant } from '#test/support/saga-harness.ts';
import type { Run } from '../domain/run.ts';
import { clientToDelivery } from '../workflows/client-to-delivery/workflow.ts';
import { makeShowReferences } from './show-references.ts';

/** A completed run, as stored, and the participant that made its job. */
async function completed(): Promise<{ run: Run; job: ReturnType<typeof makeFakeParticipant> }> {
  const sagas = makeMemorySagas();
  const job = makeFakeParticipant('job');
  const engine = makeEngine(sagas, [job, makeFakeParticipant('incident')]);
  const { runId } = await engine.run(inputOf());
  const key = { tenantId: 'acme', runId };
  const order = {
    ...key,
    action: 'cancel',
    actor: 'ana',
    subject: callerIn('acme').subject,
    trustEntry: undefined,
    reason: undefined,
  } as const;
  const run = await sagas.order(order, (_, saga) => saga);
  if (!run) throw new Error('the run is not there');
  return { run, job };
}

const REFERENCE = { field: 'job_id', participant: 'job', resourceType: 'job' } as const;

test('an id of what is there is shown, and one of what was deleted is not', async (t) => {
  const { run, job } = await completed();
  const show = makeShowReferences([clientToDelivery], [job], 10);
  const before = await show(run);
  t.deepEqual(before.output, run.output);
  t.deepEqual(before.references, [{ ...REFERENCE, state: 'EXISTS' }]);
  job.effects.clear();
  const after = await show(run);
  t.deepEqual(after.references, [{ ...REFERENCE, state: 'GONE' }]);
  t.false('job_id' in (after.output ?? {}));
  t.is(after.output?.['files'], 3, 'what the run holds itself stays');
});

test('a run can be read while a participant is down or no longer configured, and says that it does not know', async (t) => {
  const { run, job } = await completed();
  const down = { ...job, holds: () => Promise.reject(dependencyUnavailable('job')) };
  for (const participants of [[down], []]) {
    const shown = await makeShowReferences([clientToDelivery], participants, 10)(run);
    t.deepEqual(shown.references, [{ ...REFERENCE, state: 'UNKNOWN' }]);
    t.deepEqual(shown.output, run.output);
  }
});

test('nobody is asked about a run that names nothing', async (t) => {
  const { run, job } = await completed();
  const never = { ...job, holds: () => Promise.reject(new Error('asked')) };
  const show = makeShowReferences([clientToDelivery], [never], 10);
  for (const other of [
    { ...run, output: undefined },
    { ...run, driver: 'CALLER' as const },
    { ...run, workflow: 'of-another-version' },
  ]) {
    t.is(await show(other), other);
  }
});
