import anyTest, { type TestFn } from 'ava';
import { hasBinaries } from '#test/support/control-plane/binaries.ts';
import { type ControlPlane, startControlPlane } from '#test/support/control-plane/control-plane.ts';
import { OVERLAYS, prepareTrial, type Trial } from '#test/support/control-plane/try-overlays.ts';

// `npm run cluster` does the same and prints it; with `-- --build` it builds the control plane first.

const test = anyTest as TestFn<{ plane: ControlPlane; trial: Trial }>;

test.before(async (t) => {
  if (!hasBinaries()) return;
  t.context.plane = await startControlPlane();
  t.context.trial = await prepareTrial(t.context.plane);
});

test.after.always(async (t) => {
  await t.context.trial?.dispose();
  await t.context.plane?.stop();
});

for (const overlay of OVERLAYS) {
  const title = `${overlay} is applied as the README says, without a warning, under Pod Security "restricted"; a diff is empty, applying it again changes nothing, and the CronJob makes a Job`;
  // Also where all tests are required: to build it takes longer than CI has.
  if (!hasBinaries()) test.skip(`${title} (skipped: no control plane; npm run cluster -- --build makes it)`, () => {});
  else
    test.serial(title, async (t) => {
      for (const [step, findings] of Object.entries(await t.context.trial.tryOverlay(overlay)))
        t.deepEqual(findings, [], step);
    });
}
