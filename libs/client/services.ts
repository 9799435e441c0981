import type { DescService } from '@bufbuild/protobuf';
import type { Client } from '@connectrpc/connect';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import { type ClientOptions, type Connection, connect } from '#libs/grpc/client.ts';
import type { ClientTlsFiles } from '#libs/grpc/tls.ts';
import { makeLetheError, withLetheErrors } from './lethe-error.ts';

/** The services that the SDK can call. */
export const SERVICE_NAMES = ['run', 'job', 'incident', 'retention'] as const;

/** One of SERVICE_NAMES. */
export type ServiceName = (typeof SERVICE_NAMES)[number];

/** Where the services are: host:port or a grpc target. A service whose address is absent cannot be called. */
export type Addresses = { readonly [Name in ServiceName]?: string | undefined };

/** Every RPC of every service, typed; errors are LetheError. */
export interface Services {
  readonly run: Client<typeof RunService>;
  readonly job: Client<typeof JobService>;
  readonly incident: Client<typeof IncidentService>;
  readonly retention: Client<typeof RetentionService>;
  /** What every service tells about itself. */
  readonly status: { readonly [Name in ServiceName]: Client<typeof StatusService> };
}

/** Connects, or tells as a LetheError which certificate cannot be used. */
function connectWith(options: ClientOptions): Connection {
  try {
    return connect(options);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw makeLetheError('FAILED_PRECONDITION', 'CERTIFICATE_UNUSABLE', message, { cause: error });
  }
}

/**
 * Makes the clients, each when it is first asked for; LetheError/ADDRESS_MISSING where the address is not set,
 * CERTIFICATE_UNUSABLE where a file of `tls` cannot be used.
 */
export function connectServices(
  addresses: Addresses,
  token: () => Promise<string>,
  tls?: ClientTlsFiles,
): { services: Services; close(): void } {
  const connections: Connection[] = [];
  const clientOf = <Desc extends DescService>(name: ServiceName, service: Desc): Client<Desc> => {
    const address = addresses[name];
    if (!address) {
      const message = `The address of the ${name} service is not set.`;
      throw makeLetheError('FAILED_PRECONDITION', 'ADDRESS_MISSING', message, { metadata: { service: name } });
    }
    const connection = connectWith({ address, token, tls });
    connections.push(connection);
    return withLetheErrors(service, connection.client(service), { service: name, address });
  };
  return {
    services: onDemand<Services>({
      run: () => clientOf('run', RunService),
      job: () => clientOf('job', JobService),
      incident: () => clientOf('incident', IncidentService),
      retention: () => clientOf('retention', RetentionService),
      status: () =>
        onDemand<Services['status']>({
          run: () => clientOf('run', StatusService),
          job: () => clientOf('job', StatusService),
          incident: () => clientOf('incident', StatusService),
          retention: () => clientOf('retention', StatusService),
        }),
    }),
    close() {
      for (const connection of connections) connection.close();
    },
  };
}

/** An object whose properties are made when they are first asked for. */
function onDemand<T extends object>(makers: { readonly [Name in keyof T]: () => T[Name] }): T {
  const made: Partial<T> = {};
  const demanded = {} as T;
  for (const name of Object.keys(makers) as (keyof T)[]) {
    Object.defineProperty(demanded, name, { enumerable: true, get: () => (made[name] ??= makers[name]()) });
  }
  return demanded;
}
