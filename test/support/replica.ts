import { join } from 'node:path';
import { freePort } from '#deploy/local/free-port.ts';
import { startServiceProcess } from '#deploy/local/service-process.ts';
import type { ServiceName } from '#deploy/local/stack.ts';
import { bundleOf } from './programs.ts';
import { type TestStack, until } from './test-stack.ts';

/** One more process of a service beside a stack's own. */
export interface Replica {
  readonly address: string;
  pid(): number | undefined;
  /** Resolves when it serves: after its start, and after it was killed. */
  serves(): Promise<void>;
  /** Must come before the stack's own end. */
  stop(): Promise<void>;
}

/** Starts another replica on the same database, and waits until it serves. */
export async function startReplica(
  stack: TestStack,
  service: ServiceName,
  name: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Replica> {
  const address = `127.0.0.1:${await freePort()}`;
  const metrics = `127.0.0.1:${await freePort()}`;
  const process = await startServiceProcess({
    name,
    program: await bundleOf(`services/${service}/main.ts`),
    env: {
      ...stack.environment(service),
      LETHE_GRPC_ADDRESS: address,
      LETHE_METRICS_ADDRESS: metrics,
      ...env,
    },
    logFile: join(stack.folder, 'logs', `${name}.log`),
    onGivingUp: () => undefined,
  });
  const serves = () => until(`${name} serves`, async () => (await fetch(`http://${metrics}/ready`)).ok, 60_000);
  try {
    await serves();
  } catch (error) {
    await process.stop();
    throw error;
  }
  return { address, pid: process.pid, serves, stop: process.stop };
}
