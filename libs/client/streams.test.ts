import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { hasReason, LetheError, toLetheError } from './lethe-error.ts';
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
  const abort = new AbortController();
  const endless = everyChange(async () => 1, String, isNine, { pollMs: 60_000, signal: abort.signal });
  const reading = Array.fromAsync(endless);
  abort.abort();
  await t.throwsAsync(reading, { name: 'AbortError' });
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
