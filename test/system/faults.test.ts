import anyTest, { type TestFn } from 'ava';
import { hasCeph } from '#test/support/ceph-gateway.ts';
import { makeFaultTables, readFaultTables } from '#test/support/faults/fault-table.ts';
import { FAULTS } from '#test/support/faults/faults.ts';
import { type Ground, layGround } from '#test/support/faults/ground.ts';
import { describeSeconds, measure } from '#test/support/faults/measure.ts';
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

test('deploy/README.md has the table of these faults, as they are tried', async (t) => {
  t.is(await readFaultTables(), makeFaultTables());
});
