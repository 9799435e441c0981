import { PutObjectCommand } from '@aws-sdk/client-s3';
import { RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import type { CephGateway } from './ceph-gateway.ts';
import { queryOnce } from './postgres.ts';
import type { TestStack } from './test-stack.ts';

const PUTS_AT_A_TIME = 32;

/** Makes a finished run with so many finished jobs, each with one object of one byte in the bucket; answers its id. */
export async function makeRunOfManyJobs(
  stack: TestStack,
  { s3 }: CephGateway,
  { tenantId, bucket, jobs: count }: { readonly tenantId: string; readonly bucket: string; readonly jobs: number },
): Promise<string> {
  const { runs } = stack.clients({ tenantId, role: 'admin' });
  const { run } = await runs.createRun({ workflow: 'transcribe', displayName: 'a run of many jobs' });
  const runId = run?.id ?? '';
  await runs.recordStep({ runId, name: 'transcribe', state: StepState.RUNNING, participants: ['job'] });
  await runs.recordStep({ runId, name: 'transcribe', state: StepState.COMPLETED });
  await runs.finishRun({ runId, state: RunState.COMPLETED });
  const rows = await queryOnce<{ id: string }>(
    stack.superuserUrl('job'),
    `with made as (
       insert into jobs (tenant_id, id, run_id, step, display_name, state, finished_at)
       select $1, gen_random_uuid(), $2, 'transcribe', '', 'COMPLETED', now() from generate_series(1, $3::int) returning id),
     known as (
       insert into artifacts (tenant_id, job_id, kind, name, content_type, bytes, stored_at)
       select $1, id, 'OUTPUT', '1.txt', 'text/plain', 1, now() from made returning 1)
     select id from made where (select count(*) from known) > 0`,
    [tenantId, runId, count],
  );
  const ids = rows.values();
  await Promise.all(
    Array.from({ length: PUTS_AT_A_TIME }, async () => {
      for (const { id } of ids) {
        const Key = `tenants/${tenantId}/jobs/${id}/output/1.txt`;
        await s3.send(new PutObjectCommand({ Bucket: bucket, Key, Body: 'x' }));
      }
    }),
  );
  return runId;
}
