// The types and enums of what the services answer with, and their schemas.
export * from '../../gen/lethe/audit/v1/audit_pb.ts';
export * from '../../gen/lethe/deletion/v1/bulk_deletion_pb.ts';
export * from '../../gen/lethe/deletion/v1/deletion_pb.ts';
export * from '../../gen/lethe/incident/v1/incident_pb.ts';
export { IncidentService } from '../../gen/lethe/incident/v1/incident_service_pb.ts';
export * from '../../gen/lethe/job/v1/job_pb.ts';
export { JobService } from '../../gen/lethe/job/v1/job_service_pb.ts';
export * from '../../gen/lethe/retention/v1/retention_pb.ts';
export { RetentionService } from '../../gen/lethe/retention/v1/retention_service_pb.ts';
export * from '../../gen/lethe/run/v1/run_pb.ts';
export { RunService } from '../../gen/lethe/run/v1/run_service_pb.ts';
export * from '../../gen/lethe/status/v1/status_service_pb.ts';
export type { Audit, AuditQuery, ServiceAuditEntry } from '../client/audit.ts';
export { type BulkDeletionOptions, type BulkDeletions, hasBulkEnded } from '../client/bulk-deletions.ts';
export type { CallOptions } from '../client/call-options.ts';
export { type Deletions, hasSettled } from '../client/deletions.ts';
export type { Environments, NewDriftCheck } from '../client/environments.ts';
export type { Executions, NewExecution, RecordedExecutions, RecordOptions } from '../client/executions.ts';
export type {
  ApprovalDecision,
  Incidents,
  IncidentTransition,
  NewApproval,
  NewIncident,
} from '../client/incidents.ts';
export {
  type ArtifactName,
  type Claim,
  type ClaimOptions,
  type DeleteJobOptions,
  hasEnded,
  type JobEnd,
  type JobFilter,
  type Jobs,
  type NewJob,
  type SweepOptions,
  type TaskUpdate,
  type UploadOptions,
} from '../client/jobs.ts';
export * from '../client/lethe.ts';
export type { Parked, ParkedQuery, ServiceOldestWork, ServiceParkedWork } from '../client/parked.ts';
export type { Participants } from '../client/participants.ts';
export type {
  Forecast,
  NewExecutionPolicy,
  NewPlanWindow,
  NewTenantPlan,
  Plans,
  PlanUpdate,
  Policies,
  StopSwitch,
  Subjects,
  TenantPlans,
} from '../client/plans.ts';
export type { PurgeOptions, PurgeSighting, Retention } from '../client/retention.ts';
export type {
  BulkRunOptions,
  HideRunOptions,
  NewRun,
  PurgeRunOptions,
  RunEnd,
  RunFilter,
  RunOrder,
  RunSighting,
  Runs,
  StepRecord,
} from '../client/runs.ts';
export { type Addresses, SERVICE_NAMES, type ServiceName, type Services } from '../client/services.ts';
export type { PollOptions } from '../client/streams.ts';
