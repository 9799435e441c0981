import 'reflect-metadata';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { incidentService } from './adapters/grpc/incident-service.ts';
import { makeAgePurgeRepository } from './adapters/postgres/age-purge-repository.ts';
import { makeDriftRepository } from './adapters/postgres/drift-repository.ts';
import { type KeepDrift, makeKeepDrift } from './use-cases/keep-drift.ts';
import type { AgePurgeRepository, DriftRepository } from './use-cases/ports.ts';
import { makePurgeDriftChecks, type OnPurged, type PurgeDriftChecks } from './use-cases/purge-drift-checks.ts';

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  database: token<Database>('Database'),
  drift: token<DriftRepository>('DriftRepository'),
  onPurged: token<OnPurged>('OnPurged'),
  agePurges: token<AgePurgeRepository>('AgePurgeRepository'),
  keepDrift: token<KeepDrift>('KeepDrift'),
  purgeDriftChecks: token<PurgeDriftChecks>('PurgeDriftChecks'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.drift).toResolvedValue(makeDriftRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.agePurges).toResolvedValue(makeAgePurgeRepository, [TOKENS.database]).inSingletonScope();
});

const useCases = new ContainerModule(({ bind }) => {
  bind(TOKENS.keepDrift).toResolvedValue(makeKeepDrift, [TOKENS.drift]).inSingletonScope();
  bind(TOKENS.purgeDriftChecks)
    .toResolvedValue(makePurgeDriftChecks, [TOKENS.agePurges, TOKENS.onPurged])
    .inSingletonScope();
});

/** IncidentService, composed. */
export function composeIncidentService({ database, log, metrics }: ServiceFoundation): ComposedService {
  const container = new Container();
  container.bind(TOKENS.database).toConstantValue(database);
  container.bind(TOKENS.onPurged).toConstantValue(({ tenantId, operationId, actor, subject }, purge) => {
    const { cutoff, deletedChecks, deletedWorkflows } = purge;
    const counts = { drift_checks: deletedChecks, drift_check_workflows: deletedWorkflows };
    const told = { audit: true, action: 'purge-drift-checks', tenantId, operationId, actor, subject, counts };
    log.info({ ...told, cutoff: cutoff.toString(), outcome: 'COMPLETE' }, 'drift checks purged');
    metrics.deletionFinished('drift-checks', 'COMPLETE');
  });
  container.load(adapters, useCases);
  const implementation = incidentService(container.get(TOKENS.keepDrift), container.get(TOKENS.purgeDriftChecks));
  return {
    services: [bindService(IncidentService, implementation)],
    startWorkers: () => [],
    close: () => undefined,
  };
}
