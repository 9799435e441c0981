import type { MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs, type Timestamp } from '@bufbuild/protobuf/wkt';
import type { BulkDeletion, BulkDeletionPreview } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  type Artifact,
  type ArtifactKind,
  type Job,
  JobState,
  type JobView,
  type TaskState,
} from '#gen/lethe/job/v1/job_pb.ts';
import type { JobFilterSchema, SweepOrphansResponse } from '#gen/lethe/job/v1/job_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type BulkDeletionOptions, type BulkDeletions, orderBulk, presentPreview } from './bulk-deletions.ts';
import { type CallOptions, sharedDeadline, splitCall, toTransport } from './call-options.ts';
import { type Deletions, hasSettled } from './deletions.ts';
import { LetheError, type StatusName } from './lethe-error.ts';
import type { Services } from './services.ts';
import { everyChange, itemOf, listOf, type PollOptions, present } from './streams.ts';

/** What a job is to be. */
export interface NewJob extends CallOptions {
  readonly displayName?: string;
  /** The run whose effect the job is: hidden, compensated and purged with it. */
  readonly runId?: string;
  readonly step?: string;
  readonly taskNames?: readonly string[];
  /** By default one of its own, so that a call that is sent again creates one job. */
  readonly requestId?: string;
}

/** How a job is to be deleted. */
export interface DeleteJobOptions extends CallOptions {
  /** Why, for the audit. */
  readonly reason?: string;
  /** By default one of its own. The same one again answers with the same deletion. */
  readonly requestId?: string;
  /** Answer undefined where there is no such job, rather than throw JOB_NOT_FOUND. */
  readonly allowMissing?: boolean;
  /** Only if the job still has this etag. */
  readonly etag?: string;
  /** How long to wait for the removal to end, in milliseconds: 60,000 by default, 0 for not at all, 24 days at most. */
  readonly waitMs?: number;
  /**
   * How long order and wait may take together, in milliseconds. DEADLINE_EXCEEDED where the order has no answer by then;
   * later the wait is over.
   */
  readonly timeoutMs?: number | undefined;
}

/** Which artifact of a job. */
export interface ArtifactName {
  readonly kind: ArtifactKind;
  readonly name: string;
}

/** How an artifact is uploaded. */
export interface UploadOptions extends ArtifactName, CallOptions {
  readonly contentType?: string;
  /** The lease of the worker that uploads; without one only INPUT is taken. */
  readonly leaseToken?: bigint;
  /**
   * How long the whole upload may take, in milliseconds. By default as long as it goes on: the service ends it when nothing
   * was sent for 30 s.
   */
  readonly timeoutMs?: number | undefined;
}

/** A job that a worker has, and the proof of it. */
export interface Claim {
  /** RUNNING; CANCELLING once the worker should stop and finish it as CANCELLED. */
  readonly job: Job;
  /** Every write of the worker carries it; LEASE_LOST once another worker has claimed the job. */
  readonly leaseToken: bigint;
  /** When the lease ends unless it is renewed, by the database's clock. */
  readonly leaseExpireTime: Timestamp;
}

/** How a job is claimed. */
export interface ClaimOptions extends CallOptions {
  /** A name of the worker for logs. */
  readonly workerId: string;
  /** How long the lease lasts, in milliseconds: a second to 15 minutes, a minute by default. */
  readonly leaseMs?: number;
  /** By default one of its own, so that a call that is sent again claims one job. */
  readonly requestId?: string;
}

/** Where a task of a claimed job stands. */
export interface TaskUpdate extends CallOptions {
  readonly taskName: string;
  readonly state: TaskState;
  /** Why it failed; for FAILED only. */
  readonly error?: string;
  /** How long the lease lasts from now, in milliseconds. */
  readonly leaseMs?: number;
}

/** How a claimed job ended. */
export interface JobEnd extends CallOptions {
  /** COMPLETED, FAILED, or CANCELLED when the job is CANCELLING. */
  readonly state: JobState;
  /** Why it failed; for FAILED only, and required then. */
  readonly error?: string;
}

/** Transcription jobs and their artifacts. */
export interface Jobs {
  create(job?: NewJob): Promise<Job>;
  get(jobId: string, options?: CallOptions & { readonly showDeleted?: boolean; readonly view?: JobView }): Promise<Job>;
  /** Every job, newest first; without its tasks where the view is BASIC. */
  list(
    filter?: CallOptions & {
      readonly state?: JobState;
      readonly runId?: string;
      readonly minCreateTime?: Timestamp;
      readonly maxCreateTime?: Timestamp;
      readonly showDeleted?: boolean;
      readonly view?: JobView;
    },
  ): AsyncIterable<Job>;
  /**
   * The job now and after each change, until it has ended. Survives a lost connection. JOB_NOT_FOUND when it is deleted
   * meanwhile.
   */
  watch(jobId: string, options?: PollOptions): AsyncIterable<Job>;
  cancel(jobId: string, options?: CallOptions & { readonly reason?: string; readonly etag?: string }): Promise<Job>;
  /** For workers: the oldest job that waits or whose worker is gone; undefined when there is none. */
  claim(options: ClaimOptions): Promise<Claim | undefined>;
  /** For workers: tells where a task stands, and renews the lease. LEASE_LOST when the job is another worker's. */
  updateTask(claim: Claim, update: TaskUpdate): Promise<Claim>;
  /** For workers: renews the lease and changes nothing else. */
  renew(claim: Claim, options?: CallOptions & { readonly leaseMs?: number }): Promise<Claim>;
  /** For workers: ends the job and gives up the lease. The same end again answers with the job as it is. */
  finish(claim: Claim, end: JobEnd): Promise<Job>;
  /** Sends the body as it comes, never whole in memory; the artifact exists when this resolves and not before. */
  upload(jobId: string, options: UploadOptions, body: AsyncIterable<Uint8Array>): Promise<Artifact>;
  /** The artifact's description, and its bytes as they come; a body that ends well was whole. */
  download(
    jobId: string,
    options: ArtifactName & CallOptions & { readonly showDeleted?: boolean },
  ): Promise<{ readonly artifact: Artifact; readonly body: AsyncIterable<Uint8Array> }>;
  /** Every artifact by kind and name. */
  artifacts(
    jobId: string,
    filter?: CallOptions & { readonly kind?: ArtifactKind; readonly showDeleted?: boolean },
  ): AsyncIterable<Artifact>;
  /** What a deletion would take. Nothing is changed; the answer has no id. */
  previewDelete(jobId: string, options?: CallOptions): Promise<Deletion>;
  /**
   * Deletes a finished job for good and waits until nothing is left of it. The deletion is the receipt: COMPLETE when
   * everything is gone, STUCK when something could not be removed, any other state when the wait was over first or the
   * service was away.
   */
  delete(jobId: string, options?: DeleteJobOptions): Promise<Deletion | undefined>;
  /** How many jobs deleteAll would take now, how many of them it would skip and why, and the newest ten. */
  previewDeleteAll(filter: JobFilter, options?: CallOptions): Promise<BulkDeletionPreview>;
  /** Deletes every job that matches, as one durable operation; see `lethe.bulkDeletions` with `of: 'job'`. */
  deleteAll(filter: JobFilter, options: BulkDeletionOptions): Promise<BulkDeletion>;
}

/** Which jobs: conditions that are set must all match, and at least one must be. */
export type JobFilter = MessageInitShape<typeof JobFilterSchema>;

/** What is to be swept. */
export interface SweepOptions extends CallOptions {
  /** Absent: every tenant. */
  readonly tenantIds?: readonly string[];
  /** Count only, remove nothing. */
  readonly validateOnly: boolean;
  /** What is younger is passed over, since an upload may be under way. */
  readonly minAgeSeconds?: number;
  /** Why, for the audit; required unless validateOnly. */
  readonly reason?: string;
  /** The largest share of a tenant's objects that may go, in percent; the service's own by default. */
  readonly maxSharePercent?: number;
  /** Also sweep tenants, named by `tenantIds`, that have objects and not one job. */
  readonly tenantsWithoutJobs?: boolean;
}

const CHUNK_BYTES = 256 * 1_024;
const DELETE_WAIT_MS = 60_000;
const DELETE_POLL_MS = 100;
/** The longest that a timer can be set for, 24 days; a longer one would end at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;
const WAIT_ENDS: ReadonlySet<StatusName> = new Set(['UNAVAILABLE', 'DEADLINE_EXCEEDED']);
const FINAL: ReadonlySet<JobState> = new Set([JobState.CANCELLED, JobState.COMPLETED, JobState.FAILED]);

/** Whether a job has ended. */
export const hasEnded = (job: Job): boolean => FINAL.has(job.state);

/** Makes `lethe.jobs`. */
export const makeJobs = (services: Services, deletions: Deletions, bulkDeletions: BulkDeletions): Jobs => ({
  create: async ({ taskNames = [], ...options } = {}) =>
    itemOf('job', options, (request, call) =>
      services.job.createJob({ requestId: newId(), ...request, taskNames: [...taskNames] }, call),
    ),
  get: (jobId, options = {}) =>
    itemOf('job', options, (request, call) => services.job.getJob({ jobId, ...request }, call)),
  list: (options = {}) => listOf('jobs', options, (request, call) => services.job.listJobs(request, call)),
  watch: (jobId, options) =>
    everyChange(
      async (call) => present('job', (await services.job.getJob({ jobId }, call)).job),
      (job) => job.etag,
      hasEnded,
      options,
    ),
  cancel: (jobId, options = {}) =>
    itemOf('job', options, (request, call) => services.job.cancelJob({ jobId, ...request }, call)),
  async claim({ leaseMs, ...options }) {
    const { request, call } = splitCall(options);
    const { job, leaseToken, leaseExpireTime } = await services.job.claimJob(
      { requestId: newId(), ...request, ...lease(leaseMs) },
      call,
    );
    return job && { job, leaseToken, leaseExpireTime: present('lease_expire_time', leaseExpireTime) };
  },
  updateTask: (claim, { leaseMs, ...options }) => updateClaim(services, claim, leaseMs, options),
  renew: (claim, { leaseMs, ...options } = {}) => updateClaim(services, claim, leaseMs, options),
  finish: async ({ job: { id: jobId }, leaseToken }, end) =>
    itemOf('job', end, (request, call) => services.job.finishJob({ jobId, leaseToken, ...request }, call)),
  async upload(jobId, { timeoutMs, signal, ...header }, body) {
    const parts = async function* () {
      yield { part: { case: 'header' as const, value: { jobId, ...header } } };
      for await (const bytes of body) {
        for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
          yield { part: { case: 'chunk' as const, value: bytes.subarray(at, at + CHUNK_BYTES) } };
        }
      }
    };
    return present(
      'artifact',
      (await services.job.uploadArtifact(parts(), toTransport({ timeoutMs, signal }))).artifact,
    );
  },
  async download(jobId, options) {
    const { request, call } = splitCall(options);
    const stream = services.job.downloadArtifact({ jobId, ...request }, call);
    const parts = stream[Symbol.asyncIterator]();
    const first = await parts.next();
    const described = !first.done && first.value.part.case === 'artifact' ? first.value.part.value : undefined;
    const body = async function* () {
      for await (const { part } of { [Symbol.asyncIterator]: () => parts }) {
        if (part.case === 'chunk') yield part.value;
      }
    };
    return { artifact: present('artifact', described), body: body() };
  },
  artifacts: (jobId, options = {}) =>
    listOf('artifacts', options, (request, call) => services.job.listArtifacts({ jobId, ...request }, call)),
  previewDelete: (jobId, options = {}) =>
    itemOf('deletion', options, (_, call) => services.job.deleteJob({ jobId, validateOnly: true }, call)),
  async delete(jobId, { waitMs = DELETE_WAIT_MS, signal, timeoutMs, ...request } = {}) {
    const call = sharedDeadline({ signal, timeoutMs });
    const boundedWaitMs = Math.min(Math.trunc(waitMs), MAX_TIMER_MS);
    let { deletion } = await services.job.deleteJob({ requestId: newId(), jobId, ...request }, call());
    if (!deletion || !(boundedWaitMs > 0) || hasSettled(deletion)) return deletion;
    const waited = AbortSignal.timeout(boundedWaitMs);
    const either = signal ? AbortSignal.any([signal, waited]) : waited;
    const watch = { of: 'job', pollMs: DELETE_POLL_MS, ...call(), signal: either } as const;
    try {
      for await (deletion of deletions.watch(deletion.id, watch));
    } catch (error) {
      // The wait is over, or the service away; what was committed goes on, and the deletion says how far it was.
      const isOver = waited.aborted || (error instanceof LetheError && WAIT_ENDS.has(error.code));
      if (!isOver || signal?.aborted) throw error;
    }
    return deletion;
  },
  async previewDeleteAll(filter, options = {}) {
    return presentPreview(await services.job.deleteJobs({ filter, validateOnly: true }, toTransport(options)));
  },
  deleteAll: (filter, options) =>
    orderBulk(bulkDeletions, 'job', options, (order, call) => services.job.deleteJobs({ filter, ...order }, call)),
});

const lease = (leaseMs: number | undefined) =>
  leaseMs === undefined ? {} : { leaseDuration: durationFromMs(leaseMs) };

async function updateClaim(
  services: Services,
  { job: { id: jobId }, leaseToken }: Claim,
  leaseMs: number | undefined,
  options: CallOptions | TaskUpdate,
): Promise<Claim> {
  const { request, call } = splitCall(options);
  const { job, leaseExpireTime } = await services.job.updateTask(
    { jobId, leaseToken, ...request, ...lease(leaseMs) },
    call,
  );
  return {
    job: present('job', job),
    leaseToken,
    leaseExpireTime: present('lease_expire_time', leaseExpireTime),
  };
}

/** Compares store and jobs, tenant by tenant; the summary comes last. */
export const sweepOrphans = (
  services: Services,
  {
    tenantIds,
    validateOnly,
    minAgeSeconds,
    reason = '',
    maxSharePercent = 0,
    tenantsWithoutJobs = false,
    ...options
  }: SweepOptions,
): AsyncIterable<SweepOrphansResponse> =>
  services.job.sweepOrphans(
    {
      ...(tenantIds ? { tenantIds: [...tenantIds] } : { allTenants: true }),
      ...(minAgeSeconds === undefined ? {} : { minAge: { seconds: BigInt(minAgeSeconds), nanos: 0 } }),
      validateOnly,
      reason,
      maxSharePercent,
      tenantsWithoutJobs,
    },
    toTransport(options),
  );
