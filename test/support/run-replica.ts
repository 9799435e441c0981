import type { Client } from '@connectrpc/connect';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { startReplica } from './replica.ts';
import type { TestStack } from './test-stack.ts';

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
  const { address, pid, stop } = await startReplica(stack, 'run', name, env);
  const connection = connect({ address, token: () => stack.token({ role: 'platform' }) });
  return {
    pid,
    runs: (identity) => connection.client(RunService, () => stack.token(identity)),
    async stop() {
      connection.close();
      await stop();
    },
  };
}
