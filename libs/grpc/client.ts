import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type MessageInitShape,
  toBinary,
} from '@bufbuild/protobuf';
import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type StreamResponse,
  type Transport,
  type UnaryResponse,
} from '@connectrpc/connect';
import { credentials, Client as GrpcClient, Metadata, type ServiceError } from '@grpc/grpc-js';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { StatusSchema } from '#gen/google/rpc/status_pb.ts';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';

/** Where a service is, and who calls it. */
export interface ClientOptions {
  /** host:port, or a grpc target such as `dns:///run.lethe.svc:7401`; all addresses behind a name are used in turn. */
  readonly address: string;
  /** The bearer token of the next call. */
  readonly token: () => Promise<string>;
  /** For unary calls that name no timeout of their own, in milliseconds. */
  readonly deadlineMs?: number;
}

/** A connection to one service, and the typed clients on it. */
export interface Connection {
  /** A client; its calls carry the connection's token, or the one that `token` gives. */
  client<Desc extends DescService>(service: Desc, token?: () => Promise<string>): Client<Desc>;
  close(): void;
}

type HeaderEntries = ConstructorParameters<typeof Headers>[0];

const DEFAULT_DEADLINE_MS = 30_000;

// Only UNAVAILABLE is retried: every other code may mean that the call was carried out.
const SERVICE_CONFIG = JSON.stringify({
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: '0.1s',
        maxBackoff: '2s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE'],
      },
    },
  ],
});

/** Connects to one service. No connection is made before the first call. */
export function connect({ address, token, deadlineMs = DEFAULT_DEADLINE_MS }: ClientOptions): Connection {
  const target = address.includes('://') || address.startsWith('dns:') ? address : `dns:///${address}`;
  const grpc = new GrpcClient(target, credentials.createInsecure(), {
    'grpc.service_config': SERVICE_CONFIG,
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2_000,
    // A client of its own subchannels: closing one connection must not close another's.
    'grpc.use_local_subchannel_pool': 1,
  });
  return {
    client: (service, ownToken = token) => createClient(service, makeTransport(grpc, ownToken, deadlineMs)),
    close: () => grpc.close(),
  };
}

/** The reason of an error's ErrorInfo, e.g. `JOB_NOT_FOUND`; undefined where it has none. */
export const reasonOf = (error: unknown): string | undefined =>
  ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason;

/**
 * What a service throws on when a service it called did not do it: a peer that cannot answer is
 * DEPENDENCY_UNAVAILABLE, everything else stays what it was.
 */
export function toPeerError(peer: string, error: unknown): unknown {
  if (error instanceof DomainError) return error;
  const { code } = ConnectError.from(error);
  const passing = code === Code.Unavailable || code === Code.DeadlineExceeded || code === Code.ResourceExhausted;
  return passing ? dependencyUnavailable(peer, error) : error;
}

function makeTransport(grpc: GrpcClient, token: () => Promise<string>, deadlineMs: number): Transport {
  const open = async (header: HeaderEntries | undefined, signal: AbortSignal | undefined) => {
    signal?.throwIfAborted();
    const metadata = new Metadata();
    for (const [key, value] of new Headers(header)) metadata.set(key, value);
    metadata.set('authorization', `Bearer ${await token()}`);
    return metadata;
  };
  const deadlineOf = (timeoutMs: number | undefined) =>
    timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };

  return {
    async unary<I extends DescMessage, O extends DescMessage>(
      method: DescMethodUnary<I, O>,
      signal: AbortSignal | undefined,
      timeoutMs: number | undefined,
      header: HeaderEntries | undefined,
      input: MessageInitShape<I>,
    ): Promise<UnaryResponse<I, O>> {
      const metadata = await open(header, signal);
      const bytes = await new Promise<Buffer>((resolve, reject) => {
        const call = grpc.makeUnaryRequest<Buffer, Buffer>(
          pathOf(method),
          identity,
          identity,
          encode(method.input, input),
          metadata,
          deadlineOf(timeoutMs ?? deadlineMs),
          (error, value) => (error ? reject(toConnectError(error)) : resolve(value as Buffer)),
        );
        cancelOn(signal, call);
      });
      return { ...responseOf(method), stream: false, method, message: fromBinary(method.output, bytes) };
    },

    async stream<I extends DescMessage, O extends DescMessage>(
      method: DescMethodStreaming<I, O>,
      signal: AbortSignal | undefined,
      timeoutMs: number | undefined,
      header: HeaderEntries | undefined,
      input: AsyncIterable<MessageInitShape<I>>,
    ): Promise<StreamResponse<I, O>> {
      const metadata = await open(header, signal);
      const options = deadlineOf(timeoutMs);
      if (method.methodKind === 'client_streaming') {
        const bytes = await new Promise<Buffer>((resolve, reject) => {
          const call = grpc.makeClientStreamRequest<Buffer, Buffer>(
            pathOf(method),
            identity,
            identity,
            metadata,
            options,
            (error, value) => (error ? reject(toConnectError(error)) : resolve(value as Buffer)),
          );
          cancelOn(signal, call);
          const over = new Promise<void>((done) => call.once('close', done).once('error', () => done()));
          (async () => {
            for await (const message of input) {
              if (call.destroyed) return;
              const drained = new Promise<void>((done) => call.once('drain', done));
              if (!call.write(encode(method.input, message))) await Promise.race([drained, over]);
            }
            call.end();
          })().catch((error: unknown) => {
            call.cancel();
            reject(error);
          });
        });
        const message = fromBinary(method.output, bytes);
        return { ...responseOf(method), stream: true, method, message: once(message) };
      }
      const request = await firstOf(input);
      const call = grpc.makeServerStreamRequest<Buffer, Buffer>(
        pathOf(method),
        identity,
        identity,
        encode(method.input, request),
        metadata,
        options,
      );
      cancelOn(signal, call);
      const messages = async function* () {
        try {
          for await (const bytes of call as AsyncIterable<Buffer>) yield fromBinary(method.output, bytes);
        } catch (error) {
          throw toConnectError(error as ServiceError);
        } finally {
          call.cancel();
        }
      };
      return { ...responseOf(method), stream: true, method, message: messages() };
    },
  };
}

const identity = (bytes: Buffer): Buffer => bytes;

const pathOf = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;

const encode = <Desc extends DescMessage>(schema: Desc, message: MessageInitShape<Desc>): Buffer =>
  Buffer.from(toBinary(schema, create(schema, message)));

const responseOf = (method: DescMethod) => ({ service: method.parent, header: new Headers(), trailer: new Headers() });

function cancelOn(signal: AbortSignal | undefined, call: { cancel(): void }): void {
  if (signal?.aborted) call.cancel();
  else signal?.addEventListener('abort', () => call.cancel(), { once: true });
}

function toConnectError(error: ServiceError): ConnectError {
  const result = new ConnectError(error.details || error.message, error.code as number as Code);
  result.cause = error;
  const packed = error.metadata?.get('grpc-status-details-bin')[0];
  if (packed instanceof Uint8Array) {
    result.details = fromBinary(StatusSchema, packed).details.map(({ typeUrl, value }) => ({
      type: typeUrl.slice(typeUrl.lastIndexOf('/') + 1),
      value,
    }));
  }
  return result;
}

async function firstOf<T>(items: AsyncIterable<T>): Promise<T> {
  for await (const item of items) return item;
  throw new ConnectError('The call has no request.', Code.InvalidArgument);
}

async function* once<T>(item: T): AsyncIterable<T> {
  yield item;
}
