import type { ExecutionContext } from 'ava';
import { hasReason } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Run } from '#services/run/domain/run.ts';
import {
  afterAction,
  afterAttempt,
  afterCompensation,
  beginSaga,
  cancelSaga,
  end,
  nextMove,
  retrySaga,
  type Saga,
  sumRemoved,
} from '#services/run/domain/saga.ts';
import { effectId, toDeclaration } from '#services/run/domain/workflow.ts';
import type { RunKey, SagaClaim, SagaOrder, SagaRepository, SagaRun } from '#services/run/use-cases/saga-ports.ts';
import { clientToDelivery } from '#services/run/workflows/client-to-delivery/workflow.ts';
import { inputOf } from '#test/support/saga-harness.ts';
import { until } from '#test/support/test-stack.ts';

/** Declares a test, under its title. */
export type Declare = (title: string, body: (t: ExecutionContext<unknown>) => Promise<void>) => void;

const LEASE_MS = 60_000;
const HOLD = { owner: 'w', leaseMs: LEASE_MS };
const declaration = toDeclaration(clientToDelivery);

/** What the runs of client_to_delivery are kept in must do, whatever that is: the "must" sentences of SagaRepository. */
export function sagaRepositoryContract(declare: Declare, name: string, open: () => Promise<SagaRepository>): void {
  const test = (title: string, body: (t: ExecutionContext<unknown>, sagas: SagaRepository) => Promise<void>): void =>
    declare(`${name}: ${title}`, async (t) => {
      const sagas = await open();
      await sagas.keepDeclaration(declaration);
      await body(t, sagas);
    });

  test('a run begins held, or due at once for whoever comes', async (t, sagas) => {
    const held = await begin(sagas, 'acme', HOLD);
    t.like(held.run, { id: held.key.runId, tenantId: 'acme', state: 'RUNNING', displayName: 'A run' });
    t.like(held.claim?.run, { currentStep: 'brief', attempts: 0 });
    t.deepEqual(await sagas.findDue(10), []);
    t.is(await sagas.claim(held.key, 'v', LEASE_MS), undefined);
    const due = await begin(sagas, 'acme');
    t.is(due.claim, undefined);
    t.deepEqual(await sagas.findDue(10), [due.key]);
    t.deepEqual((await claimed(sagas, due.key)).run, due.given);
  });

  test('a request id begins one run, for the same request of the same tenant alone', async (t, sagas) => {
    const request = { id: newId(), fingerprint: 'one' };
    t.is(await sagas.findBegun('acme', request), undefined);
    const first = await begin(sagas, 'acme', HOLD, request);
    const again = await begin(sagas, 'acme', HOLD, request);
    t.is(again.run.id, first.key.runId);
    t.is(again.claim, undefined);
    t.is((await sagas.findBegun('acme', request))?.id, first.key.runId);
    const other = { ...request, fingerprint: 'other' };
    t.true(await isRefused(begin(sagas, 'acme', HOLD, other), 'REQUEST_ID_REUSED'));
    t.true(await isRefused(sagas.findBegun('acme', other), 'REQUEST_ID_REUSED'));
    t.is(await sagas.findBegun('umbrella', request), undefined);
    t.truthy((await begin(sagas, 'umbrella', HOLD, request)).claim);
  });

  test('a run has one worker, and is there for its tenant alone', async (t, sagas) => {
    const { key } = await begin(sagas, 'acme');
    t.is(await sagas.claim({ ...key, tenantId: 'umbrella' }, 'w', LEASE_MS), undefined);
    const claims = await Promise.all(['a', 'b', 'c'].map((owner) => sagas.claim(key, owner, LEASE_MS)));
    t.is(claims.filter((claim) => claim !== undefined).length, 1);
    t.is(
      await sagas.order({ ...orderOf(key, 'cancel'), tenantId: 'umbrella' }, (_, saga) => cancelSaga(saga)),
      undefined,
    );
    t.is(await sagas.order(orderOf({ ...key, runId: newId() }, 'cancel'), (_, saga) => saga), undefined);
  });

  test('a worker that vanishes is an attempt, and one that was only slow writes nothing any more', async (t, sagas) => {
    const { key } = await begin(sagas, 'acme');
    const slow = await claimed(sagas, key, 1);
    t.false(slow.isAfterLoss);
    await until('the lease has run out', async () => (await sagas.findDue(1)).length === 1);
    const next = await claimed(sagas, key);
    t.true(next.isAfterLoss);
    t.true(next.token > slow.token);
    t.is(next.run.attempts, 1);
    const after = done(slow.run);
    const rows = { kind: 'make', step: 'brief', effects: effectsOf(key), uses: undefined } as const;
    t.true(await isRefused(sagas.write(slow, { after, rows, hold: { kind: 'keep' } }), 'LEASE_LOST'));
    t.is(await sagas.findEffect('acme', 'onboarding_brief', briefOf(key)), undefined);
    t.deepEqual((await stored(sagas, key)).saga.steps, next.run.steps);
  });

  test('a write is there as a whole: the effects, what the step came to, and the intent of the next', async (t, sagas) => {
    const { key, claim } = await begin(sagas, 'acme', HOLD);
    if (!claim) return t.fail('the run is not held');
    const after = done(claim.run);
    const rows = { kind: 'make', step: 'brief', effects: effectsOf(key), uses: undefined } as const;
    t.deepEqual(await sagas.write(claim, { after, rows, hold: { kind: 'release', pauseMs: 0 } }), {});
    t.like(await sagas.findEffect('acme', 'onboarding_brief', briefOf(key)), { id: briefOf(key), client: 'Acme' });
    t.is(await sagas.findEffect('umbrella', 'onboarding_brief', briefOf(key)), undefined);
    t.deepEqual((await claimed(sagas, key)).run, after);
    t.true(
      await isRefused(sagas.write(claim, { after, hold: { kind: 'keep' } }), 'LEASE_LOST'),
      'it was written before',
    );
  });

  test('a run is held, or put off, as its last write said', async (t, sagas) => {
    const { key, claim } = await begin(sagas, 'acme', { ...HOLD, leaseMs: 1 });
    if (!claim) return t.fail('the run is not held');
    await sagas.write(claim, { after: claim.run, hold: { kind: 'renew', leaseMs: LEASE_MS } });
    t.is(await sagas.claim(key, 'v', LEASE_MS), undefined);
    const renewed = { ...claim, version: claim.version + 1 };
    await sagas.write(renewed, { after: claim.run, hold: { kind: 'keep' } });
    t.is(await sagas.claim(key, 'v', LEASE_MS), undefined);
    const kept = { ...claim, version: claim.version + 2 };
    await sagas.write(kept, { after: claim.run, hold: { kind: 'release', pauseMs: LEASE_MS } });
    t.is(await sagas.claim(key, 'v', LEASE_MS), undefined);
    t.deepEqual(await sagas.findDue(10), []);
    const put = await begin(sagas, 'acme', HOLD);
    if (put.claim) await sagas.write(put.claim, { after: put.claim.run, hold: { kind: 'release', pauseMs: 0 } });
    t.false((await claimed(sagas, put.key)).isAfterLoss, 'one that was given up is no loss');
  });

  test('a lease that its holder ends is a loss, and neither another’s nor that of a run given up is ended', async (t, sagas) => {
    const { key, claim } = await begin(sagas, 'acme', HOLD);
    if (!claim) return t.fail('the run is not held');
    // Its answer was lost: who wrote it does not know the version.
    await sagas.write(claim, { after: claim.run, hold: { kind: 'keep' } });
    await sagas.endLease(claim, LEASE_MS);
    t.deepEqual(await sagas.findDue(10), []);
    await sagas.endLease(claim, 0);
    const next = await claimed(sagas, key);
    t.true(next.isAfterLoss);
    await sagas.endLease(claim, 0);
    t.deepEqual(await sagas.findDue(10), [], 'it is another’s by now');
    await sagas.write(next, { after: next.run, hold: { kind: 'release', pauseMs: LEASE_MS } });
    await sagas.endLease(next, 0);
    t.deepEqual(await sagas.findDue(10), [], 'it was put off');
  });

  test('a compensation answers what it removed of each step, and leaves neither rows nor outputs nor the input', async (t, sagas) => {
    const other = await withEffects(sagas, 'acme');
    const key = await withEffects(sagas, 'acme');
    await sagas.order(orderOf(key, 'cancel'), (_, saga) => cancelSaga(saga));
    const claim = await claimed(sagas, key);
    const move = nextMove(claim.run);
    if (move.kind !== 'compensate') return t.fail('the run does not compensate');
    const after = { ...claim.run, ...afterCompensation(claim.run, move.steps, []) };
    const rows = { kind: 'remove', steps: move.steps.map((step) => step.name) } as const;
    const expected = {
      strategy: { removed: { strategy_document: 0 }, removals: [] },
      brief: { removed: { onboarding_brief: 1, onboarding_intake: 0 }, removals: [] },
    };
    t.deepEqual(await sagas.write(claim, { after, rows, hold: { kind: 'keep' } }), expected);
    t.is(await sagas.findEffect('acme', 'onboarding_brief', briefOf(key)), undefined);
    t.truthy(await sagas.findEffect('acme', 'onboarding_brief', briefOf(other)), 'it is another run’s');
    const { run, saga } = await stored(sagas, key);
    t.like(run, { state: 'CANCELLED', input: undefined });
    t.deepEqual(
      saga.steps.map(({ state, output }) => [state, output]),
      saga.steps.map(() => ['COMPENSATED', undefined]),
    );
    t.like(saga.steps[0], expected.brief);
    t.deepEqual(await sagas.findDue(10), []);
    t.is(await sagas.claim(key, 'v', LEASE_MS), undefined);
  });

  test('a step that others held something of answers what each of them removed, RunService’s own rows last', async (t, sagas) => {
    const key = await withEffects(sagas, 'acme');
    await sagas.order(orderOf(key, 'cancel'), (_, saga) => cancelSaga(saga));
    const claim = await claimed(sagas, key);
    const brief = claim.run.steps.find(({ name }) => name === 'brief');
    if (!brief) return t.fail('the run has no brief');
    const counts = (resourceType: string, n: number) => [{ resourceType, found: n, deleted: n, left: 0, bytes: 0 }];
    // A participant may call what it holds as RunService calls rows of its own.
    const told = [
      { participant: 'incident', counts: counts('onboarding_brief', 4) },
      { participant: 'job', counts: counts('transcription_job', 2) },
    ];
    const after = { ...claim.run, ...afterCompensation(claim.run, [brief], told) };
    const answer = await sagas.write(claim, {
      after,
      rows: { kind: 'remove', steps: ['brief'] },
      hold: { kind: 'keep' },
    });
    const removals = [...told, { participant: 'run', counts: counts('onboarding_brief', 1) }];
    t.deepEqual(answer['brief']?.removals, removals);
    const { saga } = await stored(sagas, key);
    t.deepEqual(saga.steps[0]?.removals, removals);
    t.deepEqual(sumRemoved(saga.steps), { onboarding_brief: 5, transcription_job: 2 });
  });

  test('a run of which nothing is there to be removed ends, with a receipt of nothing', async (t, sagas) => {
    const { key } = await begin(sagas, 'acme', undefined);
    await sagas.order(orderOf(key, 'cancel'), (_, saga) => cancelSaga({ ...saga, steps: [] }));
    const claim = await claimed(sagas, key);
    const gone = { ...claim.run, steps: claim.run.steps.map((step) => ({ ...step, state: 'COMPENSATED' as const })) };
    t.is(nextMove(gone).kind, 'end');
    t.deepEqual(await sagas.write(claim, { after: { ...gone, ...end(gone) }, hold: { kind: 'keep' } }), {});
    t.like((await stored(sagas, key)).run, { state: 'CANCELLED', input: undefined });
    t.deepEqual(await sagas.findDue(10), []);
  });

  test('an order takes the run from whoever holds it, and has it go on in the name of who gave it', async (t, sagas) => {
    const { key, claim } = await begin(sagas, 'acme', HOLD);
    if (!claim) return t.fail('the run is not held');
    const same = await sagas.order(orderOf(key, 'cancel'), (_, saga) => saga);
    t.is(same?.state, 'RUNNING');
    await sagas.write(claim, { after: claim.run, hold: { kind: 'keep' } });
    const by = { actor: 'eve', subject: 'eve@acme', trustEntry: 'partner' };
    const ordered = await sagas.order({ ...orderOf(key, 'cancel'), ...by }, (_, saga) => cancelSaga(saga));
    t.is(ordered?.state, 'COMPENSATING');
    const stale = { ...claim, version: claim.version + 1 };
    t.true(await isRefused(sagas.write(stale, { after: claim.run, hold: { kind: 'keep' } }), 'LEASE_LOST'));
    t.deepEqual(await sagas.findDue(10), [key]);
    t.like((await claimed(sagas, key)).run, { ...by, state: 'COMPENSATING', input: undefined });
  });

  test('a parked run is counted, is nobody’s work, and goes on when it is retried, for whom it did before', async (t, sagas) => {
    const { key } = await begin(sagas, 'acme');
    t.true((await sagas.oldestUnfinishedSeconds()) > 0);
    await sagas.order(orderOf(key, 'cancel'), (_, saga) => cancelSaga(saga));
    const claim = await claimed(sagas, key);
    const move = nextMove(claim.run);
    if (move.kind !== 'compensate') return t.fail('the run does not compensate');
    const after = { ...claim.run, ...afterAttempt(claim.run, move.steps[0], 'BROKEN: no.', true) };
    await sagas.write(claim, { after, hold: { kind: 'keep' } });
    t.is(await sagas.parkedCount(), 1);
    t.is(await sagas.oldestUnfinishedSeconds(), 0);
    t.deepEqual(await sagas.findDue(10), []);
    t.like((await stored(sagas, key)).saga, { state: 'FAILED', parkedReason: 'BROKEN: no.' });
    await sagas.order({ ...orderOf(key, 'retry'), actor: 'eve' }, (_, saga) => retrySaga(saga));
    t.is(await sagas.parkedCount(), 0);
    t.like((await claimed(sagas, key)).run, { state: 'COMPENSATING', attempts: 0, actor: 'ana' });
  });

  test('tenants take turns: whose runs have fewer workers comes first', async (t, sagas) => {
    for (let count = 0; count < 5; count += 1) await begin(sagas, 'large');
    const small = await begin(sagas, 'small');
    const tenantsDue = async (limit: number) => (await sagas.findDue(limit)).map(({ tenantId }) => tenantId);
    t.deepEqual(await tenantsDue(2), ['large', 'small']);
    const [first] = await sagas.findDue(1);
    if (first) await claimed(sagas, first);
    t.deepEqual(await sagas.findDue(1), [small.key]);
    t.deepEqual(await tenantsDue(3), ['small', 'large', 'large']);
  });
}

/** Begins a run of client_to_delivery. */
async function begin(
  sagas: SagaRepository,
  tenantId: string,
  hold?: typeof HOLD,
  request?: { readonly id: string; readonly fingerprint: string },
) {
  const given: SagaRun = {
    ...beginSaga({ name: 'brief', participants: [] }, inputOf()),
    tenantId,
    runId: newId(),
    workflow: clientToDelivery.name,
    declaration,
    actor: 'ana',
    subject: 'ana@acme',
    trustEntry: 'company',
  };
  const begun = await sagas.begin({ run: given, displayName: 'A run', request }, hold);
  return { ...begun, given, key: { tenantId, runId: given.runId } };
}

/** A run whose first step has left a row, and whose second has begun; it is due. */
async function withEffects(sagas: SagaRepository, tenantId: string): Promise<RunKey> {
  const { key, claim } = await begin(sagas, tenantId, HOLD);
  if (!claim) throw new Error('the run is not held');
  const rows = { kind: 'make', step: 'brief', effects: effectsOf(key), uses: undefined } as const;
  await sagas.write(claim, { after: done(claim.run), rows, hold: { kind: 'release', pauseMs: LEASE_MS } });
  return key;
}

const briefOf = ({ runId }: RunKey): string => effectId(runId, 'onboarding_brief');
const effectsOf = (key: RunKey) => ({
  onboarding_brief: [{ id: briefOf(key), ...(inputOf()['brief'] as object), tone: 'plain' }],
});

/** The run after its first step. */
function done(run: SagaRun): SagaRun {
  const [step] = run.steps;
  if (!step) throw new Error('the run has no steps');
  return { ...run, ...afterAction(run, step, { known: true }, { intent: { name: 'strategy', participants: [] } }) };
}

async function claimed(sagas: SagaRepository, key: RunKey, leaseMs = LEASE_MS): Promise<SagaClaim> {
  const claim = await sagas.claim(key, 'w', leaseMs);
  if (!claim) throw new Error('the run could not be claimed');
  return claim;
}

const orderOf = (key: RunKey, action: SagaOrder['action']): SagaOrder => ({
  ...key,
  action,
  actor: 'ana',
  subject: 'ana@acme',
  trustEntry: 'company',
  reason: undefined,
});

/** The run as it is kept, by an order that changes nothing. */
async function stored(sagas: SagaRepository, key: RunKey): Promise<{ readonly run: Run; readonly saga: Saga }> {
  const found: Saga[] = [];
  const run = await sagas.order(orderOf(key, 'cancel'), (_, saga) => {
    found.push(saga);
    return saga;
  });
  const [saga] = found;
  if (!run || !saga) throw new Error('the run is not there');
  return { run, saga };
}

async function isRefused(call: Promise<unknown>, reason: string): Promise<boolean> {
  try {
    await call;
    return false;
  } catch (error) {
    if (!hasReason(error, reason)) throw error;
    return true;
  }
}
