import { fork } from 'node:child_process';
import { create, toBinary } from '@bufbuild/protobuf';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { GetJobRequestSchema } from '#gen/lethe/job/v1/job_service_pb.ts';
import { startTestStack } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';
import { median } from './median.ts';

const IN_FLIGHT = 32;
const ROUND_MS = 2_000;
const ROUNDS = 5;

/** Authenticated GetJob against a bare grpc-js echo, 32 in flight, rounds in turn; the same bare client for both. */
export const benchRpc: Bench = async () => {
  const stack = await startTestStack({
    fromSources: true,
    services: ['job'],
    env: { LETHE_CALLS_PER_SECOND: '1000000' },
  });
  const echo = fork(new URL('./echo-server.ts', import.meta.url));
  try {
    const echoPort = await new Promise<number>((resolve) => echo.once('message', (port) => resolve(Number(port))));
    const { jobs } = stack.clients({ tenantId: 'bench', role: 'viewer' });
    const { job } = await stack
      .clients({ tenantId: 'bench', role: 'member' })
      .jobs.createJob({ taskNames: ['transcribe'] });
    const jobId = job?.id ?? '';
    await jobs.getJob({ jobId });
    const request = Buffer.from(toBinary(GetJobRequestSchema, create(GetJobRequestSchema, { jobId })));
    const token = await stack.token({ tenantId: 'bench', role: 'viewer' });
    const bare = new Client(`127.0.0.1:${echoPort}`, credentials.createInsecure());
    const real = new Client(stack.addresses.job, credentials.createInsecure());
    const echoRates: number[] = [];
    const jobRates: number[] = [];
    for (let round = 0; round <= ROUNDS; round += 1) {
      const echoRate = await rate(bare, '/bench.Echo/Echo', request, token);
      const jobRate = await rate(real, '/lethe.job.v1.JobService/GetJob', request, token);
      if (round === 0) continue; // The first round warms both up.
      echoRates.push(echoRate);
      jobRates.push(jobRate);
    }
    bare.close();
    real.close();
    const ratios = jobRates.map((value, index) => value / (echoRates[index] ?? Number.NaN));
    return {
      rpc_ratio: Number(median(ratios).toFixed(3)),
      get_job_per_s: Math.round(median(jobRates)),
      echo_per_s: Math.round(median(echoRates)),
    };
  } finally {
    echo.kill();
    await stack.dispose();
  }
};

/** Calls a second over one round. */
async function rate(client: Client, path: string, request: Buffer, token: string): Promise<number> {
  const identity = (bytes: Buffer): Buffer => bytes;
  const startedAt = performance.now();
  let calls = 0;
  await Promise.all(
    Array.from({ length: IN_FLIGHT }, async () => {
      while (performance.now() - startedAt < ROUND_MS) {
        const metadata = new Metadata();
        metadata.set('authorization', `Bearer ${token}`);
        await new Promise<void>((resolve, reject) => {
          client.makeUnaryRequest(path, identity, identity, request, metadata, (error) =>
            error ? reject(error) : resolve(),
          );
        });
        calls += 1;
      }
    }),
  );
  return calls / ((performance.now() - startedAt) / 1_000);
}
