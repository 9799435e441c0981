import { newId } from '#libs/kernel/id.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import { type Artifact, type ArtifactKind, artifactKey, jobPrefix } from '../domain/artifact.ts';
import { jobNotFound, leaseLost } from '../domain/errors.ts';
import type { Job } from '../domain/job.ts';
import type { ArtifactIndex, JobRepository, NewUpload } from './ports.ts';

/** What is stored, and whether its job may have it. */
export interface StoreArtifactCommand {
  readonly tenantId: string;
  readonly jobId: string;
  readonly kind: ArtifactKind;
  readonly name: string;
  readonly contentType: string;
  /** Of the worker that holds the job; undefined for anybody else. */
  readonly leaseToken: bigint | undefined;
  readonly body: AsyncIterable<Uint8Array>;
  readonly signal: AbortSignal;
  /** Throws unless the job takes it now; called under the lock of the job's row. */
  readonly check: (job: Job, now: Temporal.Instant) => void;
}

/**
 * Streams an artifact into the store under a lease that a removal of the job waits for. The artifact exists when this
 * resolves, and nothing is left when it rejects. JOB_NOT_FOUND, OPERATION_IN_PROGRESS, LEASE_LOST, ARTIFACT_TOO_LARGE,
 * and what `check` throws.
 */
export type StoreArtifact = (command: StoreArtifactCommand) => Promise<Artifact>;

/** How long an upload may be silent, and how often it says that it lives, in milliseconds. */
export interface UploadTiming {
  readonly leaseMs: number;
  readonly heartbeatMs: number;
}

const REMOVE_LIMIT = 10_000;

/** Makes StoreArtifact. `maxBytes` bounds one artifact. */
export const makeStoreArtifact =
  (
    jobs: JobRepository,
    artifacts: ArtifactIndex,
    store: ObjectStore,
    maxBytes: number,
    timing: UploadTiming,
  ): StoreArtifact =>
  async ({ tenantId, jobId, kind, name, contentType, leaseToken, body, signal, check }) => {
    const { leaseMs, heartbeatMs } = timing;
    const upload: NewUpload = { tenantId, jobId, uploadId: newId(), kind, name, contentType, leaseToken, leaseMs };
    // The intent comes before the first byte: whoever removes the job knows that somebody is still writing.
    await artifacts.begin(upload, check);
    crashPoint('upload.after-intent');
    const lost = new AbortController();
    const heartbeat = setInterval(() => {
      artifacts.renew(upload).then(
        (alive) => alive || lost.abort(leaseLost()),
        () => undefined, // The lease outlives a hiccup; when it does not, the next renewal says so.
      );
    }, heartbeatMs);
    const ended = AbortSignal.any([signal, lost.signal]);
    /** Asked once more between the last byte and the object: one that may not be there is not made at all. */
    const guarded = async function* (): AsyncIterable<Uint8Array> {
      yield* untilAborted(body, ended);
      if (!(await artifacts.renew(upload))) throw leaseLost();
    };
    try {
      const { bytes, sha256 } = await store.put(artifactKey(tenantId, jobId, kind, name), guarded(), {
        contentType,
        maxBytes,
        signal: ended,
      });
      crashPoint('upload.after-put');
      const artifact = await artifacts.finish(upload, bytes, sha256);
      if (artifact) return artifact;
      throw leaseLost();
    } catch (error) {
      await artifacts.abandon(upload);
      if (await jobs.get(tenantId, jobId, true)) throw lost.signal.aborted ? lost.signal.reason : error;
      // The removal waits for a living upload and ends a sleeping one. Once the row is gone nobody looks again, so what
      // a store may have made of an upload that it had to end goes here; before, the removal counts it.
      const existing = await jobs.findExisting(tenantId, [jobId]);
      if (!existing.has(jobId)) await store.removePrefix(jobPrefix(tenantId, jobId), { limit: REMOVE_LIMIT });
      throw jobNotFound();
    } finally {
      clearInterval(heartbeat);
    }
  };

/** The chunks until the signal is aborted, whose reason is thrown then: also while the sender is silent. */
async function* untilAborted(body: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncIterable<Uint8Array> {
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => undefined);
  const onAbort = (): void => aborted.reject(signal.reason);
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  const chunks = body[Symbol.asyncIterator]();
  try {
    for (;;) {
      const { done, value } = await Promise.race([chunks.next(), aborted.promise]);
      if (done) return;
      yield value;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    // Not awaited: a sender that is silent would keep it waiting.
    chunks.return?.().catch(() => undefined);
  }
}
