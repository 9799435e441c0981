import { crashPoint } from '#libs/durable/crash-point.ts';
import { hasReason } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { type Artifact, type ArtifactKind, jobPrefix, objectKey } from '../domain/artifact.ts';
import { jobNotFound, leaseLost } from '../domain/errors.ts';
import type { Job } from '../domain/job.ts';
import type { CheckStore } from './check-store.ts';
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
  /** OPERATION_IN_PROGRESS where another upload has stored the artifact meanwhile, which is left as it is. */
  readonly ifAbsent: boolean;
  readonly body: AsyncIterable<Uint8Array>;
  readonly signal: AbortSignal;
  /** The id of an upload that was begun, with a lease of `leaseMs`, together with its job. Absent: it begins now. */
  readonly begunUploadId?: string | undefined;
  /** Throws unless the job takes it now; called under the lock of the job's row. */
  readonly check: (job: Job, now: Temporal.Instant) => void;
}

/**
 * Streams an artifact to an object of its own, under a lease that a removal of the job waits for, and then points the
 * artifact's row at it. When this resolves, a download gives these bytes; when it rejects, it gives what it gave before.
 * What the store holds of an upload that failed is removed in the background. JOB_NOT_FOUND, OPERATION_IN_PROGRESS,
 * LEASE_LOST, ARTIFACT_TOO_LARGE, STORE_NOT_OURS, and what `check` throws. DEPENDENCY_UNAVAILABLE may come when the row was written and
 * the database then went away: that is the one error after which the new bytes may be there.
 */
export type StoreArtifact = (command: StoreArtifactCommand) => Promise<Artifact>;

/** How long an upload may be silent, and how often it says that it lives, in milliseconds. */
export interface UploadTiming {
  readonly leaseMs: number;
  readonly heartbeatMs: number;
}

const REMOVE_LIMIT = 10_000;
const READ_BACK_PAUSE_MS = 200;

/** Makes StoreArtifact. `maxBytes` bounds one artifact. */
export const makeStoreArtifact =
  (
    jobs: JobRepository,
    artifacts: ArtifactIndex,
    store: ObjectStore,
    checkStore: CheckStore,
    maxBytes: number,
    timing: UploadTiming,
  ): StoreArtifact =>
  async ({ tenantId, jobId, kind, name, contentType, leaseToken, ifAbsent, body, signal, begunUploadId, check }) => {
    const { leaseMs, heartbeatMs } = timing;
    const uploadId = begunUploadId ?? newId();
    const upload: NewUpload = { tenantId, jobId, uploadId, kind, name, contentType, leaseToken, leaseMs, ifAbsent };
    // The intent comes before the first byte: whoever removes the job knows that somebody is still writing, and what
    // the store gets from here on is known under this upload's id.
    if (begunUploadId === undefined) {
      await checkStore();
      crashPoint('upload.before-intent');
      try {
        await artifacts.begin(upload, check);
      } catch (error) {
        // Where the answer was lost, the next upload of this name need not wait for the lease to run out.
        if (hasReason(error, 'DEPENDENCY_UNAVAILABLE')) await abandonOnce(artifacts, upload);
        throw error;
      }
    }
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
      // What another installation's store has is not acknowledged.
      await checkStore();
      crashPoint('upload.before-last-look');
      if (!(await artifacts.renew(upload))) throw leaseLost();
      crashPoint('upload.after-last-look');
    };
    let isFinishing = false;
    try {
      if (begunUploadId !== undefined) await checkStore();
      const key = objectKey(tenantId, { jobId, kind, name, objectId: upload.uploadId });
      const { bytes, sha256 } = await store.put(key, guarded(), { contentType, maxBytes, signal: ended });
      crashPoint('upload.after-put');
      isFinishing = true;
      const artifact = await artifacts.finish(upload, bytes, sha256);
      isFinishing = false;
      crashPoint('upload.after-finish');
      if (artifact) return artifact;
      throw leaseLost();
    } catch (failure) {
      const error = isFinishing ? failure : await toLostLease(artifacts, upload, failure);
      // Giving the upload up ends it as well, and a heartbeat that finds it ended then tells nothing of a lost lease.
      const hasLostLease = lost.signal.aborted;
      const finished = await (isFinishing ? abandonPatiently(artifacts, upload) : abandonOnce(artifacts, upload));
      if (finished) return finished;
      if (await jobs.get(tenantId, jobId, true)) throw hasLostLease ? lost.signal.reason : error;
      // The removal waits for a living upload and ends a sleeping one. Once the row is gone nobody looks again, so what
      // a store may have made of an upload that it had to end goes here; before, the removal counts it.
      const existing = await jobs.findExisting(tenantId, [jobId]);
      if (!existing.has(jobId)) await store.removePrefix(jobPrefix(tenantId, jobId), { limit: REMOVE_LIMIT });
      throw jobNotFound();
    } finally {
      clearInterval(heartbeat);
    }
  };

/** A store that refuses an upload whose lease ran out meanwhile was told to by whoever removed its remains. */
async function toLostLease(artifacts: ArtifactIndex, upload: NewUpload, error: unknown): Promise<unknown> {
  if (!hasReason(error, 'DEPENDENCY_UNAVAILABLE')) return error;
  const isHeld = await artifacts.renew(upload).catch(() => true);
  return isHeld ? error : leaseLost();
}

/** Where the database does not answer, the upload's lease runs out and it is abandoned then. */
const abandonOnce = (artifacts: ArtifactIndex, upload: NewUpload): Promise<Artifact | undefined> =>
  artifacts.abandon(upload).catch(() => undefined);

/** The answer to `finish` was lost: reads back what became of it, for as long as the upload's lease. */
async function abandonPatiently(artifacts: ArtifactIndex, upload: NewUpload): Promise<Artifact | undefined> {
  for (const deadline = performance.now() + upload.leaseMs; ; ) {
    try {
      return await artifacts.abandon(upload);
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, READ_BACK_PAUSE_MS));
    }
  }
}

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
