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
import { type CallOptions, splitCall } from './call-options.ts';
import type { Services } from './services.ts';
import { itemOf, listOf, present } from './streams.ts';

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
  create: (options) =>
    itemOf('environment', options, (request, call) =>
      services.incident.createEnvironment({ requestId: newId(), ...request }, call),
    ),
  get: (environmentId, options = {}) =>
    itemOf('environment', options, (_, call) => services.incident.getEnvironment({ environmentId }, call)),
  list: (options = {}) =>
    listOf('environments', options, (request, call) => services.incident.listEnvironments(request, call)),
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
  driftChecks: (options = {}) =>
    listOf('driftChecks', options, (request, call) => services.incident.listDriftChecks(request, call)),
});
