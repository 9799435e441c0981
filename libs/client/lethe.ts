import { setTimeout as delay } from 'node:timers/promises';
import { type Client, ConnectError } from '@connectrpc/connect';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { type Deletion, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import type { Job, JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';

/** Where the services are, and who calls. A service whose address is absent cannot be called. */
export interface LetheOptions {
  readonly addresses: Partial<Readonly<Record<'run' | 'job' | 'incident' | 'retention', string>>>;
  /** Gives the bearer token of the next call. */
  readonly token: () => Promise<string>;
}

/** How a job is to be deleted. */
export interface DeleteJobOptions {
  readonly reason?: string;
  readonly requestId?: string;
  readonly allowMissing?: boolean;
  /** How long to wait for the removal to end, in milliseconds; 60,000 by default, 0 for not at all. */
  readonly waitMs?: number;
}

/** Lethe for programs: typed clients of the services, and what takes more than one call. */
export interface Lethe {
  readonly services: {
    readonly run: Client<typeof RunService>;
    readonly job: Client<typeof JobService>;
    readonly incident: Client<typeof IncidentService>;
    readonly retention: Client<typeof RetentionService>;
  };
  readonly jobs: {
    /** Deletes a finished job for good and waits until nothing is left of it; the deletion is the receipt. */
    delete(jobId: string, options?: DeleteJobOptions): Promise<Deletion | undefined>;
    /** Every job, page by page, newest first. */
    list(filter?: { state?: JobState; runId?: string; showDeleted?: boolean }): AsyncIterable<Job>;
  };
  close(): void;
}

/** What a refused call told. */
export interface LetheError {
  readonly reason: string;
  readonly message: string;
  readonly metadata: Readonly<Record<string, string>>;
}

const DEFAULT_WAIT_MS = 60_000;
const POLL_MS = 100;

/** Opens a client. No connection is made before the first call. */
export function createLethe({ addresses, token }: LetheOptions): Lethe {
  const connections = new Map<string, Connection>();
  const to = (name: keyof LetheOptions['addresses']): Connection => {
    const address = addresses[name];
    if (!address) throw new Error(`the address of the ${name} service is not set`);
    const connection = connections.get(name) ?? connect({ address, token });
    connections.set(name, connection);
    return connection;
  };
  const services: Lethe['services'] = {
    get run() {
      return to('run').client(RunService);
    },
    get job() {
      return to('job').client(JobService);
    },
    get incident() {
      return to('incident').client(IncidentService);
    },
    get retention() {
      return to('retention').client(RetentionService);
    },
  };
  return {
    services,
    jobs: {
      async delete(jobId, { waitMs = DEFAULT_WAIT_MS, ...options } = {}) {
        const job = services.job;
        let { deletion } = await job.deleteJob({ jobId, ...options });
        for (const deadline = performance.now() + waitMs; deletion && performance.now() < deadline; ) {
          if (deletion.state === DeletionState.COMPLETE || deletion.state === DeletionState.STUCK) break;
          await delay(POLL_MS);
          deletion = (await job.getDeletion({ deletionId: deletion.id })).deletion;
        }
        return deletion;
      },
      async *list(filter = {}) {
        for (let pageToken = '', first = true; first || pageToken !== ''; first = false) {
          const page = await services.job.listJobs({ ...filter, pageSize: 200, pageToken });
          yield* page.jobs;
          pageToken = page.nextPageToken;
        }
      },
    },
    close() {
      for (const connection of connections.values()) connection.close();
    },
  };
}

/** What an error of a call told, with the status code's name for a reason where the service gave none. */
export function toLetheError(error: unknown): LetheError {
  const failed = ConnectError.from(error);
  const info = failed.findDetails(ErrorInfoSchema)[0];
  return { reason: info?.reason ?? `CODE_${failed.code}`, message: failed.rawMessage, metadata: info?.metadata ?? {} };
}
