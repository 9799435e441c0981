import { create } from '@bufbuild/protobuf';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { CancelledError, hasReason, LetheError, toLetheError, withLetheErrors } from './lethe-error.ts';
import { changesOf, everyChange, everyItem, present, untilLast } from './streams.ts';

const lost = () => new LetheError('UNAVAILABLE', 'UNAVAILABLE', 'The connection is lost.');

/** A stream that can be opened again and again: each time it gives the next of these, then breaks or ends. */
function opened(...takes: readonly { readonly items: readonly number[]; readonly error?: Error }[]) {
  let opens = 0;
  let closed = 0;
  const open = async function* () {
    const take = takes[Math.min(opens, takes.length - 1)];
    opens += 1;
    try {
      yield* take?.items ?? [];
      if (take?.error) throw take.error;
    } finally {
      closed += 1;
    }
  };
  return { open, opens: () => opens, closed: () => closed };
}

const isNine = (item: number): boolean => item === 9;

test('a list asks for the next page when the one before is used up, and not sooner', async (t) => {
  const asked: string[] = [];
  const pages: Record<string, { items: number[]; nextPageToken: string }> = {
    '': { items: [1, 2], nextPageToken: 'b' },
    b: { items: [], nextPageToken: 'c' },
    c: { items: [3], nextPageToken: '' },
  };
  const list = everyItem(async ({ pageToken }) => {
    asked.push(pageToken);
    return pages[pageToken] ?? { items: [], nextPageToken: '' };
  });
  const read: number[] = [];
  for await (const item of list) {
    read.push(item);
    if (item === 2) t.deepEqual(asked, ['']);
  }
  t.deepEqual(read, [1, 2, 3]);
  t.deepEqual(asked, ['', 'b', 'c']);
});

test('a stream that breaks, or ends before its last item, is opened again', async (t) => {
  const { open, opens, closed } = opened({ items: [1], error: lost() }, { items: [2] }, { items: [3, 9, 10] });
  t.deepEqual(await Array.fromAsync(untilLast(open, isNine, { pauseMs: 1 })), [1, 2, 3, 9]);
  t.is(opens(), 3);
  t.is(closed(), 3, 'the last one too, though it had more to tell');
});

test('after five openings in a row without an item it is given up, with the last error', async (t) => {
  const { open, opens } = opened({ items: [1], error: lost() }, { items: [], error: lost() });
  await t.throwsAsync(Array.fromAsync(untilLast(open, isNine, { pauseMs: 1 })), { message: 'The connection is lost.' });
  t.is(opens(), 5);
  const silent = opened({ items: [] });
  const error = await t.throwsAsync(Array.fromAsync(untilLast(silent.open, isNine, { pauseMs: 1 })));
  t.true(hasReason(error, 'STREAM_INCOMPLETE'));
});

test('an opening that tells only what was told before is none that failed', async (t) => {
  const again = { items: [1], error: lost() };
  const { open, opens } = opened(again, again, again, again, again, again, { items: [1, 9] });
  t.deepEqual(await Array.fromAsync(untilLast(open, isNine, { toItem: changesOf(String), pauseMs: 1 })), [1, 9]);
  t.is(opens(), 7);
});

test('what is refused is not asked for again', async (t) => {
  const refused = new LetheError('NOT_FOUND', 'RUN_NOT_FOUND', 'Run not found.');
  const { open, opens } = opened({ items: [1], error: refused });
  await t.throwsAsync(Array.fromAsync(untilLast(open, isNine, { pauseMs: 1 })), { is: refused });
  t.is(opens(), 1);
});

test('a thing that is watched is told when it has changed, up to its end', async (t) => {
  const looks = [1, 1, 2, 2, 9];
  let look = 0;
  const watched = everyChange(async () => looks[look++] ?? 0, String, isNine, { pollMs: 1 });
  t.deepEqual(await Array.fromAsync(watched), [1, 2, 9]);
});

test('a signal ends a watch with a CancelledError whose cause is its reason, whatever the watch is at', async (t) => {
  const reason = new Error('enough');
  const looksAt = (signal: AbortSignal, look: () => Promise<number>) =>
    everyChange(look, String, isNine, { pollMs: 60_000, pauseMs: 60_000, signal });
  const away = async () => Promise.reject(lost());
  const aborted = AbortSignal.abort(reason);
  const watches: ((signal: AbortSignal) => AsyncIterable<number>)[] = [
    (signal) => looksAt(signal, async () => 1),
    (signal) => looksAt(signal, away),
    (signal) => untilLast(opened({ items: [1], error: lost() }).open, isNine, { pauseMs: 60_000, signal }),
  ];
  for (const watch of watches) {
    const abort = new AbortController();
    const reading = Array.fromAsync(watch(abort.signal));
    setImmediate(() => abort.abort(reason));
    const error = await t.throwsAsync<LetheError>(reading, { instanceOf: CancelledError });
    t.is(error?.cause, reason);
    const never = await t.throwsAsync<LetheError>(Array.fromAsync(watch(aborted)), { instanceOf: CancelledError });
    t.is(never?.cause, reason);
  }
  const timeout = AbortSignal.timeout(1);
  const late = await t.throwsAsync<LetheError>(Array.fromAsync(looksAt(timeout, async () => 1)), {
    instanceOf: CancelledError,
  });
  t.is(late?.cause, timeout.reason);
  t.like(late?.cause, { name: 'TimeoutError' });
});

test('a call that a signal has ended fails with a CancelledError whose cause is the reason', async (t) => {
  const reason = new Error('enough');
  const signal = AbortSignal.abort(reason);
  const cancelled = new ConnectError('The call was cancelled.', Code.Canceled);
  const client = withLetheErrors(RunService, {
    getRun: () => Promise.reject(cancelled),
    async *watchRun() {
      yield* [];
      throw cancelled;
    },
  } as unknown as Client<typeof RunService>);
  const answer = await t.throwsAsync<LetheError>(client.getRun({}, { signal }), { instanceOf: CancelledError });
  t.is(answer?.cause, reason);
  const stream = await t.throwsAsync<LetheError>(Array.fromAsync(client.watchRun({}, { signal })), {
    instanceOf: CancelledError,
  });
  t.is(stream?.cause, reason);
  const other = await t.throwsAsync<LetheError>(client.getRun({}), { instanceOf: CancelledError });
  t.is(other?.cause, cancelled, 'it was the service that cancelled it');
});

test('a thing that is watched is looked at again while its service is away, up to five times in a row', async (t) => {
  const lookAt = (...answers: readonly (number | Error)[]) => {
    let looks = 0;
    const look = async (): Promise<number> => {
      const answer = answers[Math.min(looks, answers.length - 1)];
      looks += 1;
      if (typeof answer === 'number') return answer;
      throw answer;
    };
    const watch = () => Array.fromAsync(everyChange(look, String, isNine, { pollMs: 1, pauseMs: 1 }));
    return { watch, looks: () => looks };
  };
  const outage = [lost(), lost(), lost(), lost()];
  t.deepEqual(await lookAt(1, ...outage, 1, ...outage, 2, ...outage, 9).watch(), [1, 2, 9]);
  const gone = lookAt(1, lost());
  await t.throwsAsync(gone.watch(), { message: 'The connection is lost.' });
  t.is(gone.looks(), 6);
  const refused = lookAt(new LetheError('NOT_FOUND', 'JOB_NOT_FOUND', 'Job not found.'));
  await t.throwsAsync(refused.watch(), { message: 'Job not found.' });
  t.is(refused.looks(), 1);
});

test('an answer that lacks what it must hold is an error, and not undefined further on', (t) => {
  t.is(present('job', 1), 1);
  t.true(
    hasReason(
      t.throws(() => present('job', undefined)),
      'ANSWER_INCOMPLETE',
    ),
  );
});

test('an error has the reason, the fields and the time to wait that the service told', (t) => {
  const failed = new ConnectError('job_id must be a UUID.', Code.InvalidArgument, undefined, [
    { desc: ErrorInfoSchema, value: { reason: 'FIELD_INVALID', domain: 'lethe', metadata: { fields: 'job_id' } } },
    {
      desc: BadRequestSchema,
      value: create(BadRequestSchema, { fieldViolations: [{ field: 'job_id', description: 'must be a UUID' }] }),
    },
    { desc: RetryInfoSchema, value: { retryDelay: { seconds: 1n, nanos: 500_000_000 } } },
  ]);
  const error = toLetheError(failed);
  t.like(error, { code: 'INVALID_ARGUMENT', reason: 'FIELD_INVALID', message: 'job_id must be a UUID.' });
  t.deepEqual(error.metadata, { fields: 'job_id' });
  t.deepEqual(error.violations, [{ field: 'job_id', description: 'must be a UUID' }]);
  t.is(error.retryAfterMs, 1_500);
  t.is(toLetheError(error), error);
  const bare = toLetheError(new ConnectError('gone', Code.Unavailable));
  t.like(bare, { code: 'UNAVAILABLE', reason: 'UNAVAILABLE', violations: [], retryAfterMs: undefined });
  t.is(toLetheError(new Error('no key')).code, 'UNKNOWN');
});
