import type { DescService } from '@bufbuild/protobuf';
import type { Client } from '@connectrpc/connect';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { type ClientTlsFiles, logCertificates } from '#libs/grpc/tls.ts';
import type { Logger } from '#libs/telemetry/logger.ts';

/** The services behind the console, by the names of their address settings. */
export const UPSTREAMS = {
  run: RunService,
  job: JobService,
  incident: IncidentService,
  retention: RetentionService,
} as const;

/** One of UPSTREAMS. */
export type UpstreamName = keyof typeof UPSTREAMS;

/** Typed clients of all services for one caller. */
export type UpstreamClients = { readonly [Name in UpstreamName]: Client<(typeof UPSTREAMS)[Name]> };

/** The console's connections to the services. */
export interface Upstreams {
  /** A client of one service whose calls carry this bearer token. */
  client<Desc extends DescService>(service: Desc, token: string): Client<Desc>;
  /** Clients of all services whose calls carry this bearer token. */
  clients(token: string): UpstreamClients;
  /** A client of the StatusService of one service, which each of them has. */
  status(name: UpstreamName, token: string): Client<typeof StatusService>;
  close(): void;
}

/** Connects to the services, before the first call. An Error names a TLS file that cannot be used. */
export function connectUpstreams(
  addresses: Readonly<Record<UpstreamName, string>>,
  tls: ClientTlsFiles | undefined,
  log: Logger,
): Upstreams {
  const connections = new Map<string, Connection>();
  for (const name of Object.keys(UPSTREAMS) as UpstreamName[]) {
    const options = { address: addresses[name], token: noToken, tls, onCertificates: logCertificates(log) };
    connections.set(UPSTREAMS[name].typeName, connect(options));
  }
  const connectionTo = ({ typeName }: DescService): Connection => {
    const connection = connections.get(typeName);
    if (!connection) throw new Error(`the console is not connected to ${typeName}`);
    return connection;
  };
  const client = <Desc extends DescService>(service: Desc, token: string): Client<Desc> =>
    connectionTo(service).client(service, async () => token);
  return {
    client,
    clients: (token) => ({
      get run() {
        return client(RunService, token);
      },
      get job() {
        return client(JobService, token);
      },
      get incident() {
        return client(IncidentService, token);
      },
      get retention() {
        return client(RetentionService, token);
      },
    }),
    status: (name, token) => connectionTo(UPSTREAMS[name]).client(StatusService, async () => token),
    close() {
      for (const connection of connections.values()) connection.close();
    },
  };
}

// The console has no credential of its own: every call is made with its caller's.
const noToken = (): Promise<string> => Promise.reject(new Error('a call to a service needs the token of its caller'));
