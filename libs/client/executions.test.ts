import test from 'ava';
import { makeExecutions, type NewExecution } from './executions.ts';
import { CancelledError, LetheError } from './lethe-error.ts';
import type { Services } from './services.ts';

type Request = { readonly executions: readonly { readonly id: string; readonly workflow: string }[] };

/** Services of which only RecordExecutions is there, and told what it is asked. */
const withRecording = (
  recordExecutions: (request: Request) => Promise<{ createdCount: number; updatedCount: number; expiredIds: string[] }>,
): Services => ({ run: { recordExecutions } }) as unknown as Services;

const made = (count: number): NewExecution[] => Array.from({ length: count }, (_, n) => ({ workflow: `w${n}` }));
const allCreated = async ({ executions }: Request) => ({
  createdCount: executions.length,
  updatedCount: 0,
  expiredIds: [],
});

test('everything is sent once, in full batches and the rest, and summed up', async (t) => {
  const sizes: number[] = [];
  const names = new Set<string>();
  const ids = new Set<string>();
  const executions = makeExecutions(
    withRecording(async (request) => {
      sizes.push(request.executions.length);
      for (const { id, workflow } of request.executions) {
        ids.add(id);
        names.add(workflow);
      }
      return allCreated(request);
    }),
  );
  t.deepEqual(await executions.record(made(2_500)), { created: 2_500, updated: 0, expired: 0 });
  t.deepEqual(sizes, [1_000, 1_000, 500]);
  t.deepEqual([names.size, ids.size], [2_500, 2_500]);
  t.deepEqual(await executions.record([]), { created: 0, updated: 0, expired: 0 });
});

test('the source is not read on while as many calls as allowed are under way', async (t) => {
  let read = 0;
  let under = 0;
  let most = 0;
  const gates: (() => void)[] = [];
  const executions = makeExecutions(
    withRecording(async (request) => {
      under += 1;
      most = Math.max(most, under);
      await new Promise<void>((resolve) => gates.push(resolve));
      under -= 1;
      return allCreated(request);
    }),
  );
  const source = async function* () {
    for (const execution of made(1_000)) {
      read += 1;
      yield execution;
    }
  };
  const recording = executions.record(source(), { batchSize: 10, concurrency: 3 });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  for (let turns = 0; turns < 200; turns += 1) await turn();
  t.is(gates.length, 3);
  t.true(read <= 31, `${read} were read`);
  for (let opened = 0; opened < 100; ) {
    for (const open of gates.splice(0)) {
      open();
      opened += 1;
    }
    await turn();
  }
  t.is((await recording).created, 1_000);
  t.is(most, 3);
});

test('an execution does not wait longer for its batch to fill than it was told', async (t) => {
  const { promise: sent, resolve } = Promise.withResolvers<number>();
  const executions = makeExecutions(
    withRecording((request) => {
      resolve(request.executions.length);
      return allCreated(request);
    }),
  );
  const { promise: more, resolve: end } = Promise.withResolvers<void>();
  const source = async function* () {
    yield* made(3);
    await more;
    yield* made(2);
  };
  const recording = executions.record(source(), { maxDelayMs: 10 });
  t.is(await sent, 3);
  end();
  t.is((await recording).created, 5);
});

test('after a call that failed no more is read or sent, and wrong fields count from the source’s first execution', async (t) => {
  let calls = 0;
  let isClosed = false;
  const executions = makeExecutions(
    withRecording(async (request) => {
      calls += 1;
      if (calls < 3) return allCreated(request);
      throw new LetheError('INVALID_ARGUMENT', 'FIELD_INVALID', 'executions[1].workflow is required.', {
        metadata: { fields: 'executions[1].workflow' },
        violations: [{ field: 'executions[1].workflow', description: 'is required' }],
      });
    }),
  );
  const source = function* () {
    try {
      for (;;) yield* made(10);
    } finally {
      isClosed = true;
    }
  };
  let told = 0;
  const error = await t.throwsAsync<LetheError>(
    executions.record(source(), { batchSize: 10, concurrency: 1, onProgress: ({ created }) => (told = created) }),
  );
  t.is(error?.message, 'executions[21].workflow is required.');
  t.is(error?.metadata['fields'], 'executions[21].workflow');
  t.deepEqual(error?.violations, [{ field: 'executions[21].workflow', description: 'is required' }]);
  t.deepEqual([calls, told, isClosed], [3, 20, true]);
});

test('a source that throws is told when what is under way has ended', async (t) => {
  let ended = 0;
  const executions = makeExecutions(
    withRecording(async (request) => {
      await new Promise((resolve) => setImmediate(resolve));
      ended += 1;
      return allCreated(request);
    }),
  );
  const source = function* () {
    yield* made(2);
    throw new Error('the source broke');
  };
  await t.throwsAsync(executions.record(source(), { batchSize: 1 }), { message: 'the source broke' });
  t.is(ended, 2);
});

/** A live source that gives these executions and then falls silent for good; as a generator it cannot be left then. */
function silentAfter(count: number) {
  let isClosed = false;
  let isSilent = false;
  const rest = made(count);
  const source: AsyncIterable<NewExecution> = {
    [Symbol.asyncIterator]: () => ({
      next: () => {
        const value = rest.shift();
        if (value) return Promise.resolve({ value });
        isSilent = true;
        return new Promise(() => {});
      },
      return: () => {
        isClosed = true;
        return isSilent ? new Promise(() => {}) : Promise.resolve({ done: true, value: undefined });
      },
    }),
  };
  return { source, isClosed: () => isClosed };
}

test('a call that fails ends the recording also while the source is silent', async (t) => {
  const { promise: refusal, reject: refuse } = Promise.withResolvers<never>();
  const { source, isClosed } = silentAfter(2);
  const recording = makeExecutions(withRecording(() => refusal)).record(source, { batchSize: 2 });
  setImmediate(refuse, new LetheError('PERMISSION_DENIED', 'ROLE_MISSING', 'Not for you.'));
  await t.throwsAsync(recording, { message: 'Not for you.' });
  t.true(isClosed());
});

test('a signal ends the recording also while the source is silent, and what waits for its batch is not sent', async (t) => {
  let calls = 0;
  const { promise: first, resolve } = Promise.withResolvers<void>();
  const executions = makeExecutions(
    withRecording((request) => {
      calls += 1;
      resolve();
      return allCreated(request);
    }),
  );
  const { source, isClosed } = silentAfter(3);
  const abort = new AbortController();
  const recording = executions.record(source, { batchSize: 2, maxDelayMs: 60_000, signal: abort.signal });
  await first;
  const reason = new Error('enough');
  abort.abort(reason);
  const error = await t.throwsAsync<LetheError>(recording, { instanceOf: CancelledError });
  t.is(error?.cause, reason);
  t.true(isClosed());
  t.is(calls, 1);
  const untouched = executions.record(silentAfter(1).source, { signal: abort.signal });
  await t.throwsAsync(untouched, { instanceOf: CancelledError });
  t.is(calls, 1);
});
