import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import { hasHistory, hasLastRelease, lastReleaseOf } from '#test/support/last-release.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { bundleOf } from '#test/support/programs.ts';
import { startReplica } from '#test/support/replica.ts';
import { testIfFound } from '#test/support/require.ts';
import { makeTcpGate, type TcpGate } from '#test/support/tcp-gate.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import { startLoad } from '#test/support/upgrade-load.ts';

const TITLE =
  'no call fails that was accepted while this version migrates and takes over under load, nor on the way back';
const ERROR = 50;

/** What logs tell of a defect: lines of level error or worse, and what was not logged but printed. */
async function complaintsIn(folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of await readdir(folder)) {
    const lines = (await readFile(join(folder, name), 'utf8')).split('\n').filter((line) => line !== '');
    for (const line of lines) {
      const isFine = line.startsWith('{') && (JSON.parse(line) as { level: number }).level < ERROR;
      if (!isFine) found.push(`${name}: ${line}`);
    }
  }
  return found;
}

const forEachService = async <T>(make: (name: ServiceName) => Promise<T>): Promise<Record<ServiceName, T>> =>
  Object.fromEntries(await Promise.all(SERVICE_NAMES.map(async (name) => [name, await make(name)] as const))) as Record<
    ServiceName,
    T
  >;

const twoVersions = async (t: ExecutionContext): Promise<void> => {
  t.timeout(600_000);
  // Each service has one address, as in a cluster; what stands behind it changes.
  const gates: Record<ServiceName, TcpGate> = await forEachService(makeTcpGate);
  t.teardown(() => forEachService((name) => gates[name].close()));
  const stack = await startTestStack({
    fileOf: lastReleaseOf,
    env: {
      ...Object.fromEntries(SERVICE_NAMES.map((name) => [`LETHE_${name.toUpperCase()}_ADDRESS`, gates[name].address])),
      LETHE_PARTICIPANTS: `job=${gates.job.address},incident=${gates.incident.address}`,
      LETHE_RETENTION_OWNERS: `incident=${gates.incident.address},run=${gates.run.address}`,
      LETHE_PURGE_CEILING_SHARE: 'off',
    },
  });
  t.teardown(() => stack.dispose());
  for (const name of SERVICE_NAMES) gates[name].open(stack.addresses[name]);
  const complaints = () => complaintsIn(join(stack.folder, 'logs'));
  try {
    await upgradeAndGoBack(t, stack, gates);
  } catch (error) {
    // Of a call that failed inside, only the log tells why.
    t.log(await complaints());
    throw error;
  }
  t.deepEqual(await complaints(), []);
};

async function upgradeAndGoBack(
  t: ExecutionContext,
  stack: TestStack,
  gates: Readonly<Record<ServiceName, TcpGate>>,
): Promise<void> {
  const began = performance.now();
  const say = (what: string): void => t.log(`${((performance.now() - began) / 1_000).toFixed(1)} s: ${what}`);

  const load = startLoad(stack, await forEachService(async (name) => gates[name].address));
  t.teardown(load.stop);
  await load.onceMore();
  say('the last release serves');

  await forEachService(async (name) => stack.migrate(name, await bundleOf(`services/${name}/main.ts`)));
  await load.onceMore();
  say("it serves on this version's schema");

  const replicas = await forEachService((name) => startReplica(stack, name, `this-${name}`));
  t.teardown(async () => {
    await load.stop();
    await forEachService((name) => replicas[name].stop());
  });
  for (const name of SERVICE_NAMES) gates[name].open(stack.addresses[name], replicas[name].address);
  await load.onceMore();
  say('both versions serve');

  for (const name of SERVICE_NAMES) gates[name].open(replicas[name].address);
  await forEachService((name) => stack.halt(name));
  await load.onceMore();
  say('this version serves alone');

  const schema = () => queryOnce(stack.superuserUrl('run'), 'select name from lethe_migrations order by id');
  const newest = await schema();
  // It refuses what is newer than it knows.
  await stack.migrate('run', await lastReleaseOf('services/run/main.ts')).catch(() => undefined);
  t.deepEqual(await schema(), newest, 'the migrate of the last release takes nothing back');
  await forEachService((name) => stack.restart(name));
  for (const name of SERVICE_NAMES) gates[name].open(stack.addresses[name]);
  await forEachService((name) => replicas[name].stop());
  await load.onceMore();
  say('the last release serves again');

  await load.stop();
  t.log(await load.check());
  say('all that was accepted is done');
}

// A shallow clone, or a folder without git, cannot have the last release: that says nothing about this one.
if (hasHistory()) testIfFound(test, hasLastRelease(), 'the commit of the last release', TITLE, twoVersions);
else test.skip(`${TITLE} (skipped: there is no history to take the last release from)`, twoVersions);
