import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { DeletionSchema, Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactSchema, JobSchema } from '#gen/lethe/job/v1/job_pb.ts';
import {
  DownloadArtifactResponseSchema,
  type JobService,
  type SweepOrphansResponse,
  SweepOrphansResponseSchema,
  type UploadArtifactRequest,
} from '#gen/lethe/job/v1/job_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { makeStreamLimit } from '#libs/grpc/limit-streams.ts';
import {
  parseEach,
  parseEnum,
  parseFields,
  parseOptionalEnum,
  parseOptionalText,
  parseReason,
  parseRequestId,
  parseRequiredReason,
  parseText,
  parseView,
} from '#libs/grpc/parse.ts';
import { parseDurationMs, parseTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId, parseOptionalId, parseTenantId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import type { Contents } from '#libs/object-store/object-store.ts';
import { type Artifact, parseArtifactName } from '../../domain/artifact.ts';
import { addCounts, NOTHING_REMOVED, type RemovalCounts } from '../../domain/deletion.ts';
import type { Job } from '../../domain/job.ts';
import type { CancelJob } from '../../use-cases/cancel-job.ts';
import type { CreateJob } from '../../use-cases/create-job.ts';
import type { DeleteJob } from '../../use-cases/delete-job.ts';
import type { DownloadArtifact } from '../../use-cases/download-artifact.ts';
import type { TenantSweep } from '../../use-cases/ports.ts';
import type { ReadJobs } from '../../use-cases/read-jobs.ts';
import type { SweepOrphans } from '../../use-cases/sweep-orphans.ts';
import type { UploadArtifact } from '../../use-cases/upload-artifact.ts';
import type { WorkOnJob } from '../../use-cases/work-on-job.ts';
import { parseDisplayName, parseMediaType, parseTaskName, parseTaskNames } from './fields.ts';
import {
  ARTIFACT_KIND_OF,
  DELETION_STATE_OF,
  JOB_STATE_OF,
  TASK_STATE_OF,
  toArtifactMessage,
  toDeletionMessage,
  toFailedItems,
  toJobMessage,
  toOrphanCounts,
} from './messages.ts';

/** What the RPCs are made of. */
export interface JobUseCases {
  readonly createJob: CreateJob;
  readonly readJobs: ReadJobs;
  readonly uploadArtifact: UploadArtifact;
  readonly downloadArtifact: DownloadArtifact;
  readonly workOnJob: WorkOnJob;
  readonly cancelJob: CancelJob;
  readonly deleteJob: DeleteJob;
  readonly sweepOrphans: SweepOrphans;
}

const MAX_WORKER_NAME = 100;
const MAX_ERROR = 2_000;
const MAX_ETAG = 100;
const MAX_TENANTS = 1_000;
const DEFAULT_LEASE_MS = 60_000;
const MIN_LEASE_MS = 1_000;
const MAX_LEASE_MS = 900_000;
const MAX_CHUNK_BYTES = 1_048_576;
const DOWNLOAD_CHUNK_BYTES = 65_536;
// A download holds a connection to the store for as long as its reader takes.
const DOWNLOADS = { perCaller: 128, perProcess: 512 };
const HOUR_MS = 3_600_000;
const DEFAULT_SWEEP_AGE_MS = 24 * HOUR_MS;
const MAX_SWEEP_AGE_MS = 3_650 * 24 * HOUR_MS;
const WORKER_STATES = new Map([...JOB_STATE_OF].filter(([, state]) => /^(COMPLETED|FAILED|CANCELLED)$/.test(state)));

/** JobService over gRPC: a request becomes a command, its outcome a message. */
export const jobService = (
  useCases: JobUseCases,
  openDownload = makeStreamLimit(DOWNLOADS),
): Partial<ServiceImpl<typeof JobService>> => ({
  async createJob(request, context) {
    const tenantId = tenantOf(callerOf(context));
    const command = parseFields({
      requestId: () => parseRequestId(request.requestId),
      displayName: () => parseDisplayName('display_name', request.displayName),
      runId: () => parseOptionalId('run_id', request.runId),
      step: () => parseStep(request.step, request.runId),
      taskNames: () => parseTaskNames('task_names', request.taskNames),
    });
    return { job: toJobMessage(await useCases.createJob({ tenantId, ...command })) };
  },

  async getJob(request, context) {
    const { jobId, view } = parseFields({
      jobId: () => parseId('job_id', request.jobId),
      view: () => parseView(request.view, 'FULL'),
    });
    return { job: toJobMessage(await useCases.readJobs.get(callerOf(context), jobId, request.showDeleted, view)) };
  },

  async listJobs(request, context) {
    const caller = callerOf(context);
    const { limit, ...query } = parseFields({
      view: () => parseView(request.view, 'FULL'),
      state: () => parseOptionalEnum('state', request.state, JOB_STATE_OF),
      runId: () => parseOptionalId('run_id', request.runId),
      minCreatedAt: () => parseTimestamp('min_create_time', request.minCreateTime),
      maxCreatedAt: () => parseTimestamp('max_create_time', request.maxCreateTime),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const { showDeleted } = request;
    const { state, runId, minCreatedAt, maxCreatedAt } = query;
    const filter = { state, runId, min: minCreatedAt?.toString(), max: maxCreatedAt?.toString(), showDeleted };
    const scope: PageScope = { rpc: 'ListJobs', tenantId: tenantOf(caller), filter };
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id]);
    const page = await useCases.readJobs.list(caller, { ...query, showDeleted, limit, after });
    const { messages: jobs, nextPageToken } = fitPage(scope, JobSchema, page, toJobMessage, keyOf);
    return { jobs, nextPageToken };
  },

  async uploadArtifact(requests, context) {
    const tenantId = tenantOf(callerOf(context));
    const iterator = requests[Symbol.asyncIterator]();
    const first = await iterator.next();
    const part = first.done ? undefined : first.value.part;
    if (part?.case !== 'header') throw fieldInvalid('header', 'must be the first message');
    const header = part.value;
    const command = parseFields({
      jobId: () => parseId('header.job_id', header.jobId),
      kind: () => parseEnum('header.kind', header.kind, ARTIFACT_KIND_OF),
      name: () => parseArtifactName('header.name', header.name),
      contentType: () => parseMediaType('header.content_type', header.contentType),
    });
    const body = chunksOf({ [Symbol.asyncIterator]: () => iterator });
    const artifact = await useCases.uploadArtifact({
      ...command,
      tenantId,
      leaseToken: header.leaseToken,
      body,
      signal: context.signal,
    });
    return { artifact: toArtifactMessage(artifact) };
  },

  async *downloadArtifact(request, context) {
    const command = parseFields({
      jobId: () => parseId('job_id', request.jobId),
      kind: () => parseEnum('kind', request.kind, ARTIFACT_KIND_OF),
      name: () => parseArtifactName('name', request.name),
    });
    const caller = callerOf(context);
    const end = openDownload(caller.tenantId ?? '');
    try {
      const { artifact, body } = await useCases.downloadArtifact({
        ...command,
        caller,
        showDeleted: request.showDeleted,
        signal: context.signal,
      });
      yield create(DownloadArtifactResponseSchema, {
        part: { case: 'artifact', value: toArtifactMessage(artifact) as never },
      });
      for await (const bytes of body) {
        for (let at = 0; at < bytes.length; at += DOWNLOAD_CHUNK_BYTES) {
          const value = bytes.subarray(at, at + DOWNLOAD_CHUNK_BYTES);
          yield create(DownloadArtifactResponseSchema, { part: { case: 'chunk', value } });
        }
      }
    } finally {
      end();
    }
  },

  async listArtifacts(request, context) {
    const caller = callerOf(context);
    const { jobId, kind, limit } = parseFields({
      jobId: () => parseId('job_id', request.jobId),
      kind: () => parseOptionalEnum('kind', request.kind, ARTIFACT_KIND_OF),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const scope: PageScope = { rpc: 'ListArtifacts', tenantId: tenantOf(caller), filter: { jobId, kind } };
    const after = decodePageToken(scope, request.pageToken, [KEY.text, KEY.text]);
    const page = await useCases.readJobs.listArtifacts(caller, jobId, kind, { limit, after }, request.showDeleted);
    const byName = (artifact: Artifact) => [artifact.kind, artifact.name];
    const { messages: artifacts, nextPageToken } = fitPage(scope, ArtifactSchema, page, toArtifactMessage, byName);
    return { artifacts, nextPageToken };
  },

  async claimJob(request, context) {
    const { workerId, leaseMs, requestId } = parseFields({
      requestId: () => parseRequestId(request.requestId),
      workerId: () => parseText('worker_id', request.workerId, { min: 1, max: MAX_WORKER_NAME }),
      leaseMs: () => parseLeaseMs(request.leaseDuration),
    });
    const job = await useCases.workOnJob.claim(tenantOf(callerOf(context)), workerId, leaseMs, requestId);
    return job?.lease ? { job: toJobMessage(job), ...leaseOf(job), leaseToken: job.lease.token } : {};
  },

  async updateTask(request, context) {
    const command = parseFields({
      jobId: () => parseId('job_id', request.jobId),
      leaseMs: () => parseLeaseMs(request.leaseDuration),
      task: () => {
        if (request.taskName === '') {
          if (request.state !== 0) throw fieldInvalid('task_name', 'is required with a state');
          return undefined;
        }
        return parseFields({
          name: () => parseTaskName('task_name', request.taskName),
          state: () => {
            const state = parseEnum('state', request.state, TASK_STATE_OF);
            if (state === 'PENDING') throw fieldInvalid('state', 'must be RUNNING, COMPLETED, FAILED or CANCELLED');
            return state;
          },
          error: () => {
            const error = parseOptionalText('error', request.error, MAX_ERROR);
            if (error !== undefined && TASK_STATE_OF.get(request.state) !== 'FAILED')
              throw fieldInvalid('error', 'goes with FAILED only');
            return error;
          },
        });
      },
    });
    const tenantId = tenantOf(callerOf(context));
    const job = await useCases.workOnJob.updateTask({ ...command, tenantId, leaseToken: request.leaseToken });
    return { job: toJobMessage(job), ...leaseOf(job) };
  },

  async finishJob(request, context) {
    const command = parseFields({
      jobId: () => parseId('job_id', request.jobId),
      state: () => parseEnum('state', request.state, WORKER_STATES),
      error: () => {
        const failed = WORKER_STATES.get(request.state) === 'FAILED';
        if (!failed && request.error !== '') throw fieldInvalid('error', 'goes with FAILED only');
        return failed ? parseText('error', request.error, { min: 1, max: MAX_ERROR }) : undefined;
      },
    });
    const tenantId = tenantOf(callerOf(context));
    const job = await useCases.workOnJob.finish({ ...command, tenantId, leaseToken: request.leaseToken });
    return { job: toJobMessage(job) };
  },

  async cancelJob(request, context) {
    const command = parseFields({
      jobId: () => parseId('job_id', request.jobId),
      reason: () => parseReason(request.reason),
      etag: () => parseText('etag', request.etag, { max: MAX_ETAG }),
    });
    return { job: toJobMessage(await useCases.cancelJob({ ...command, caller: callerOf(context) })) };
  },

  async deleteJob(request, context) {
    const command = parseFields({
      jobId: () => parseId('job_id', request.jobId),
      requestId: () => parseRequestId(request.requestId),
      reason: () => parseReason(request.reason),
      etag: () => parseText('etag', request.etag, { max: MAX_ETAG }),
    });
    const { allowMissing, validateOnly } = request;
    const { preview, order } = useCases.deleteJob;
    const asked = { ...command, caller: callerOf(context), allowMissing };
    const deletion = await (validateOnly ? preview(asked, context.signal) : order(asked));
    return deletion ? { deletion: toDeletionMessage(deletion) } : {};
  },

  async getDeletion(request, context) {
    const deletionId = parseId('deletion_id', request.deletionId);
    return { deletion: toDeletionMessage(await useCases.readJobs.getDeletion(callerOf(context), deletionId)) };
  },

  async listDeletions(request, context) {
    const caller = callerOf(context);
    const { state, jobId, limit } = parseFields({
      state: () => parseOptionalEnum('state', request.state, DELETION_STATE_OF),
      jobId: () => parseOptionalId('job_id', request.jobId),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const scope: PageScope = { rpc: 'job.ListDeletions', tenantId: tenantOf(caller), filter: { state, jobId } };
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id]);
    const page = await useCases.readJobs.listDeletions(caller, { state, jobId, limit, after });
    const { messages: deletions, nextPageToken } = fitPage(scope, DeletionSchema, page, toDeletionMessage, keyOf);
    return { deletions, nextPageToken };
  },

  async redriveDeletion(request, context) {
    const { deletionId, reason } = parseFields({
      deletionId: () => parseId('deletion_id', request.deletionId),
      reason: () => parseReason(request.reason),
    });
    return { deletion: toDeletionMessage(await useCases.deleteJob.redrive(callerOf(context), deletionId, reason)) };
  },

  async *sweepOrphans(request, context) {
    const { validateOnly } = request;
    const command = parseFields({
      tenantIds: () => parseTenantIds(request.tenantIds, request.allTenants),
      minAgeMs: () => {
        const ms = parseDurationMs('min_age', request.minAge) ?? DEFAULT_SWEEP_AGE_MS;
        if (ms < HOUR_MS || ms > MAX_SWEEP_AGE_MS) throw fieldInvalid('min_age', 'must be from 1 h to 3,650 d');
        return ms;
      },
      reason: () => (validateOnly ? parseReason(request.reason) : parseRequiredReason(request.reason)),
      maxSharePercent: () => parseSharePercent(request.maxSharePercent),
      tenantsWithoutJobs: () => {
        if (request.tenantsWithoutJobs && request.allTenants)
          throw fieldInvalid('tenants_without_jobs', 'goes with tenant_ids only');
        return request.tenantsWithoutJobs;
      },
    });
    let [tenantCount, failedTenantCount, jobsWithoutObjects, isPartial] = [0, 0, 0, false];
    let sum = { found: NOTHING_REMOVED, deleted: NOTHING_REMOVED, left: NOTHING_REMOVED };
    for await (const sweep of useCases.sweepOrphans(
      { ...command, caller: callerOf(context), validateOnly },
      context.signal,
    )) {
      const counts = {
        found: toRemovalCounts(sweep.found),
        deleted: toRemovalCounts(sweep.deleted),
        left: toRemovalCounts(sweep.left),
      };
      tenantCount += 1;
      failedTenantCount += sweep.error === undefined ? 0 : 1;
      jobsWithoutObjects += sweep.jobsWithoutObjects;
      isPartial ||= sweep.error !== undefined || sweep.failedKeys.length > 0;
      isPartial ||= !validateOnly && toOrphanCounts(counts).some(({ left }) => left !== 0n);
      sum = {
        found: addCounts(sum.found, counts.found),
        deleted: addCounts(sum.deleted, counts.deleted),
        left: addCounts(sum.left, counts.left),
      };
      yield toSweepMessage(sweep, toOrphanCounts(counts));
    }
    yield create(SweepOrphansResponseSchema, {
      event: {
        case: 'summary',
        value: {
          progress: isPartial ? Progress.PARTIAL : Progress.COMPLETE,
          tenantCount,
          failedTenantCount,
          orphans: toOrphanCounts(sum),
          jobsWithoutObjects: BigInt(jobsWithoutObjects),
        } as never,
      },
    });
  },
});

/** The keyset of jobs and of deletions, which are listed newest first. */
const keyOf = ({ createdAt, id }: Pick<Job, 'createdAt' | 'id'>): readonly string[] => [createdAt.toString(), id];

async function* chunksOf(requests: AsyncIterable<UploadArtifactRequest>): AsyncIterable<Uint8Array> {
  for await (const { part } of requests) {
    if (part.case !== 'chunk') throw fieldInvalid('chunk', 'must be in every message but the first');
    if (part.value.length > MAX_CHUNK_BYTES) throw fieldInvalid('chunk', `must have at most ${MAX_CHUNK_BYTES} bytes`);
    yield part.value;
  }
}

const toSweepMessage = (sweep: TenantSweep, orphans: ReturnType<typeof toOrphanCounts>): SweepOrphansResponse =>
  create(SweepOrphansResponseSchema, {
    event: {
      case: 'tenant',
      value: {
        tenantId: sweep.tenantId,
        orphans,
        jobsWithoutObjects: BigInt(sweep.jobsWithoutObjects),
        samples: [
          ...sweep.orphanKeys.map((resourceId) => ({ resourceType: 'object', resourceId })),
          ...sweep.jobIds.map((resourceId) => ({ resourceType: 'job', resourceId })),
        ].slice(0, 100),
        failedItems: toFailedItems(sweep.failedKeys),
        error: sweep.error ?? '',
      } as never,
    },
  });

const toRemovalCounts = ({ versions: objects, markers, uploads, bytes }: Contents): RemovalCounts => ({
  ...NOTHING_REMOVED,
  objects,
  markers,
  uploads,
  bytes,
});

const leaseOf = ({ lease }: Job) => (lease ? { leaseExpireTime: toTimestamp(lease.expiresAt) } : {});

function parseLeaseMs(duration: Parameters<typeof parseDurationMs>[1]): number {
  const ms = parseDurationMs('lease_duration', duration) ?? DEFAULT_LEASE_MS;
  if (ms < MIN_LEASE_MS || ms > MAX_LEASE_MS) throw fieldInvalid('lease_duration', 'must be from 1 s to 15 min');
  return ms;
}

function parseSharePercent(percent: number): number | undefined {
  if (percent < 0 || percent > 100) throw fieldInvalid('max_share_percent', 'must be from 1 to 100, or 0');
  return percent === 0 ? undefined : percent;
}

function parseStep(step: string, runId: string): string | undefined {
  const parsed = parseOptionalText('step', step, 100);
  if (parsed !== undefined && runId === '') throw fieldInvalid('step', 'goes with run_id only');
  return parsed;
}

function parseTenantIds(tenantIds: readonly string[], allTenants: boolean): readonly string[] | undefined {
  if (allTenants !== (tenantIds.length === 0))
    throw fieldInvalid('tenant_ids', 'or all_tenants must be given, not both');
  if (allTenants) return undefined;
  if (tenantIds.length > MAX_TENANTS) throw fieldInvalid('tenant_ids', `must be at most ${MAX_TENANTS}`);
  return parseEach(tenantIds, (tenantId, index) => parseTenantId(`tenant_ids[${index}]`, tenantId));
}
