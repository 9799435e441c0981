import { createClient } from '@connectrpc/connect';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import { transport, transportOf } from './query-client.ts';

/** Clients of the four services, for calls that are no queries: changes and streams. */
export const runs = createClient(RunService, transport);
export const jobs = createClient(JobService, transport);
export const incidents = createClient(IncidentService, transport);
export const retention = createClient(RetentionService, transport);

/** The services by name. */
export const SERVICES = ['run', 'job', 'incident', 'retention'] as const;

/** One of SERVICES. */
export type ServiceName = (typeof SERVICES)[number];

/** What each service tells about itself. */
export const statusOf = (service: ServiceName) => createClient(StatusService, transportOf(service));
