import 'reflect-metadata';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { startWorkerLoop } from '#libs/durable/worker-loop.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { makeOwner } from '#libs/owner/make-owner.ts';
import type { Owner } from '#libs/owner/owner.ts';
import { bindOwner } from '#libs/owner/owner-service.ts';
import { bindParticipant } from '#libs/participant/bind-participant.ts';
import { makeParticipant, type ParticipantObserver, type RunRows } from '#libs/participant/make-participant.ts';
import type { Participant } from '#libs/participant/participant.ts';
import { makeDataId } from '#libs/postgres/data-id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { incidentService } from './adapters/grpc/incident-service.ts';
import { makeIncidentActions } from './adapters/grpc/step-actions.ts';
import { makeApprovalRepository } from './adapters/postgres/approval-repository.ts';
import { makeRefusalAudit } from './adapters/postgres/audit.ts';
import { makeReadDashboard } from './adapters/postgres/dashboard.ts';
import { makeDriftRepository } from './adapters/postgres/drift-repository.ts';
import { makeIncidentRepository } from './adapters/postgres/incident-repository.ts';
import { makeRunIncidents } from './adapters/postgres/run-incidents.ts';
import { makeStepActions } from './adapters/postgres/step-actions.ts';
import { INCIDENT_SUBJECTS } from './adapters/postgres/subjects.ts';
import type { IncidentSettings } from './config.ts';
import { type KeepApprovals, makeKeepApprovals } from './use-cases/keep-approvals.ts';
import { type KeepDrift, makeKeepDrift } from './use-cases/keep-drift.ts';
import { type KeepIncidents, makeKeepIncidents } from './use-cases/keep-incidents.ts';
import { makeOpenForStep, type OpenForStep } from './use-cases/participate.ts';
import type {
  ApprovalRepository,
  DriftRepository,
  IncidentRepository,
  ReadDashboard,
  StepActions,
} from './use-cases/ports.ts';

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  database: token<Database>('Database'),
  observer: token<ParticipantObserver>('ParticipantObserver'),
  drift: token<DriftRepository>('DriftRepository'),
  incidents: token<IncidentRepository>('IncidentRepository'),
  approvals: token<ApprovalRepository>('ApprovalRepository'),
  runIncidents: token<RunRows>('RunRows'),
  stepActions: token<StepActions>('StepActions'),
  keepDrift: token<KeepDrift>('KeepDrift'),
  keepIncidents: token<KeepIncidents>('KeepIncidents'),
  keepApprovals: token<KeepApprovals>('KeepApprovals'),
  readDashboard: token<ReadDashboard>('ReadDashboard'),
  openForStep: token<OpenForStep>('OpenForStep'),
  participant: token<Participant>('Participant'),
  owner: token<Owner>('Owner'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.drift).toResolvedValue(makeDriftRepository, [TOKENS.database]);
  bind(TOKENS.incidents).toResolvedValue(makeIncidentRepository, [TOKENS.database]);
  bind(TOKENS.approvals).toResolvedValue(makeApprovalRepository, [TOKENS.database]);
  bind(TOKENS.readDashboard).toResolvedValue(makeReadDashboard, [TOKENS.database]);
  bind(TOKENS.runIncidents).toResolvedValue(makeRunIncidents, [TOKENS.database]);
  bind(TOKENS.stepActions).toResolvedValue(makeStepActions, [TOKENS.database]);
});

const useCases = new ContainerModule(({ bind }) => {
  bind(TOKENS.keepDrift).toResolvedValue(makeKeepDrift, [TOKENS.drift]);
  bind(TOKENS.keepIncidents).toResolvedValue(makeKeepIncidents, [TOKENS.incidents]);
  bind(TOKENS.keepApprovals).toResolvedValue(makeKeepApprovals, [TOKENS.approvals]);
  bind(TOKENS.openForStep).toResolvedValue(makeOpenForStep, [TOKENS.stepActions]);
  bind(TOKENS.participant).toResolvedValue(
    (rows: RunRows, open: OpenForStep, drift: KeepDrift, observer: ParticipantObserver) =>
      makeParticipant({
        rows,
        actions: makeIncidentActions(open, drift),
        rowsPerBatch: INCIDENTS_PER_BATCH,
        crashPoints: { afterIntent: 'incident.cascade.after-intent', afterBatch: 'incident.cascade.after-batch' },
        ...observer,
      }),
    [TOKENS.runIncidents, TOKENS.openForStep, TOKENS.keepDrift, TOKENS.observer],
  );
});

// So many incidents with their payloads are done well within a second.
const INCIDENTS_PER_BATCH = 500;

const EXPIRY_POLL_MS = 3_600_000;

/** IncidentService, composed. */
export function composeIncidentService(
  settings: IncidentSettings,
  { database, log, metrics, turns }: ServiceFoundation,
): ComposedService {
  const container = new Container({ defaultScope: 'Singleton' });
  container.bind(TOKENS.database).toConstantValue(database);
  const owner = makeOwner({
    ...settings,
    database,
    turns,
    subjects: INCIDENT_SUBJECTS,
    onPurged({ subject: { name }, tenantId, caller }, { operationId, rule, removed, dependents, waits }) {
      const kind = name.replaceAll('_', '-');
      const { actor, subject } = caller;
      const told = { audit: true, action: `purge-${kind}`, tenantId, operationId, actor, subject, removed, dependents };
      log.info({ ...told, waits, cutoff: rule?.cutoff.toString(), outcome: 'COMPLETE' }, 'purged by age');
      metrics.deletionFinished(kind, 'COMPLETE');
    },
  });
  container.bind(TOKENS.owner).toConstantValue(owner);
  const refusals = makeRefusalAudit(database);
  container.bind(TOKENS.observer).toConstantValue({
    onTouched(action, { tenantId, runId, step }, { operationId, caller: { actor, subject }, reason }, counts) {
      const told = { audit: true, action, tenantId, runId, step, operationId, actor, subject, reason, counts };
      log.info({ ...told, outcome: 'COMPLETE' }, 'incidents of a run touched');
      metrics.deletionFinished(`incident-${action}`, 'COMPLETE');
    },
    async onRefused(action, scope, operation, outcome) {
      const { operationId, caller, reason } = operation;
      log.info({ audit: true, action, ...scope, operationId, actor: caller.actor, reason, outcome }, 'refused');
      metrics.deletionFinished(`incident-${action}`, 'REFUSED');
      await refusals.record({ action, scope, operation, outcome });
    },
  });
  container.load(adapters, useCases);
  const get = <T>(identifier: ServiceIdentifier<T>): T => container.get(identifier);
  return {
    services: [
      bindService(IncidentService, {
        ...incidentService({
          keepDrift: get(TOKENS.keepDrift),
          keepIncidents: get(TOKENS.keepIncidents),
          keepApprovals: get(TOKENS.keepApprovals),
          readDashboard: get(TOKENS.readDashboard),
        }),
        ...auditHandlers(database),
      }),
      bindParticipant(get(TOKENS.participant), makeDataId(database)),
      bindOwner(get(TOKENS.owner)),
    ],
    startWorkers: () => [
      startWorkerLoop({
        name: 'owner-operations',
        pollMs: EXPIRY_POLL_MS,
        work: get(TOKENS.owner).expireOperations,
        onError: (name, error) => log.error({ err: error, loop: name }, 'a background pass failed'),
      }),
    ],
    close: () => undefined,
  };
}
