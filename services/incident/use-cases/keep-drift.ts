import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { View } from '#libs/kernel/view.ts';
import { type DriftCheck, driftCheckNotFound, type Environment, environmentNotFound } from '../domain/drift.ts';
import type { DriftRepository, NewDriftCheck } from './ports.ts';

/** Environments and their drift checks; each method answers NOT_FOUND for another tenant's. */
export interface KeepDrift extends Pick<DriftRepository, 'listEnvironments' | 'listChecks'> {
  createEnvironment(command: {
    tenantId: string;
    displayName: string;
    requestId: string | undefined;
  }): Promise<Environment>;
  getEnvironment(tenantId: string, environmentId: string): Promise<Environment>;
  recordCheck(command: Omit<NewDriftCheck, 'fingerprint'>): Promise<{ check: DriftCheck; environment: Environment }>;
  getCheck(tenantId: string, checkId: string, view?: View): Promise<DriftCheck>;
}

/** Makes KeepDrift. */
export const makeKeepDrift = (drift: DriftRepository): KeepDrift => ({
  createEnvironment: ({ tenantId, displayName, requestId }) =>
    drift.createEnvironment({
      tenantId,
      displayName,
      requestId,
      fingerprint: fingerprint({ rpc: 'CreateEnvironment', displayName }),
    }),
  async getEnvironment(tenantId, environmentId) {
    const environment = await drift.getEnvironment(tenantId, environmentId);
    if (!environment) throw environmentNotFound();
    return environment;
  },
  listEnvironments: drift.listEnvironments,
  recordCheck: (command) => {
    const { requestId: _, checkedAt, ...body } = command;
    const print = fingerprint({ rpc: 'RecordDriftCheck', checkedAt: checkedAt?.toString(), ...body });
    return drift.recordCheck({ ...command, fingerprint: print });
  },
  async getCheck(tenantId, checkId, view) {
    const check = await drift.getCheck(tenantId, checkId, view);
    if (!check) throw driftCheckNotFound();
    return check;
  },
  listChecks: drift.listChecks,
});
