import { toJson } from '@bufbuild/protobuf';
import test from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { ArtifactKind, ArtifactSchema, JobSchema, JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { storedPaths } from '#test/support/stored-files.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import { participantContract } from './participant.ts';

let stack: TestStack;
let connection: Connection;

test.before(async () => {
  stack = await startTestStack({ services: ['job'] });
  connection = connect({ address: stack.addresses.job, token: async () => 'no token' });
});
test.after.always(async () => {
  connection?.close();
  await stack?.dispose();
});

/** A job of the step as its callers make it: through JobService's own RPCs, with artifacts of all kinds. */
async function makeJob(tenantId: string, runId: string, step: string): Promise<{ jobId: string; leaseToken: bigint }> {
  const { jobs } = stack.clients({ tenantId, role: 'member' });
  const { job } = await jobs.createJob({ runId, step, displayName: step, taskNames: ['transcribe', 'align'] });
  const jobId = job?.id ?? '';
  const content = Buffer.from('some sound');
  const artifact = { contentType: 'audio/wav', content };
  await uploadArtifact(jobs, jobId, { ...artifact, kind: ArtifactKind.INPUT, name: 'call.wav' });
  const { leaseToken } = await jobs.claimJob({ workerId: 'seeder' });
  await uploadArtifact(jobs, jobId, { ...artifact, kind: ArtifactKind.OUTPUT, name: 'text.txt', leaseToken });
  return { jobId, leaseToken };
}

participantContract(test, 'JobService', () => ({
  participant: (tenantId, changes) => stackParticipant(stack, connection, 'job', tenantId, changes),
  forger: () => connection.client(ParticipantService),
  hasEffects: true,
  async seed(tenantId, runId, steps) {
    for (const step of steps) {
      const claim = await makeJob(tenantId, runId, step);
      await stack.clients({ tenantId, role: 'member' }).jobs.finishJob({ ...claim, state: JobState.COMPLETED });
    }
  },
  async seedUnfinished(tenantId, runId, steps) {
    for (const [index, step] of steps.entries()) {
      const claim = await makeJob(tenantId, runId, step);
      if (index === 0) continue;
      await stack.clients({ tenantId, role: 'member' }).jobs.finishJob({ ...claim, state: JobState.COMPLETED });
    }
  },
  async read(tenantId, runId) {
    const { jobs } = stack.clients({ tenantId, role: 'viewer' });
    const page = await jobs.listJobs({ runId });
    return Promise.all(
      page.jobs.map(async (job) => {
        const { artifacts } = await jobs.listArtifacts({ jobId: job.id });
        return [toJson(JobSchema, job), artifacts.map((artifact) => toJson(ArtifactSchema, artifact))];
      }),
    );
  },
  async remains(tenantId, runId) {
    const url = stack.superuserUrl('job');
    const ofRun = 'from jobs where tenant_id = $1 and run_id = $2';
    const ids = await queryOnce<{ id: string }>(
      url,
      `select id ${ofRun} union select job_id from job_deletions where tenant_id = $1 and run_id = $2 order by 1`,
      [tenantId, runId],
    );
    const rows: unknown[] = await queryOnce(url, `select id, state ${ofRun} order by id`, [tenantId, runId]);
    for (const table of ['job_tasks', 'artifacts']) {
      const found = await queryOnce(
        url,
        `select '${table}', job_id, name from ${table} where tenant_id = $1 and job_id = any($2) order by 2, 3`,
        [tenantId, ids.map(({ id }) => id)],
      );
      rows.push(...found);
    }
    for (const { id } of ids) rows.push(...(await storedPaths(stack, { tenantId, jobId: id })));
    return rows;
  },
  action: {
    name: 'create-job',
    input: {
      display_name: 'Draft',
      task_names: ['write', 'check'],
      assets: [
        { name: 'draft.md', content_type: 'text/markdown', text: '# Draft' },
        { name: 'cover.png', content_type: 'image/png', base64: 'iVBORw0KGgo=' },
      ],
      state: 'COMPLETED',
    },
    otherInput: { display_name: 'Draft', task_names: ['write', 'check'], assets: [], state: 'COMPLETED' },
  },
}));
