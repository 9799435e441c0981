import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { startWorkerLoop } from '#libs/durable/worker-loop.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { makeOwner } from '#libs/owner/make-owner.ts';
import { observeOwner } from '#libs/owner/observe-owner.ts';
import { bindOwner } from '#libs/owner/owner-service.ts';
import { bindParticipant } from '#libs/participant/bind-participant.ts';
import { makeParticipant, type RunRows } from '#libs/participant/make-participant.ts';
import { makeDataId } from '#libs/postgres/data-id.ts';
import { makeForgetRequests } from '#libs/postgres/forget-requests.ts';
import { makeComposition } from '#libs/service/composition.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { incidentService } from './adapters/grpc/incident-service.ts';
import { makeIncidentActions } from './adapters/grpc/step-actions.ts';
import { makeApprovalRepository } from './adapters/postgres/approval-repository.ts';
import { makeReadDashboard } from './adapters/postgres/dashboard.ts';
import { makeDriftRepository } from './adapters/postgres/drift-repository.ts';
import { makeIncidentRepository } from './adapters/postgres/incident-repository.ts';
import { REMEMBERED_REQUESTS } from './adapters/postgres/requests.ts';
import { makeRunIncidents } from './adapters/postgres/run-incidents.ts';
import { makeStepActions } from './adapters/postgres/step-actions.ts';
import { INCIDENT_SUBJECTS } from './adapters/postgres/subjects.ts';
import { observeIncidents } from './adapters/telemetry/observe-incidents.ts';
import type { IncidentSettings } from './config.ts';
import { makeKeepApprovals } from './use-cases/keep-approvals.ts';
import { type KeepDrift, makeKeepDrift } from './use-cases/keep-drift.ts';
import { makeKeepIncidents } from './use-cases/keep-incidents.ts';
import { makeOpenForStep, type OpenForStep } from './use-cases/participate.ts';

// So many incidents with their payloads are done well within a second.
const INCIDENTS_PER_BATCH = 500;

const EXPIRY_POLL_MS = 3_600_000;

/** IncidentService, composed. */
export function composeIncidentService(
  settings: IncidentSettings,
  { database, log, metrics, turns }: ServiceFoundation,
): ComposedService {
  const subjects = INCIDENT_SUBJECTS;
  const owner = makeOwner({ ...settings, database, turns, subjects, onPurged: observeOwner({ log, metrics }) });
  const forgetRequests = makeForgetRequests(database, REMEMBERED_REQUESTS);
  const { given, made, madeOf, get } = makeComposition();
  const ofDatabase = [given(database)] as const;
  const keepDrift = made(makeKeepDrift, [made(makeDriftRepository, ofDatabase)]);
  const service = madeOf(incidentService, {
    keepDrift,
    keepIncidents: made(makeKeepIncidents, [made(makeIncidentRepository, ofDatabase)]),
    keepApprovals: made(makeKeepApprovals, [made(makeApprovalRepository, ofDatabase)]),
    readDashboard: made(makeReadDashboard, ofDatabase),
  });
  const participant = made(
    (rows: RunRows, open: OpenForStep, drift: KeepDrift) =>
      makeParticipant({
        rows,
        actions: makeIncidentActions(open, drift),
        rowsPerBatch: INCIDENTS_PER_BATCH,
        crashPoints: { afterIntent: 'incident.cascade.after-intent', afterBatch: 'incident.cascade.after-batch' },
        ...observeIncidents({ database, log, metrics }),
      }),
    [made(makeRunIncidents, ofDatabase), made(makeOpenForStep, [made(makeStepActions, ofDatabase)]), keepDrift],
  );

  return {
    services: [
      bindService(IncidentService, { ...get(service), ...auditHandlers(database) }),
      bindParticipant(get(participant), makeDataId(database)),
      bindOwner(owner),
    ],
    startWorkers() {
      const onError = (name: string, error: unknown) =>
        log.error({ err: error, loop: name }, 'a background pass failed');
      const hourly = { pollMs: EXPIRY_POLL_MS, onError };
      return [
        startWorkerLoop({ name: 'owner-operations', ...hourly, work: owner.expireOperations }),
        startWorkerLoop({ name: 'request-ids', ...hourly, work: () => forgetRequests(settings.receiptDays) }),
      ];
    },
    close: () => undefined,
  };
}
