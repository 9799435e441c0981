import type { SweepOrphansResponse } from '#gen/lethe/job/v1/job_service_pb.ts';
import type { ClientTlsFiles } from '#libs/grpc/tls.ts';
import { type Audit, makeAudit } from './audit.ts';
import { type BulkDeletions, makeBulkDeletions } from './bulk-deletions.ts';
import { type Deletions, makeDeletions } from './deletions.ts';
import { type Environments, makeEnvironments } from './environments.ts';
import { type Executions, makeExecutions } from './executions.ts';
import { type Incidents, makeIncidents } from './incidents.ts';
import { type Jobs, makeJobs, type SweepOptions, sweepOrphans } from './jobs.ts';
import { makeParked, type Parked } from './parked.ts';
import { makeParticipants, type Participants } from './participants.ts';
import { makeRetention, type Retention } from './retention.ts';
import { makeRuns, type Runs } from './runs.ts';
import { type Addresses, connectServices, type Services } from './services.ts';

export {
  CancelledError,
  ConflictError,
  DeadlineExceededError,
  FailedPreconditionError,
  hasReason,
  InternalError,
  InvalidArgumentError,
  LetheError,
  NotFoundError,
  PermissionError,
  ResourceExhaustedError,
  type StatusName,
  toLetheError,
  UnauthenticatedError,
  UnavailableError,
} from './lethe-error.ts';

/**
 * Where the services are, and who calls: a bearer token, or a credential that gives the one of each call. With `tls` the
 * connections speak TLS; its files are read again when they change.
 */
export type LetheOptions = Addresses & { readonly tls?: ClientTlsFiles | undefined } & (
    | { readonly token: string; readonly credential?: never }
    | { readonly credential: () => Promise<string>; readonly token?: never }
  );

/** Lethe for programs. Every call fails with LetheError. */
export interface Lethe {
  readonly audit: Audit;
  readonly parked: Parked;
  readonly jobs: Jobs;
  readonly runs: Runs;
  readonly deletions: Deletions;
  readonly bulkDeletions: BulkDeletions;
  readonly environments: Environments;
  readonly executions: Executions;
  readonly incidents: Incidents;
  readonly participants: Participants;
  readonly retention: Retention;
  readonly orphans: {
    /** Objects without a job and jobs without objects, tenant by tenant; the summary comes last. For platform. */
    sweep(options: SweepOptions): AsyncIterable<SweepOrphansResponse>;
  };
  /** Every RPC as it is. */
  readonly services: Services;
  /** Closes the connections; calls under way fail. */
  close(): void;
}

/** Opens a client. No connection is made before the first call. */
export function createLethe({ token, credential, tls, ...addresses }: LetheOptions): Lethe {
  const { services, close } = connectServices(addresses, credential ?? (() => Promise.resolve(token)), tls);
  const deletions = makeDeletions(services);
  const bulkDeletions = makeBulkDeletions(services);
  return {
    audit: makeAudit(services, addresses),
    parked: makeParked(services, addresses),
    jobs: makeJobs(services, deletions, bulkDeletions),
    runs: makeRuns(services, deletions, bulkDeletions),
    deletions,
    bulkDeletions,
    environments: makeEnvironments(services),
    executions: makeExecutions(services),
    incidents: makeIncidents(services),
    participants: makeParticipants(services),
    retention: makeRetention(services),
    orphans: { sweep: (options) => sweepOrphans(services, options) },
    services,
    close,
  };
}
