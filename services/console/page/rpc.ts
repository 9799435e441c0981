import { createClient } from '@connectrpc/connect';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { transport } from './query-client.ts';

/** Clients of the four services, for calls that are no queries: changes and streams. */
export const runs = createClient(RunService, transport);
export const jobs = createClient(JobService, transport);
export const incidents = createClient(IncidentService, transport);
export const retention = createClient(RetentionService, transport);
