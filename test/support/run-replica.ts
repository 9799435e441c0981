import { join } from 'node:path';
import type { Client } from '@connectrpc/connect';
import { freePort } from '#deploy/local/free-port.ts';
import { startServiceProcess } from '#deploy/local/service-process.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { bundleOf } from './programs.ts';
import type { TestStack } from './test-stack.ts';
import { until } from './test-stack.ts';

/** One more RunService beside a stack's own. */
export interface RunReplica {
  pid(): number | undefined;
  runs(identity: Parameters<TestStack['token']>[0]): Client<typeof RunService>;
  /** Must come before the stack's own end. */
  stop(): Promise<void>;
}

/** Starts another replica on the same database, and waits until it serves. */
export async function startRunReplica(
  stack: TestStack,
  name: string,
  env: Readonly<Record<string, string>> = {},
): Promise<RunReplica> {
  const address = `127.0.0.1:${await freePort()}`;
  const metrics = `127.0.0.1:${await freePort()}`;
  const process = await startServiceProcess({
    name,
    program: await bundleOf('services/run/main.ts'),
    env: {
      ...stack.environment('run'),
      LETHE_GRPC_ADDRESS: address,
      LETHE_METRICS_ADDRESS: metrics,
      ...env,
    },
    logFile: join(stack.folder, 'logs', `${name}.log`),
    onGivingUp: () => undefined,
  });
  const connection = connect({ address, token: () => stack.token({ role: 'platform' }) });
  try {
    await until(`${name} serves`, async () => (await fetch(`http://${metrics}/ready`)).ok, 60_000);
  } catch (error) {
    connection.close();
    await process.stop();
    throw error;
  }
  return {
    pid: process.pid,
    runs: (identity) => connection.client(RunService, () => stack.token(identity)),
    async stop() {
      connection.close();
      await process.stop();
    },
  };
}
