import { type DescFile, fromBinary, toBinary } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation, service as healthService } from 'grpc-health-check';
import { file_google_rpc_error_details } from '#gen/google/rpc/error_details_pb.ts';
import { authorize, KeyMisused, type Rule } from '#libs/auth/authorize.ts';
import type { VerifyToken } from '#libs/auth/verify-token.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError, type ErrorKind } from '#libs/kernel/domain-error.ts';
import type { Logger } from '#libs/telemetry/logger.ts';
import type { Metrics } from '#libs/telemetry/metrics.ts';
import { boundDeadlines } from './bound-deadlines.ts';
import {
  type CallGuard,
  connectHandlers,
  type Refusal,
  type ServiceBinding,
  serviceDefinition,
} from './connect-handlers.ts';
import { makeStreamLimit } from './limit-streams.ts';
import { makeRateLimit } from './rate-limit.ts';
import { openly } from './serve-openly.ts';
import { logCertificates, makeServerCredentials, type ServerTlsFiles } from './tls.ts';

/** What a server serves, and whom. */
export interface ServerOptions {
  /** host:port; port 0 takes a free one. */
  readonly address: string;
  readonly services: readonly ServiceBinding[];
  readonly verifyToken: VerifyToken;
  readonly policy: Readonly<Record<string, Rule>>;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Told of every call that was admitted. */
  readonly onCall?: (caller: Caller) => void;
  /** Told of every call that was refused because of who made it. */
  readonly onRefused?: (refusal: Refusal) => void;
  readonly limits?: Partial<ServerLimits>;
  /** Speaks TLS and nothing else. Absent: plaintext. */
  readonly tls?: ServerTlsFiles | undefined;
  /** Whether anybody may ask what is served; true by default. */
  readonly reflection?: boolean;
}

/** The bounds of what one caller can ask of a server. */
export interface ServerLimits {
  /** A larger message is refused as RESOURCE_EXHAUSTED before it is read whole. */
  readonly maxMessageBytes: number;
  /** Calls at a time on one connection. */
  readonly maxConcurrentStreams: number;
  /** For unary calls whose caller set no deadline; an upload without one ends when nothing is sent for so long. */
  readonly defaultDeadlineMs: number;
  /** Calls a second of one tenant, or of one subject where there is none; twice as many in a burst. */
  readonly callsPerSecond: number;
  /** Open at once: streams of one caller, and of all callers of this process; those of one tenant are a quarter of it. */
  readonly streamsPerCaller: number;
  readonly streamsPerProcess: number;
  /**
   * How old a connection gets before its client is told to make another, by which it finds the replicas that were
   * added since. Calls that run on the old one go on there to their end.
   */
  readonly connectionAgeMs: number;
  /** How long accepted calls may take to end once the server is to stop. */
  readonly drainMs: number;
}

/** The limits where none are given. */
export const DEFAULT_LIMITS: ServerLimits = Object.freeze({
  maxMessageBytes: 4 * 1_024 * 1_024,
  maxConcurrentStreams: 1_000,
  defaultDeadlineMs: 30_000,
  callsPerSecond: 5_000,
  streamsPerCaller: 1_000,
  streamsPerProcess: 10_000,
  connectionAgeMs: 600_000,
  drainMs: 10_000,
});

/** A serving server. */
export interface RunningServer {
  readonly port: number;
  /**
   * Refuses new calls, ends watches as UNAVAILABLE, lets all other calls that were accepted end, and closes; what is left
   * after `drainMs` ends as UNAVAILABLE too.
   */
  stop(): Promise<void>;
}

// Any other error says that the credential could not be checked.
const REFUSALS: ReadonlySet<ErrorKind> = new Set(['unauthenticated', 'permission-denied']);
const KEEPALIVE_MS = 30_000;
const KEEPALIVE_TIMEOUT_MS = 10_000;
// How long a call that was told to end at the end of the drain has to say so, before its connection is cut.
const CUT_MS = 1_000;

/** Starts serving: the given services, health, and reflection of all of them. An Error names a TLS file that cannot be used. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { address, services, verifyToken, policy, log, metrics, onCall, onRefused = () => undefined } = options;
  const { tls, reflection = true } = options;
  const credentials = tls ? makeServerCredentials(tls, logCertificates(log)) : ServerCredentials.createInsecure();
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const rateLimit = makeRateLimit(limits.callsPerSecond);
  const openStream = makeStreamLimit({ perCaller: limits.streamsPerCaller, perProcess: limits.streamsPerProcess });
  const stopWatches = new AbortController();
  const shutdown = new AbortController();
  const guard: CallGuard = {
    onRefused,
    async admit(rpc, authorization, peer) {
      let caller: Caller | undefined;
      try {
        caller = await verifyToken(authorization);
        authorize(caller, policy[rpc]);
      } catch (error) {
        if (error instanceof DomainError && REFUSALS.has(error.kind)) {
          const trustEntry = error.cause instanceof KeyMisused ? error.cause.trustEntry : caller?.trustEntry;
          onRefused({ rpc, caller, trustEntry, reason: error.reason, peer });
        }
        throw error;
      }
      // A subject may have a tenant's name.
      const { tenantId, subject } = caller;
      const waitMs = rateLimit(tenantId === undefined ? `subject ${subject}` : `tenant ${tenantId}`);
      if (waitMs > 0) {
        const message = `More than ${limits.callsPerSecond} calls a second; slow down.`;
        const metadata = { calls_per_second: String(limits.callsPerSecond) };
        throw new DomainError('resource-exhausted', 'RATE_LIMITED', message, metadata, { retryAfterMs: waitMs });
      }
      onCall?.(caller);
      return caller;
    },
    openStream: ({ tenantId, subject }) => openStream(JSON.stringify([tenantId ?? '', subject]), tenantId),
    onFinished(rpc, code, durationMs) {
      metrics.rpcFinished(rpc, code, durationMs);
      log.debug({ rpc, code, durationMs }, 'call finished');
    },
    onInternalError(error, incidentId) {
      log.error({ err: error, incidentId }, 'call failed inside');
    },
    defaultDeadlineMs: limits.defaultDeadlineMs,
    stopSignal: stopWatches.signal,
    shutdownSignal: shutdown.signal,
  };

  const server = new Server({
    'grpc.max_receive_message_length': limits.maxMessageBytes,
    'grpc.max_send_message_length': limits.maxMessageBytes,
    'grpc.max_concurrent_streams': limits.maxConcurrentStreams,
    'grpc.keepalive_time_ms': KEEPALIVE_MS,
    'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
    'grpc.keepalive_permit_without_calls': 1,
    'grpc.max_connection_age_ms': limits.connectionAgeMs,
  });
  for (const binding of services) {
    server.addService(serviceDefinition(binding.service), connectHandlers(binding, guard));
  }
  const names = services.map(({ service }) => service.typeName);
  const health = new HealthImplementation(Object.fromEntries(['', ...names].map((name) => [name, 'SERVING'])));
  const open = openly(server, new Set(['', ...names])) as Server;
  health.addToServer(open);
  if (reflection) {
    // With the details of refusals, so that tools which live on reflection can show reason and fields.
    const files = [...services.map(({ service }) => service.file), file_google_rpc_error_details];
    new ReflectionService(reflected(files)).addToServer(open);
  }

  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, credentials, (error, bound) => {
      if (error) return reject(error);
      boundDeadlines(server);
      resolve(bound);
    });
  });
  const boundAddress = `${address.slice(0, address.lastIndexOf(':'))}:${port}`;
  const transport = tls ? (tls.clientCa === undefined ? 'TLS' : 'mTLS') : 'plaintext';
  log.info({ address: boundAddress, services: names, transport }, 'serving');

  const stop = async (): Promise<void> => {
    // Clients that watch health go elsewhere first; then no new stream is taken; then watches, which another server
    // goes on with, are told to; then what runs may end.
    for (const name of ['', ...names]) health.setStatus(name, 'NOT_SERVING');
    server.drain(boundAddress, limits.drainMs + CUT_MS);
    stopWatches.abort();
    const ended = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
    const timers = [
      setTimeout(() => {
        log.warn('calls did not end in time and are told to');
        shutdown.abort();
      }, limits.drainMs),
      setTimeout(() => server.forceShutdown(), limits.drainMs + CUT_MS),
    ];
    await ended;
    for (const timer of timers) clearTimeout(timer);
    log.info('stopped serving');
  };
  let stopping: Promise<void> | undefined;
  return {
    port,
    stop() {
      stopping ??= stop();
      return stopping;
    },
  };
}

/** What the reflection service needs: every file with those it imports before it, health's among them. */
function reflected(files: readonly DescFile[]): ConstructorParameters<typeof ReflectionService>[0] {
  const ordered = new Map<string, Buffer>();
  const add = (file: DescFile): void => {
    if (ordered.has(file.name)) return;
    for (const dependency of file.dependencies) add(dependency);
    ordered.set(file.name, Buffer.from(toBinary(FileDescriptorProtoSchema, file.proto)));
  };
  for (const file of files) add(file);
  const health = Object.values(healthService)[0] as unknown as { requestType: { fileDescriptorProtos: Buffer[] } };
  const fileDescriptorProtos = [...ordered.values(), ...health.requestType.fileDescriptorProtos.map(withEntryNames)];
  // The reflection service reads nothing but the file descriptors; its type asks for more.
  const lethe = { format: 'Protocol Buffer 3 DescriptorProto', type: {}, fileDescriptorProtos } as const;
  return { lethe };
}

/**
 * The file with the entries of its maps named as every compiler of protos names them, `FieldEntry`. The package of health
 * leaves out `Entry`, and tools that are strict, such as grpcurl, then refuse the whole file.
 */
function withEntryNames(bytes: Buffer): Buffer {
  const file = fromBinary(FileDescriptorProtoSchema, bytes);
  for (const { field, nestedType } of file.messageType) {
    for (const entry of nestedType) {
      if (entry.options?.mapEntry !== true || entry.name.endsWith('Entry')) continue;
      for (const each of field) if (each.typeName === entry.name) each.typeName += 'Entry';
      entry.name += 'Entry';
    }
  }
  return Buffer.from(toBinary(FileDescriptorProtoSchema, file));
}
