import { create } from '@bufbuild/protobuf';
import type { Client } from '@connectrpc/connect';
import { ArtifactKind, JobState, TaskState } from '#gen/lethe/job/v1/job_pb.ts';
import {
  type JobService,
  type UploadArtifactRequest,
  UploadArtifactRequestSchema,
} from '#gen/lethe/job/v1/job_service_pb.ts';
import { transcribe } from './transcribe.ts';

type JobClient = Client<typeof JobService>;

const CHUNK_BYTES = 64 * 1_024;

/** What to upload as one artifact. */
export interface ArtifactContent {
  readonly kind: ArtifactKind;
  readonly name: string;
  readonly contentType: string;
  readonly content: Uint8Array;
  /** A worker's proof that the job is its own; absent for the job's owner. */
  readonly leaseToken?: bigint;
}

/** Uploads one artifact in chunks of 64 KiB. */
export async function uploadArtifact(jobs: JobClient, jobId: string, artifact: ArtifactContent): Promise<void> {
  await jobs.uploadArtifact(parts(jobId, artifact));
}

async function* parts(jobId: string, artifact: ArtifactContent): AsyncIterable<UploadArtifactRequest> {
  const { kind, name, contentType, content, leaseToken } = artifact;
  const header = { jobId, kind, name, contentType, ...(leaseToken === undefined ? {} : { leaseToken }) };
  yield create(UploadArtifactRequestSchema, { part: { case: 'header', value: header } });
  for (let at = 0; at < content.length; at += CHUNK_BYTES) {
    const chunk = content.subarray(at, at + CHUNK_BYTES);
    yield create(UploadArtifactRequestSchema, { part: { case: 'chunk', value: chunk } });
  }
}

/** Reads one artifact whole; the sample's recordings are small. */
export async function downloadArtifact(
  jobs: JobClient,
  jobId: string,
  kind: ArtifactKind,
  name: string,
): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const { part } of jobs.downloadArtifact({ jobId, kind, name })) {
    if (part.case === 'chunk') chunks.push(part.value);
  }
  return Buffer.concat(chunks);
}

/**
 * Claims and works the tenant's jobs until none is left: a recording becomes word timing, what is no recording
 * fails its job with the reason. Answers how many jobs it finished, by their end state.
 */
export async function workThrough(jobs: JobClient, workerId: string): Promise<{ completed: number; failed: number }> {
  const finished = { completed: 0, failed: 0 };
  for (;;) {
    const { job, leaseToken } = await jobs.claimJob({ workerId });
    if (!job) return finished;
    const claim = { jobId: job.id, leaseToken };
    try {
      await jobs.updateTask({ ...claim, taskName: 'transcribe', state: TaskState.RUNNING });
      const { artifacts } = await jobs.listArtifacts({ jobId: job.id, kind: ArtifactKind.INPUT });
      const input = artifacts[0];
      if (!input) throw new Error('no recording was uploaded');
      const transcript = transcribe(await downloadArtifact(jobs, job.id, ArtifactKind.INPUT, input.name));
      const json = (value: unknown) => Buffer.from(JSON.stringify(value, undefined, 2));
      const artifact = { contentType: 'application/json', leaseToken };
      await uploadArtifact(jobs, job.id, {
        ...artifact,
        kind: ArtifactKind.TASK,
        name: 'words.json',
        content: json(transcript.words),
      });
      await uploadArtifact(jobs, job.id, {
        ...artifact,
        kind: ArtifactKind.OUTPUT,
        name: 'transcript.json',
        content: json(transcript),
      });
      await jobs.updateTask({ ...claim, taskName: 'transcribe', state: TaskState.COMPLETED });
      await jobs.finishJob({ ...claim, state: JobState.COMPLETED });
      finished.completed += 1;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      await jobs.updateTask({ ...claim, taskName: 'transcribe', state: TaskState.FAILED, error: reason });
      await jobs.finishJob({ ...claim, state: JobState.FAILED, error: reason });
      finished.failed += 1;
    }
  }
}
