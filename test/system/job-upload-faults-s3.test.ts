import anyTest, { type TestFn } from 'ava';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { testIfFound } from '#test/support/require.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import {
  FAULTS,
  type FaultyUploads,
  KINDS,
  pointsFor,
  startFaultyUploads,
  UPLOAD_TIMES,
} from '#test/support/upload-faults.ts';

const test = anyTest as TestFn<unknown>;
const isFound = hasCeph();
const declare = (title: string, body: Parameters<typeof testIfFound>[4]) =>
  testIfFound(test.serial, isFound, "Ceph's gateway", title, body);
const BUCKET = 'jobs';

let gateway: CephGateway;
let stack: TestStack;
let uploads: FaultyUploads;

test.before(async () => {
  if (!isFound) return;
  gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  stack = await startTestStack({ services: ['job'], env: { ...UPLOAD_TIMES, ...gateway.environment(BUCKET) } });
  uploads = await startFaultyUploads(
    stack,
    {
      list: async (tenantId) =>
        (await gateway.listEverything(BUCKET)).filter((key) => key.startsWith(`tenants/${tenantId}/`)),
      pathsOf: (key) => [key],
    },
    {
      address: new URL(gateway.endpoint).host,
      env: (address) => ({ LETHE_S3_ENDPOINT: `http://${address}` }),
    },
  );
});
test.after.always(async () => {
  await uploads?.stop();
  await stack?.dispose();
  await gateway?.stop();
});

for (const fault of FAULTS) {
  for (const kind of KINDS) {
    declare(
      `S3, ${fault} at any await of ${kind.what}: a download gives what was acknowledged, and every version has a row`,
      async (t) => {
        t.timeout(170_000);
        for (const point of pointsFor(fault, kind)) await uploads.run(t as never, { point, fault, ...kind });
      },
    );
  }
}
