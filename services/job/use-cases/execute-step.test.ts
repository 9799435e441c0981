import test from 'ava';
import { DomainError, operationInProgress } from '#libs/kernel/domain-error.ts';
import { stepCompensated } from '#libs/participant/errors.ts';
import { actionRefused, jobNotFound, leaseLost } from '../domain/errors.ts';
import type { CreateJobAction, StepOutcome } from '../domain/step-action.ts';
import { makeExecuteStep } from './execute-step.ts';
import { artifactOf, JOB, jobIn, NOW, partOf } from './fakes.fixture.ts';
import type { ArtifactIndex, StepAction, StepActions } from './ports.ts';
import type { StoreArtifact } from './store-artifact.ts';

const RUN = '01890000-0000-7000-8000-00000000000a';
const asset = (name: string, text = name) => ({ name, contentType: 'text/plain', content: Buffer.from(text) });
const ACTION: CreateJobAction = {
  displayName: 'Draft',
  taskNames: ['write'],
  assets: [asset('a'), asset('b')],
  state: 'COMPLETED',
};

/** A step's action; `stored` is what an earlier call has stored, `refusals` what the next puts meet, in order. */
function fixture({ stored = [] as string[], refusals = [] as (Error | undefined)[], isNew = false } = {}) {
  const there = new Set(stored);
  const puts: string[] = [];
  const begunUploads: (string | undefined)[] = [];
  const begun: StepAction[] = [];
  const finished: string[] = [];
  let slept = 0;
  const world: { outcome: StepOutcome | undefined; refusal: Error | undefined } = {
    outcome: undefined,
    refusal: undefined,
  };
  const actions: StepActions = {
    async begin(action) {
      if (world.refusal) throw world.refusal;
      begun.push(action);
      return { jobId: JOB, outcome: world.outcome, isNew };
    },
    async finish(_, change, outcome) {
      finished.push(change(jobIn('PENDING', { tasks: [] }), NOW).state);
      return outcome;
    },
  };
  const artifacts = partOf<ArtifactIndex>({
    get: async (_, jobId, kind, name) => (there.has(name) ? artifactOf({ jobId, kind, name }) : undefined),
  });
  const storeArtifact: StoreArtifact = async ({ jobId, kind, name, contentType, begunUploadId, check }) => {
    check(jobIn('PENDING'), NOW);
    begunUploads.push(begunUploadId);
    const refusal = refusals.shift();
    if (refusal) throw refusal;
    puts.push(`${kind}/${name}`);
    there.add(name);
    return artifactOf({ jobId, kind, name, contentType });
  };
  const executeStep = makeExecuteStep(actions, artifacts, storeArtifact, 10, 1_000, async (ms) => {
    slept += ms;
  });
  const execute = (action = ACTION) =>
    executeStep({ tenantId: 'acme', runId: RUN, step: 'draft', action, signal: new AbortController().signal });
  return { execute, puts, begun, begunUploads, finished, world, slept: () => slept };
}

const reasonOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'OK',
    (error) => (error instanceof DomainError ? error.reason : String(error)),
  );

test('the assets are stored as output, then the job is finished, and the outcome tells of both', async (t) => {
  const { execute, puts, finished } = fixture();
  t.deepEqual(await execute(), {
    jobId: JOB,
    state: 'COMPLETED',
    tasks: 1,
    assets: [
      { name: 'a', bytes: 1 },
      { name: 'b', bytes: 1 },
    ],
  });
  t.deepEqual([puts, finished], [['OUTPUT/a', 'OUTPUT/b'], ['COMPLETED']]);
});

test('a job for a worker is left PENDING', async (t) => {
  const { execute, finished } = fixture();
  t.like(await execute({ ...ACTION, state: 'PENDING' }), { state: 'PENDING' });
  t.deepEqual(finished, ['PENDING']);
});

test('a repetition stores only what is not there, and one that comes after the end stores nothing', async (t) => {
  const half = fixture({ stored: ['a'] });
  await half.execute();
  t.deepEqual(half.puts, ['OUTPUT/b']);
  const done = fixture();
  done.world.outcome = { jobId: JOB, state: 'COMPLETED', tasks: 9, assets: [] };
  t.is((await done.execute())?.tasks, 9);
  t.deepEqual([done.puts, done.finished], [[], []]);
});

test('a new job has its uploads under way, and one whose upload was lost begins another', async (t) => {
  const { execute, puts, begun, begunUploads } = fixture({ isNew: true, refusals: [leaseLost()] });
  await execute();
  const [a, b] = begun[0]?.uploads ?? [];
  t.deepEqual(begunUploads, [a?.uploadId, b?.uploadId, undefined]);
  t.deepEqual(puts.toSorted(), ['OUTPUT/a', 'OUTPUT/b']);
});

test('the fingerprint is of the whole input', async (t) => {
  const { execute, begun } = fixture();
  const others: CreateJobAction[] = [
    { ...ACTION, displayName: 'x' },
    { ...ACTION, taskNames: [] },
    { ...ACTION, state: 'PENDING' },
    { ...ACTION, assets: [asset('a'), asset('b', 'c')] },
    { ...ACTION, assets: [asset('a')] },
  ];
  for (const action of [ACTION, { ...ACTION }, ...others]) await execute(action);
  const prints = begun.map(({ fingerprint }) => fingerprint);
  t.is(prints[0], prints[1]);
  t.is(new Set(prints).size, 1 + others.length);
});

test('an upload that another call has under way is waited for, and then it is done', async (t) => {
  const { execute, puts, slept } = fixture({ refusals: [operationInProgress('u'), operationInProgress('u')] });
  t.truthy(await execute());
  t.deepEqual(puts, ['OUTPUT/a', 'OUTPUT/b']);
  t.is(slept(), 100);
});

test('what another call has under way for longer than a call may last is not done yet', async (t) => {
  const { execute, finished, slept } = fixture({ refusals: Array(1_000).fill(operationInProgress('u')) });
  t.is(await execute({ ...ACTION, assets: [asset('a')] }), undefined);
  t.deepEqual(finished, []);
  t.is(slept(), 2_000);
});

test('a job that is removed meanwhile ends in the reason why, and one that another call finished in its outcome', async (t) => {
  const removed = fixture({ refusals: [jobNotFound()] });
  const first = removed.execute();
  removed.world.refusal = stepCompensated(RUN, 'draft');
  t.is(await reasonOf(first), 'STEP_COMPENSATED');
  const finished = fixture({ refusals: [actionRefused('The job is COMPLETED.')] });
  const second = finished.execute();
  finished.world.outcome = { jobId: JOB, state: 'COMPLETED', tasks: 1, assets: [] };
  t.is((await second)?.jobId, JOB);
});

test('a store that is down is the caller’s to try again', async (t) => {
  const { execute, finished } = fixture({ refusals: [new Error('down')] });
  t.is(await reasonOf(execute()), 'Error: down');
  t.deepEqual(finished, []);
});

test('an asset that no artifact may be as large as is refused before anything begins', async (t) => {
  const { execute, begun } = fixture();
  t.is(await reasonOf(execute({ ...ACTION, assets: [asset('a', 'x'.repeat(11))] })), 'ACTION_REFUSED');
  t.deepEqual(begun, []);
});
