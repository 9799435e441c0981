import type { MessageInitShape, JsonObject as ProtoJsonObject } from '@bufbuild/protobuf';
import {
  type ApprovalSchema,
  ApprovalState as ApprovalStateMessage,
  CloseCause as CloseCauseMessage,
  type DriftCheckSchema,
  DriftFlag as DriftFlagMessage,
  DriftStatus as DriftStatusMessage,
  type EnvironmentSchema,
  type IncidentSchema,
  IncidentState as IncidentStateMessage,
  PayloadState as PayloadStateMessage,
} from '#gen/lethe/incident/v1/incident_pb.ts';
import type { GetDriftDashboardResponseSchema } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { optional } from '#libs/grpc/optional.ts';
import { toDuration, toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import {
  APPROVAL_STATES,
  type Approval,
  type ApprovalState,
  approvalEtagOf,
  DECISIONS,
  type Decision,
} from '../../domain/approval.ts';
import {
  DRIFT_FLAGS,
  DRIFT_STATUSES,
  type DriftCheck,
  type DriftFlag,
  type DriftStatus,
  type Environment,
} from '../../domain/drift.ts';
import {
  approvalsNotice,
  etagOf,
  INCIDENT_STATES,
  INCIDENT_TRANSITIONS,
  type Incident,
  type IncidentState,
  OPEN_STATES,
  payloadNotice,
} from '../../domain/incident.ts';
import type { DriftDashboard } from '../../use-cases/ports.ts';

/** What the numbers of the contract's enums stand for. */
export const STATUS_OF: ReadonlyMap<number, DriftStatus> = new Map(
  DRIFT_STATUSES.map((status) => [DriftStatusMessage[status], status]),
);
/** As STATUS_OF, for flags. */
export const FLAG_OF: ReadonlyMap<number, DriftFlag> = new Map(
  DRIFT_FLAGS.map((flag) => [DriftFlagMessage[flag], flag]),
);
/** As STATUS_OF, for incidents. */
export const INCIDENT_STATE_OF: ReadonlyMap<number, IncidentState> = new Map(
  INCIDENT_STATES.map((state) => [IncidentStateMessage[state], state]),
);
/** As STATUS_OF, for approvals. */
export const APPROVAL_STATE_OF: ReadonlyMap<number, ApprovalState> = new Map(
  APPROVAL_STATES.map((state) => [ApprovalStateMessage[state], state]),
);
/** As STATUS_OF, for decisions. */
export const DECISION_OF: ReadonlyMap<number, Decision> = new Map(
  DECISIONS.map((decision) => [ApprovalStateMessage[decision], decision]),
);

/** The environment as a message. */
export const toEnvironmentMessage = (environment: Environment): MessageInitShape<typeof EnvironmentSchema> => ({
  id: environment.id,
  tenantId: environment.tenantId,
  displayName: environment.displayName,
  driftStatus: DriftStatusMessage[environment.driftStatus],
  modifiedCount: environment.counts.modified,
  notInGitCount: environment.counts.notInGit,
  unknownCount: environment.counts.unknown,
  ...optional('lastCheckTime', toOptionalTimestamp(environment.lastCheckedAt)),
  createTime: toTimestamp(environment.createdAt),
  updateTime: toTimestamp(environment.updatedAt),
});

/** The drift check as a message. */
export const toCheckMessage = (check: DriftCheck): MessageInitShape<typeof DriftCheckSchema> => ({
  id: check.id,
  tenantId: check.tenantId,
  environmentId: check.environmentId,
  status: DriftStatusMessage[check.status],
  checkTime: toTimestamp(check.checkedAt),
  ...optional('summary', check.summary as ProtoJsonObject | undefined),
  workflows: check.workflows.map(({ workflow, flag }) => ({ workflow, flag: DriftFlagMessage[flag] })),
  modifiedCount: check.counts.modified,
  notInGitCount: check.counts.notInGit,
  unknownCount: check.counts.unknown,
  createTime: toTimestamp(check.createdAt),
});

/** The incident as a message. */
export const toIncidentMessage = (incident: Incident): MessageInitShape<typeof IncidentSchema> => ({
  id: incident.id,
  tenantId: incident.tenantId,
  environmentId: incident.environmentId,
  driftCheckId: incident.driftCheckId ?? '',
  runId: incident.runId ?? '',
  step: incident.step ?? '',
  title: incident.title,
  state: IncidentStateMessage[incident.state],
  closeCause: incident.closeCause ? CloseCauseMessage[incident.closeCause] : CloseCauseMessage.UNSPECIFIED,
  ...optional('driftSummary', incident.payload as ProtoJsonObject | undefined),
  payloadState: PayloadStateMessage[incident.payloadState],
  payloadNotice: payloadNotice(incident),
  timeline: incident.timeline.map(({ state, actor, note, at }) => ({
    state: IncidentStateMessage[state],
    actor,
    note: note ?? '',
    transitionTime: toTimestamp(at),
  })),
  nextStates: INCIDENT_TRANSITIONS[incident.state].map((state) => IncidentStateMessage[state]),
  createTime: toTimestamp(incident.createdAt),
  updateTime: toTimestamp(incident.updatedAt),
  ...optional('closeTime', toOptionalTimestamp(incident.closedAt)),
  ...optional('payloadPurgeTime', toOptionalTimestamp(incident.payloadPurgedAt)),
  ...optional('approvalsPurgeTime', toOptionalTimestamp(incident.approvalsPurgedAt)),
  approvalsNotice: approvalsNotice(incident),
  ...optional('deleteTime', toOptionalTimestamp(incident.deletedAt)),
  etag: etagOf(incident),
});

/** The approval as a message. */
export const toApprovalMessage = (approval: Approval): MessageInitShape<typeof ApprovalSchema> => ({
  id: approval.id,
  tenantId: approval.tenantId,
  incidentId: approval.incidentId,
  requestedState: IncidentStateMessage[approval.requestedState],
  state: ApprovalStateMessage[approval.state],
  requestedBy: approval.requestedBy,
  requestNotes: approval.requestNotes ?? '',
  decidedBy: approval.decidedBy ?? '',
  decisionNotes: approval.decisionNotes ?? '',
  createTime: toTimestamp(approval.createdAt),
  ...optional('decideTime', toOptionalTimestamp(approval.decidedAt)),
  ...optional('notesPurgeTime', toOptionalTimestamp(approval.notesPurgedAt)),
  etag: approvalEtagOf(approval),
});

/** The figures as a message. */
export const toDashboardMessage = (
  dashboard: DriftDashboard,
): MessageInitShape<typeof GetDriftDashboardResponseSchema> => ({
  environments: DRIFT_STATUSES.map((status) => ({
    status: DriftStatusMessage[status],
    count: BigInt(dashboard.environments[status]),
  })),
  incidents: INCIDENT_STATES.map((state) => ({
    state: IncidentStateMessage[state],
    count: BigInt(dashboard.incidents[state]),
  })),
  openIncidentCount: BigInt(OPEN_STATES.reduce((sum, state) => sum + dashboard.incidents[state], 0)),
  ...optional(
    'meanTimeToClose',
    dashboard.meanMsToClose === undefined ? undefined : toDuration(dashboard.meanMsToClose),
  ),
  ...optional('lastCheckTime', toOptionalTimestamp(dashboard.lastCheckedAt)),
});
