import type { ServiceImpl } from '@connectrpc/connect';
import type { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import type { KeepApprovals } from '../../use-cases/keep-approvals.ts';
import type { KeepDrift } from '../../use-cases/keep-drift.ts';
import type { KeepIncidents } from '../../use-cases/keep-incidents.ts';
import type { ReadDashboard } from '../../use-cases/ports.ts';
import { driftHandlers } from './drift-handlers.ts';
import { incidentHandlers } from './incident-handlers.ts';

/** What IncidentService can do. */
export interface IncidentUseCases {
  readonly keepDrift: KeepDrift;
  readonly keepIncidents: KeepIncidents;
  readonly keepApprovals: KeepApprovals;
  readonly readDashboard: ReadDashboard;
}

/** IncidentService over gRPC: a request becomes a command, its outcome a message. */
export const incidentService = (useCases: IncidentUseCases): Partial<ServiceImpl<typeof IncidentService>> => ({
  ...driftHandlers(useCases.keepDrift, useCases.readDashboard),
  ...incidentHandlers(useCases.keepIncidents, useCases.keepApprovals),
});
