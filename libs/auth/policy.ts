import type { OwnerScope, ParticipantScope, Rule } from './authorize.ts';

const reads = (scope: string): Rule => ({ scope, role: 'viewer' });
const writes = (scope: string): Rule => ({ scope, role: 'member' });
const ends = (scope: string): Rule => ({ scope, role: 'admin' });
const audits: Rule = { scope: 'audit:read', role: 'admin', platform: true };
const participates = (calleeScope: ParticipantScope): Rule => ({
  callee: 'participant',
  calleeScope,
  isOfTenant: true,
});
const owns = (calleeScope: OwnerScope): Rule => ({
  callee: 'owner',
  calleeScope,
  isOfTenant: calleeScope !== 'owner:read',
});

/**
 * Every RPC of Lethe and who may call it. What is not here is denied, and a test walks all method descriptors to see
 * that nothing is forgotten and nothing is left over.
 */
export const POLICY: Readonly<Record<string, Rule>> = Object.freeze({
  'grpc.health.v1.Health/Check': { public: true },
  'grpc.health.v1.Health/Watch': { public: true },
  'grpc.reflection.v1.ServerReflection/ServerReflectionInfo': { public: true },
  'grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo': { public: true },

  'lethe.job.v1.JobService/CreateJob': writes('jobs:write'),
  'lethe.job.v1.JobService/GetJob': reads('jobs:read'),
  'lethe.job.v1.JobService/ListJobs': reads('jobs:read'),
  'lethe.job.v1.JobService/UploadArtifact': writes('jobs:write'),
  'lethe.job.v1.JobService/DownloadArtifact': reads('jobs:read'),
  'lethe.job.v1.JobService/ListArtifacts': reads('jobs:read'),
  'lethe.job.v1.JobService/ClaimJob': writes('jobs:work'),
  'lethe.job.v1.JobService/UpdateTask': writes('jobs:work'),
  'lethe.job.v1.JobService/FinishJob': writes('jobs:work'),
  'lethe.job.v1.JobService/CancelJob': writes('jobs:write'),
  'lethe.job.v1.JobService/DeleteJob': ends('jobs:delete'),
  'lethe.job.v1.JobService/GetDeletion': reads('jobs:read'),
  'lethe.job.v1.JobService/ListDeletions': reads('jobs:read'),
  'lethe.job.v1.JobService/RedriveDeletion': ends('jobs:delete'),
  'lethe.job.v1.JobService/SweepOrphans': { scope: 'orphans:sweep', platform: true },
  'lethe.job.v1.JobService/ListAuditEntries': audits,

  'lethe.run.v1.RunService/CreateRun': writes('workflows:write'),
  'lethe.run.v1.RunService/StartRun': writes('workflows:write'),
  'lethe.run.v1.RunService/RecordStep': writes('workflows:write'),
  'lethe.run.v1.RunService/FinishRun': writes('workflows:write'),
  'lethe.run.v1.RunService/FailRun': writes('workflows:write'),
  'lethe.run.v1.RunService/WatchRun': reads('workflows:read'),
  'lethe.run.v1.RunService/CancelRun': writes('workflows:write'),
  'lethe.run.v1.RunService/RetryRun': ends('workflows:write'),
  'lethe.run.v1.RunService/GetRun': reads('workflows:read'),
  'lethe.run.v1.RunService/ListRuns': reads('workflows:read'),
  'lethe.run.v1.RunService/ListRunSteps': reads('workflows:read'),
  'lethe.run.v1.RunService/DeleteRun': ends('workflows:delete'),
  'lethe.run.v1.RunService/UndeleteRun': ends('workflows:delete'),
  'lethe.run.v1.RunService/PreviewPurgeRun': ends('workflows:delete'),
  'lethe.run.v1.RunService/PurgeRun': ends('workflows:delete'),
  'lethe.run.v1.RunService/GetDeletion': reads('workflows:read'),
  'lethe.run.v1.RunService/ListDeletions': reads('workflows:read'),
  'lethe.run.v1.RunService/WatchDeletion': reads('workflows:read'),
  'lethe.run.v1.RunService/RedriveDeletion': ends('workflows:delete'),
  'lethe.run.v1.RunService/ListParticipants': { scope: 'workflows:read', platform: true },
  'lethe.run.v1.RunService/ConfirmParticipant': { scope: 'workflows:delete', platform: true },
  'lethe.run.v1.RunService/RetireParticipant': { scope: 'workflows:delete', platform: true },
  'lethe.run.v1.RunService/RecordExecutions': writes('workflows:write'),
  'lethe.run.v1.RunService/ListExecutions': reads('workflows:read'),
  'lethe.run.v1.RunService/CountExecutions': reads('workflows:read'),
  'lethe.run.v1.RunService/ListAuditEntries': audits,

  'lethe.incident.v1.IncidentService/CreateEnvironment': writes('incidents:write'),
  'lethe.incident.v1.IncidentService/GetEnvironment': reads('incidents:read'),
  'lethe.incident.v1.IncidentService/ListEnvironments': reads('incidents:read'),
  'lethe.incident.v1.IncidentService/RecordDriftCheck': writes('incidents:write'),
  'lethe.incident.v1.IncidentService/GetDriftCheck': reads('incidents:read'),
  'lethe.incident.v1.IncidentService/ListDriftChecks': reads('incidents:read'),
  'lethe.incident.v1.IncidentService/OpenIncident': { ...writes('incidents:write'), service: true },
  'lethe.incident.v1.IncidentService/GetIncident': reads('incidents:read'),
  'lethe.incident.v1.IncidentService/ListIncidents': reads('incidents:read'),
  'lethe.incident.v1.IncidentService/TransitionIncident': writes('incidents:write'),
  'lethe.incident.v1.IncidentService/RequestApproval': writes('incidents:write'),
  'lethe.incident.v1.IncidentService/DecideApproval': ends('incidents:write'),
  'lethe.incident.v1.IncidentService/ListApprovals': reads('incidents:read'),
  'lethe.incident.v1.IncidentService/GetDriftDashboard': reads('incidents:read'),
  'lethe.incident.v1.IncidentService/ListAuditEntries': audits,

  'lethe.retention.v1.RetentionService/UpdatePlan': { scope: 'retention:write', platform: true },
  'lethe.retention.v1.RetentionService/GetPlan': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/ListPlans': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/ListPlanWindows': { scope: 'retention:read', platform: true },
  'lethe.retention.v1.RetentionService/ListSubjects': { scope: 'retention:read', platform: true },
  'lethe.retention.v1.RetentionService/ConfirmSubject': { scope: 'retention:write', platform: true },
  'lethe.retention.v1.RetentionService/RetireSubject': { scope: 'retention:write', platform: true },
  'lethe.retention.v1.RetentionService/ListUnplannedTenants': { scope: 'retention:read', platform: true },
  'lethe.retention.v1.RetentionService/StopPurges': { scope: 'retention:purge', platform: true },
  'lethe.retention.v1.RetentionService/ResumePurges': { scope: 'retention:purge', platform: true },
  'lethe.retention.v1.RetentionService/GetPurgeStop': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/SetTenantPlan': { scope: 'retention:write', platform: true },
  'lethe.retention.v1.RetentionService/GetTenantPlan': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/ListTenantPlans': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/ResolveRetention': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/UpsertExecutionPolicy': { ...ends('retention:write'), platform: true },
  'lethe.retention.v1.RetentionService/GetExecutionPolicy': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/DeleteExecutionPolicy': { ...ends('retention:write'), platform: true },
  'lethe.retention.v1.RetentionService/ListExecutionPolicies': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/Purge': { scope: 'retention:purge', platform: true },
  'lethe.retention.v1.RetentionService/PurgeNow': { ...ends('retention:purge'), platform: true },
  'lethe.retention.v1.RetentionService/GetPurge': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/ListPurges': { ...reads('retention:read'), platform: true },
  'lethe.retention.v1.RetentionService/ApproveHeldPurge': { scope: 'retention:purge', platform: true },
  'lethe.retention.v1.RetentionService/ListAuditEntries': audits,

  'lethe.participant.v1.ParticipantService/Preview': participates('participant:preview'),
  'lethe.participant.v1.ParticipantService/CheckAction': participates('participant:preview'),
  'lethe.participant.v1.ParticipantService/Execute': participates('participant:execute'),
  'lethe.participant.v1.ParticipantService/Compensate': participates('participant:compensate'),
  'lethe.participant.v1.ParticipantService/SoftDelete': participates('participant:delete'),
  'lethe.participant.v1.ParticipantService/Restore': participates('participant:delete'),
  'lethe.participant.v1.ParticipantService/Purge': participates('participant:purge'),
  'lethe.participant.v1.ParticipantService/Verify': participates('participant:verify'),

  'lethe.owner.v1.RetentionOwnerService/ListSubjects': owns('owner:read'),
  'lethe.owner.v1.RetentionOwnerService/ListTenants': owns('owner:read'),
  'lethe.owner.v1.RetentionOwnerService/Count': owns('owner:count'),
  'lethe.owner.v1.RetentionOwnerService/Purge': owns('owner:purge'),
  'lethe.owner.v1.RetentionOwnerService/End': owns('owner:purge'),
} satisfies Record<string, Rule>);

/** Every scope that a person's or the platform's token can carry, for those who hand out tokens. */
export const SCOPES: readonly string[] = [
  ...new Set(Object.values(POLICY).flatMap((rule) => ('scope' in rule ? [rule.scope] : []))),
].toSorted();
