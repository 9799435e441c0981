import test from 'ava';
import { fuzz, TARGETS } from '#test/support/rpc-fuzz/fuzz.ts';

const CALLS = 2_000;

test('whatever is sent to any RPC by anybody, no call is INTERNAL, hangs or leaves anything in memory', async (t) => {
  const given = process.env['LETHE_TEST_SEED'];
  const seed = given === undefined ? Math.floor(Math.random() * 1e9) : Number(given);
  t.log(`seed ${seed}; again with LETHE_TEST_SEED=${seed}, or npm run fuzz -- --calls ${CALLS} --seed ${seed}`);
  const { findings, logged, statuses, heaps, seconds } = await fuzz({ calls: CALLS, seed });
  t.deepEqual(findings, []);
  t.deepEqual(logged, []);
  t.deepEqual([...statuses.keys()].toSorted(), [...TARGETS.keys()].toSorted(), 'every RPC was called');
  // What is refused at once reaches nothing that could break.
  const answered = [...statuses.values()].filter((counts) => counts.has('OK') || counts.has('left')).length;
  t.log(`${answered} of ${TARGETS.size} RPCs did what was asked at least once; ${Math.round(seconds)} s`);
  t.true(answered > TARGETS.size / 2, `${answered} RPCs`);
  for (const [service, [early = 0, , end = 0]] of Object.entries(heaps))
    t.true(end < early * 1.25, `${service}: ${early} bytes live after a third of the calls, ${end} at the end`);
});
