import type { JsonObject } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type {
  DriftCheck,
  DriftCheckView,
  DriftFlag,
  DriftStatus,
  Environment,
} from '#gen/lethe/incident/v1/incident_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CallOptions, splitCall, toTransport } from './call-options.ts';
import type { Services } from './services.ts';
import { everyItem, present } from './streams.ts';

/** What a drift check found. */
export interface NewDriftCheck extends CallOptions {
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
  create(
    environment: CallOptions & { readonly displayName: string; readonly requestId?: string },
  ): Promise<Environment>;
  get(environmentId: string, options?: CallOptions): Promise<Environment>;
  /** Every environment by name. */
  list(filter?: CallOptions & { readonly driftStatus?: DriftStatus }): AsyncIterable<Environment>;
  /** Records a check; the environment is as it is after it. */
  recordDriftCheck(
    environmentId: string,
    check: NewDriftCheck,
  ): Promise<{ readonly driftCheck: DriftCheck; readonly environment: Environment }>;
  getDriftCheck(driftCheckId: string, options?: CallOptions & { readonly view?: DriftCheckView }): Promise<DriftCheck>;
  /** Every drift check, newest first; with summary and workflows only where the view is FULL. */
  driftChecks(
    filter?: CallOptions & {
      readonly environmentId?: string;
      readonly status?: DriftStatus;
      readonly view?: DriftCheckView;
    },
  ): AsyncIterable<DriftCheck>;
}

/** Makes `lethe.environments`. */
export const makeEnvironments = (services: Services): Environments => ({
  async create(options) {
    const { request, call } = splitCall(options);
    const answer = await services.incident.createEnvironment({ requestId: newId(), ...request }, call);
    return present('environment', answer.environment);
  },
  async get(environmentId, options = {}) {
    const { environment } = await services.incident.getEnvironment({ environmentId }, toTransport(options));
    return present('environment', environment);
  },
  list(options = {}) {
    const { request, call } = splitCall(options);
    return everyItem(async (page) => {
      const { environments, nextPageToken } = await services.incident.listEnvironments({ ...request, ...page }, call);
      return { items: environments, nextPageToken };
    });
  },
  async recordDriftCheck(environmentId, { workflows = [], ...options }) {
    const { request: check, call } = splitCall(options);
    const request = { requestId: newId(), environmentId, ...check, workflows: workflows.map((each) => ({ ...each })) };
    const { driftCheck, environment } = await services.incident.recordDriftCheck(request, call);
    return { driftCheck: present('drift check', driftCheck), environment: present('environment', environment) };
  },
  async getDriftCheck(driftCheckId, options = {}) {
    const { request, call } = splitCall(options);
    const { driftCheck } = await services.incident.getDriftCheck({ driftCheckId, ...request }, call);
    return present('drift check', driftCheck);
  },
  driftChecks(options = {}) {
    const { request, call } = splitCall(options);
    return everyItem(async (page) => {
      const { driftChecks, nextPageToken } = await services.incident.listDriftChecks({ ...request, ...page }, call);
      return { items: driftChecks, nextPageToken };
    });
  },
});
