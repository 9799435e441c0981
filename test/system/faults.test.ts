import { randomInt } from 'node:crypto';
import anyTest, { type TestFn } from 'ava';
import { hasCeph } from '#test/support/ceph-gateway.ts';
import { makeFaultTables, readFaultTables } from '#test/support/faults/fault-table.ts';
import { FAULTS } from '#test/support/faults/faults.ts';
import { type Ground, layGround } from '#test/support/faults/ground.ts';
import { describeSeconds, measure } from '#test/support/faults/measure.ts';
import { weatherStorm } from '#test/support/faults/storm.ts';
import { makeRandom } from '#test/support/random.ts';
import { testIfFound } from '#test/support/require.ts';

// The table of faults in deploy/README.md, on one stack: `npm run faults` prints what is measured here.

const test = anyTest as TestFn<{ ground: Ground }>;

test.before(async (t) => {
  t.context.ground = await layGround();
});
test.after.always((t) => t.context.ground?.dispose());

for (const fault of FAULTS) {
  const title = `${fault.on}, ${fault.name}: callers are told, /ready names it, all work ends`;
  testIfFound(test.serial, fault.needs === undefined || hasCeph(), fault.needs ?? '', title, async (t) => {
    const { findings, seconds } = await measure(t.context.ground, fault);
    t.deepEqual(findings, []);
    t.log(`good again after: ${describeSeconds(seconds)}`);
  });
}

const STORM_SECONDS = Number(process.env['LETHE_STORM_SECONDS'] ?? 16);
const SEED = Number(process.env['LETHE_TEST_SEED'] ?? randomInt(2 ** 31));

test.serial(
  'sessions ended at random, a server restarted five times and read-only three times: every service lives, and all that was accepted ends',
  async (t) => {
    t.timeout(600_000 + STORM_SECONDS * 1_000);
    t.log(`seed ${SEED}; LETHE_TEST_SEED=${SEED} ends sessions in the same order, LETHE_STORM_SECONDS=120 for longer`);
    const { findings, ...weathered } = await weatherStorm(t.context.ground, STORM_SECONDS, makeRandom(SEED));
    t.log(weathered);
    t.deepEqual(findings, []);
    for (const [name, times] of Object.entries(weathered.accepted)) t.true(times > 0, name);
    t.true(weathered.sessions > 0);
  },
);

test('deploy/README.md has the table of these faults, as they are tried', async (t) => {
  t.is(await readFaultTables(), makeFaultTables());
});
