import { newId } from '#libs/kernel/id.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import { type Artifact, type ArtifactKind, artifactKey, assertTakesUpload, jobPrefix } from '../domain/artifact.ts';
import { jobNotFound } from '../domain/errors.ts';
import type { ArtifactIndex, JobRepository, NewUpload } from './ports.ts';

/** What is uploaded, and by whom. */
export interface UploadArtifactCommand {
  readonly tenantId: string;
  readonly jobId: string;
  readonly kind: ArtifactKind;
  readonly name: string;
  readonly contentType: string;
  /** Of the worker that holds the job; undefined for anybody else. */
  readonly leaseToken: bigint | undefined;
  readonly body: AsyncIterable<Uint8Array>;
  readonly signal: AbortSignal;
}

/** Streams an artifact into the store. The artifact exists when this resolves, and nothing is left when it rejects. */
export type UploadArtifact = (command: UploadArtifactCommand) => Promise<Artifact>;

/** How long an upload may be silent, and how often it says that it lives, in milliseconds. */
export interface UploadTiming {
  readonly leaseMs: number;
  readonly heartbeatMs: number;
}

const REMOVE_LIMIT = 10_000;

/** Makes UploadArtifact. `maxBytes` bounds one artifact. */
export const makeUploadArtifact =
  (
    jobs: JobRepository,
    artifacts: ArtifactIndex,
    store: ObjectStore,
    maxBytes: number,
    timing: UploadTiming,
  ): UploadArtifact =>
  async ({ tenantId, jobId, kind, name, contentType, leaseToken, body, signal }) => {
    const upload: NewUpload = { tenantId, jobId, uploadId: newId(), kind, name, contentType, leaseMs: timing.leaseMs };
    // The intent comes before the first byte: whoever removes the job knows that somebody is still writing.
    await artifacts.begin(upload, (job, now) => assertTakesUpload(job, kind, leaseToken, now));
    crashPoint('upload.after-intent');
    const lost = new AbortController();
    const heartbeat = setInterval(() => {
      artifacts.renew(upload).then(
        (alive) => alive || lost.abort(jobNotFound()),
        () => undefined, // The lease outlives a hiccup; when it does not, the next renewal says so.
      );
    }, timing.heartbeatMs);
    try {
      const { bytes, sha256 } = await store.put(artifactKey(tenantId, jobId, kind, name), body, {
        contentType,
        maxBytes,
        signal: AbortSignal.any([signal, lost.signal]),
      });
      crashPoint('upload.after-put');
      const artifact = await artifacts.finish(upload, bytes, sha256);
      if (artifact) return artifact;
      // The job's removal may be past its read-back if this upload slept over its lease: then nobody else would.
      const existing = await jobs.findExisting(tenantId, [jobId]);
      if (!existing.has(jobId)) await store.removePrefix(jobPrefix(tenantId, jobId), { limit: REMOVE_LIMIT });
      throw jobNotFound();
    } catch (error) {
      await artifacts.abandon(upload);
      throw lost.signal.aborted ? lost.signal.reason : error;
    } finally {
      clearInterval(heartbeat);
    }
  };
