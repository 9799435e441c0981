import { join } from 'node:path';
import type { Client } from '@connectrpc/connect';
import { freePort } from '#deploy/local/free-port.ts';
import { startServiceProcess } from '#deploy/local/service-process.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { bundleOf } from './programs.ts';
import { type TestStack, until } from './test-stack.ts';

/** One more JobService beside a stack's own. */
export interface JobReplica {
  pid(): number | undefined;
  /** Resolves when it serves: after its start, and after it was killed. */
  serves(): Promise<void>;
  /** A client on a connection of its own; `close` ends it. */
  connect(identity: Parameters<TestStack['token']>[0]): { jobs: Client<typeof JobService>; close(): void };
  /** Must come before the stack's own end. */
  stop(): Promise<void>;
}

/** Starts another replica on the same database and store, and waits until it serves. */
export async function startJobReplica(
  stack: TestStack,
  name: string,
  env: Readonly<Record<string, string>> = {},
): Promise<JobReplica> {
  const address = `127.0.0.1:${await freePort()}`;
  const metrics = `127.0.0.1:${await freePort()}`;
  const service = await startServiceProcess({
    name,
    program: await bundleOf('services/job/main.ts'),
    env: {
      ...stack.environment('job'),
      LETHE_GRPC_ADDRESS: address,
      LETHE_METRICS_ADDRESS: metrics,
      ...env,
    },
    logFile: join(stack.folder, 'logs', `${name}.log`),
    onGivingUp: () => undefined,
  });
  const open = new Set<Connection>();
  const serves = () => until(`${name} serves`, async () => (await fetch(`http://${metrics}/ready`)).ok, 60_000);
  const stop = async (): Promise<void> => {
    for (const connection of open) connection.close();
    await service.stop();
  };
  try {
    await serves();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    pid: service.pid,
    serves,
    connect(identity) {
      const connection = connect({ address, token: () => stack.token(identity) });
      open.add(connection);
      return {
        jobs: connection.client(JobService),
        close() {
          open.delete(connection);
          connection.close();
        },
      };
    },
    stop,
  };
}
