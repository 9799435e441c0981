import type { JsonObject } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { DriftCheck, DriftFlag, DriftStatus, Environment } from '#gen/lethe/incident/v1/incident_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Services } from './services.ts';
import { everyItem, present } from './streams.ts';

/** What a drift check found. */
export interface NewDriftCheck {
  readonly status: DriftStatus;
  /** When it looked. Absent: now, by the database's clock. */
  readonly checkTime?: Timestamp;
  readonly summary?: JsonObject;
  /** The workflows that differ. */
  readonly workflows?: readonly { readonly workflow: string; readonly flag: DriftFlag }[];
  /** By default one of its own. */
  readonly requestId?: string;
}

/** Environments, their badges and their drift checks. */
export interface Environments {
  create(environment: { readonly displayName: string; readonly requestId?: string }): Promise<Environment>;
  get(environmentId: string): Promise<Environment>;
  /** Every environment by name. */
  list(filter?: { readonly driftStatus?: DriftStatus }): AsyncIterable<Environment>;
  /** Records a check; the environment is as it is after it. */
  recordDriftCheck(
    environmentId: string,
    check: NewDriftCheck,
  ): Promise<{ readonly driftCheck: DriftCheck; readonly environment: Environment }>;
  /** Every drift check, newest first. */
  driftChecks(filter?: { readonly environmentId?: string; readonly status?: DriftStatus }): AsyncIterable<DriftCheck>;
}

/** Makes `lethe.environments`. */
export const makeEnvironments = (services: Services): Environments => ({
  async create(environment) {
    const answer = await services.incident.createEnvironment({ requestId: newId(), ...environment });
    return present('environment', answer.environment);
  },
  async get(environmentId) {
    return present('environment', (await services.incident.getEnvironment({ environmentId })).environment);
  },
  list: (filter = {}) =>
    everyItem(async (page) => {
      const { environments, nextPageToken } = await services.incident.listEnvironments({ ...filter, ...page });
      return { items: environments, nextPageToken };
    }),
  async recordDriftCheck(environmentId, { workflows = [], ...check }) {
    const request = { requestId: newId(), environmentId, ...check, workflows: workflows.map((each) => ({ ...each })) };
    const { driftCheck, environment } = await services.incident.recordDriftCheck(request);
    return { driftCheck: present('drift check', driftCheck), environment: present('environment', environment) };
  },
  driftChecks: (filter = {}) =>
    everyItem(async (page) => {
      const { driftChecks, nextPageToken } = await services.incident.listDriftChecks({ ...filter, ...page });
      return { items: driftChecks, nextPageToken };
    }),
});
