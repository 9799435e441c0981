import { join, relative } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { storedFiles } from '#test/support/stored-files.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import {
  FAULTS,
  type FaultyUploads,
  KINDS,
  pointsFor,
  startFaultyUploads,
  UPLOAD_TIMES,
} from '#test/support/upload-faults.ts';

const test = anyTest as TestFn<{ stack: TestStack; uploads: FaultyUploads }>;

test.before(async (t) => {
  const stack = await startTestStack({ services: ['job'], env: UPLOAD_TIMES });
  t.context.stack = stack;
  t.context.uploads = await startFaultyUploads(
    stack,
    {
      list: async (tenantId) => {
        const files = await storedFiles(stack, { tenantId });
        return files.map((path) => relative(stack.objectFolder, path)).toSorted();
      },
      pathsOf: (key) => [join('objects', key), join('meta', key)],
    },
    undefined,
  );
});
test.after.always(async (t) => {
  await t.context.uploads?.stop();
  await t.context.stack?.dispose();
});

for (const fault of FAULTS.filter((name) => !name.startsWith('store'))) {
  for (const kind of KINDS) {
    test.serial(
      `file store, ${fault} at any await of ${kind.what}: a download gives what was acknowledged, and every file has a row`,
      async (t) => {
        t.timeout(170_000);
        for (const point of pointsFor(fault, kind)) await t.context.uploads.run(t, { point, fault, ...kind });
      },
    );
  }
}
