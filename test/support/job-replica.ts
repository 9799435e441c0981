import type { Client } from '@connectrpc/connect';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { startReplica } from './replica.ts';
import type { TestStack } from './test-stack.ts';

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
  const { address, pid, serves, stop } = await startReplica(stack, 'job', name, env);
  const open = new Set<Connection>();
  return {
    pid,
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
    async stop() {
      for (const connection of open) connection.close();
      await stop();
    },
  };
}
