import type { ServiceImpl } from '@connectrpc/connect';
import { ApprovalSchema, IncidentSchema } from '#gen/lethe/incident/v1/incident_pb.ts';
import type { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage, fitWholePage } from '#libs/grpc/fit-page.ts';
import {
  parseEnum,
  parseEtag,
  parseFields,
  parseOptionalEnum,
  parseOptionalText,
  parseRequestId,
  parseText,
  parseView,
} from '#libs/grpc/parse.ts';
import { parseJsonObject } from '#libs/grpc/parse-json.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid, undefinedIfNotFound } from '#libs/kernel/domain-error.ts';
import { parseId, parseOptionalId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import { MAX_STEP } from '#libs/participant/participant-messages.ts';
import type { Approval } from '../../domain/approval.ts';
import type { Incident } from '../../domain/incident.ts';
import type { KeepApprovals } from '../../use-cases/keep-approvals.ts';
import type { KeepIncidents } from '../../use-cases/keep-incidents.ts';
import { APPROVAL_STATE_OF, DECISION_OF, INCIDENT_STATE_OF, toApprovalMessage, toIncidentMessage } from './messages.ts';

/** A title is 1 to so many characters. */
export const MAX_TITLE = 200;
const MAX_NOTE = 500;
const MAX_NOTES = 2_000;

/** Incidents and the approvals of their transitions. */
export const incidentHandlers = (
  keepIncidents: KeepIncidents,
  keepApprovals: KeepApprovals,
): Partial<ServiceImpl<typeof IncidentService>> => ({
  async openIncident(request, context) {
    const command = parseFields({
      requestId: () => parseRequestId(request.requestId),
      environmentId: () => parseId('environment_id', request.environmentId),
      driftCheckId: () => parseOptionalId('drift_check_id', request.driftCheckId),
      title: () => parseText('title', request.title, { min: 1, max: MAX_TITLE }),
      payload: () => parseJsonObject('drift_summary', request.driftSummary),
      runId: () => parseOptionalId('run_id', request.runId),
      step: () => {
        if (request.step !== '' && request.runId === '') throw fieldInvalid('step', 'needs a run_id');
        return parseOptionalText('step', request.step, MAX_STEP);
      },
    });
    return { incident: toIncidentMessage(await keepIncidents.open(callerOf(context), command)) };
  },

  async getIncident(request, context) {
    const { incidentId, view } = parseFields({
      incidentId: () => parseId('incident_id', request.incidentId),
      view: () => parseView(request.view, 'FULL'),
    });
    const incident = await keepIncidents.get(callerOf(context), incidentId, request.showDeleted, view);
    return { incident: toIncidentMessage(incident) };
  },

  async listIncidents(request, context) {
    const caller = callerOf(context);
    const { showDeleted } = request;
    const { limit, view, ...filter } = parseFields({
      view: () => parseView(request.view, 'BASIC'),
      state: () => parseOptionalEnum('state', request.state, INCIDENT_STATE_OF),
      environmentId: () => parseOptionalId('environment_id', request.environmentId),
      runId: () => parseOptionalId('run_id', request.runId),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const scope: PageScope = {
      rpc: 'ListIncidents',
      tenantId: tenantOf(caller),
      filter: { ...filter, showDeleted },
    };
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id]);
    const page = await keepIncidents.list(caller, { ...filter, showDeleted }, { limit, after });
    const keyOf = (incident: Incident) => [incident.createdAt.toString(), incident.id];
    const readWhole = ({ id }: Incident) => undefinedIfNotFound(keepIncidents.get(caller, id, showDeleted, view));
    const { messages: incidents, nextPageToken } =
      view === 'FULL'
        ? await fitWholePage(scope, IncidentSchema, page, readWhole, toIncidentMessage, keyOf)
        : fitPage(scope, IncidentSchema, page, toIncidentMessage, keyOf);
    return { incidents, nextPageToken };
  },

  async transitionIncident(request, context) {
    const command = parseFields({
      incidentId: () => parseId('incident_id', request.incidentId),
      state: () => {
        const state = parseEnum('state', request.state, INCIDENT_STATE_OF);
        if (state === 'DETECTED') throw fieldInvalid('state', 'must be one that an incident can come into');
        return state;
      },
      note: () => parseOptionalText('note', request.note, MAX_NOTE),
      etag: () => parseEtag(request.etag),
    });
    const incident = await keepIncidents.transition(callerOf(context), command);
    return { incident: toIncidentMessage(incident) };
  },

  async requestApproval(request, context) {
    const command = parseFields({
      requestId: () => parseRequestId(request.requestId),
      incidentId: () => parseId('incident_id', request.incidentId),
      requestedState: () => parseEnum('requested_state', request.requestedState, INCIDENT_STATE_OF),
      notes: () => parseOptionalText('notes', request.notes, MAX_NOTES),
    });
    return { approval: toApprovalMessage(await keepApprovals.request(callerOf(context), command)) };
  },

  async decideApproval(request, context) {
    const command = parseFields({
      approvalId: () => parseId('approval_id', request.approvalId),
      decision: () => parseEnum('decision', request.decision, DECISION_OF),
      notes: () => parseOptionalText('notes', request.notes, MAX_NOTES),
      etag: () => parseEtag(request.etag),
    });
    const approval = await keepApprovals.decide(callerOf(context), command);
    return { approval: toApprovalMessage(approval) };
  },

  async listApprovals(request, context) {
    const caller = callerOf(context);
    const { limit, ...filter } = parseFields({
      state: () => parseOptionalEnum('state', request.state, APPROVAL_STATE_OF),
      incidentId: () => parseOptionalId('incident_id', request.incidentId),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const scope: PageScope = { rpc: 'ListApprovals', tenantId: tenantOf(caller), filter };
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id]);
    const page = await keepApprovals.list(caller, filter, { limit, after });
    const keyOf = (approval: Approval) => [approval.createdAt.toString(), approval.id];
    const { messages: approvals, nextPageToken } = fitPage(scope, ApprovalSchema, page, toApprovalMessage, keyOf);
    return { approvals, nextPageToken };
  },
});
