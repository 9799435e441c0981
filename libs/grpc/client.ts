import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { create, type DescMethod, type DescService, fromBinary, toBinary } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel as Level } from '@bufbuild/protobuf/wkt';
import { type CallOptions, type Client, Code, ConnectError, makeAnyClient } from '@connectrpc/connect';
import { credentials, Client as GrpcClient, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { StatusSchema } from '#gen/google/rpc/status_pb.ts';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { type Channel, makeChannel } from './channel.ts';
import { endUnanswered } from './end-unanswered.ts';
import { makeInterruptible } from './interruptible.ts';
import { peerOf } from './peer-of.ts';
import { type ClientTlsFiles, makeClientCredentials, type OnCertificates } from './tls.ts';

/** Where a service is, and who calls it. */
export interface ClientOptions {
  /** host:port, or a grpc target such as `dns:///run.lethe.svc:7401`; all addresses behind a name are used in turn. */
  readonly address: string;
  /** The bearer token of the next call. */
  readonly token: () => Promise<string>;
  /** For unary calls that name no timeout of their own, in milliseconds. */
  readonly deadlineMs?: number;
  /** Whether a call that fails as UNAVAILABLE, or whose connection was lost, is made again; true by default. */
  readonly retries?: boolean;
  /** Speaks TLS. Absent: plaintext. */
  readonly tls?: ClientTlsFiles | undefined;
  readonly onCertificates?: OnCertificates;
}

/** A connection to one service, and the typed clients on it. */
export interface Connection {
  /**
   * A client; its calls carry the connection's token, or the one that `token` gives. Of the options of a call it takes
   * `signal`, `timeoutMs` and `headers`. A stream's call begins at once and ends when nobody reads on.
   */
  client<Desc extends DescService>(service: Desc, token?: () => Promise<string>): Client<Desc>;
  /**
   * Whether anybody there takes calls, by the standard health check, within two seconds. A service without health checks
   * that says so takes calls. It asks once for all who ask at the same time.
   */
  isReachable(): Promise<boolean>;
  close(): void;
}

const DEFAULT_DEADLINE_MS = 30_000;

// Only UNAVAILABLE is retried: every other code may mean that the call was carried out. UNAVAILABLE may mean it too, where
// the answer was lost; so a call that makes something carries a request_id, by which a retry is known.
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

/** Connects to one service, before its first call. An Error names the TLS file that cannot be used. */
export function connect(options: ClientOptions): Connection {
  const { address, token, deadlineMs = DEFAULT_DEADLINE_MS, retries = true, tls } = options;
  const { onCertificates = () => undefined } = options;
  const secure = tls && makeClientCredentials(address, tls, onCertificates);
  const target = address.includes('://') || address.startsWith('dns:') ? address : `dns:///${address}`;
  const channelCredentials = endUnanswered(secure?.credentials ?? credentials.createInsecure());
  const channel = makeChannel(
    () =>
      new GrpcClient(target, channelCredentials, {
        ...secure?.options,
        'grpc.service_config': SERVICE_CONFIG,
        'grpc.enable_retries': retries ? 1 : 0,
        'grpc.keepalive_time_ms': 30_000,
        'grpc.keepalive_timeout_ms': 10_000,
        'grpc.initial_reconnect_backoff_ms': 100,
        'grpc.max_reconnect_backoff_ms': 2_000,
        // A client of its own subchannels: closing one connection must not close another's.
        'grpc.use_local_subchannel_pool': 1,
      }),
  );
  return {
    client: <Desc extends DescService>(service: Desc, ownToken = token) =>
      makeAnyClient(service, (method) =>
        makeCall(method, { channel, token: ownToken, deadlineMs, retries }),
      ) as Client<Desc>,
    isReachable: channel.isReachable,
    close: channel.close,
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

/** How the calls of one client are made. */
interface Calling {
  readonly channel: Channel;
  readonly token: () => Promise<string>;
  readonly deadlineMs: number;
  readonly retries: boolean;
}

/** What came of a call whose connection was given up before it was answered. */
const LOST = Symbol('lost');

// biome-ignore lint/suspicious/noExplicitAny: the message types of a method are known to its descriptor only.
type AnyMessage = any;
type Requests = AsyncIterable<AnyMessage>;

/** One RPC as a function of the client; Client gives it its types. */
function makeCall(method: DescMethod, calling: Calling): (...args: AnyMessage[]) => AnyMessage {
  const { channel, token, deadlineMs, retries } = calling;
  const path = `/${method.parent.typeName}/${method.name}`;
  const fillsIn = takesRequestId(method);
  const encode = (message: AnyMessage): Buffer => Buffer.from(toBinary(method.input, create(method.input, message)));
  /** The request with an id of its own, where a retry has to be known as one. A dry run stores nothing and has none. */
  const identified = (request: AnyMessage): AnyMessage =>
    fillsIn && !request.requestId && !request.validateOnly ? { ...request, requestId: newId() } : request;
  const decode = (bytes: Buffer): AnyMessage => fromBinary(method.output, bytes);
  /** Starts a call when there is a token for it; the time for that counts too. */
  const open = async <T extends Call>(
    { signal, headers }: CallOptions,
    deadline: number,
    start: (metadata: Metadata, options: { deadline: number }) => T,
  ): Promise<T> => {
    const metadata = new Metadata();
    for (const [key, value] of new Headers(headers)) metadata.set(key, value);
    metadata.set('authorization', `Bearer ${await abortable(token, signal)}`);
    const call = start(metadata, { deadline });
    cancelOn(signal, call);
    return call;
  };

  /** Makes a unary call once. */
  const ask = (request: AnyMessage, options: CallOptions, deadline: number): Promise<AnyMessage | typeof LOST> =>
    new Promise((resolve, reject) => {
      open(options, deadline, (metadata, within) => {
        let isLost = false;
        const onEnd = (error: ServiceError | null, answer?: AnyMessage): void => {
          stopWaiting();
          if (error?.code === status.DEADLINE_EXCEEDED) void channel.isReachable();
          if (isLost) resolve(LOST);
          else answering(resolve, reject)(error, answer);
        };
        const call = channel.client().makeUnaryRequest(path, encode, decode, request, metadata, within, onEnd);
        const stopWaiting = channel.awaitAnswer(
          () => {
            isLost = true;
            call.cancel();
          },
          () => peerOf(call),
        );
        return call;
      }).catch(reject);
    });

  switch (method.methodKind) {
    case 'unary':
      return async (message: AnyMessage, options: CallOptions = {}) => {
        const request = identified(message);
        const deadline = deadlineOf(options, deadlineMs);
        for (;;) {
          const answer = await ask(request, options, deadline);
          if (answer !== LOST) return answer;
          if (!retries) throw new ConnectError('The connection was lost.', Code.Unavailable);
        }
      };
    case 'client_streaming':
      return (requests: Requests, options: CallOptions = {}) =>
        new Promise((resolve, reject) => {
          open(options, deadlineOf(options), (metadata, within) =>
            channel
              .client()
              .makeClientStreamRequest(path, encode, decode, metadata, within, answering(resolve, reject)),
          )
            .then((call) => send(call, requests))
            .catch(reject);
        });
    case 'server_streaming':
      return (request: AnyMessage, options: CallOptions = {}) =>
        receive(
          open(options, deadlineOf(options), (metadata, within) =>
            watched(
              channel.client().makeServerStreamRequest(path, encode, decode, identified(request), metadata, within),
            ),
          ),
        );
    case 'bidi_streaming':
      return (requests: Requests, options: CallOptions = {}) =>
        receive(
          open(options, deadlineOf(options), (metadata, within) => {
            const call = watched(channel.client().makeBidiStreamRequest(path, encode, decode, metadata, within));
            send(call, requests).catch(call.fail);
            return call;
          }),
        );
  }
}

const deadlineOf = ({ timeoutMs }: CallOptions, defaultMs = Number.POSITIVE_INFINITY): number =>
  Date.now() + (timeoutMs ?? defaultMs);

/**
 * Whether the call makes something that a request_id names: without one, the repetition of a call whose answer was lost
 * would make another, or be refused for what the first has done.
 */
const takesRequestId = ({ idempotency, input }: DescMethod): boolean =>
  idempotency !== Level.NO_SIDE_EFFECTS && input.fields.some(({ name }) => name === 'request_id');

/** What every kind of client call has in common. */
interface Call {
  cancel(): void;
  once(event: 'status', listener: () => void): unknown;
}

/** The callback of a call with one answer. */
const answering =
  (resolve: (message: AnyMessage) => void, reject: (error: ConnectError) => void) =>
  (error: ServiceError | null, message?: AnyMessage): void =>
    error ? reject(toConnectError(error)) : resolve(message);

/** Sends what the source gives until it ends or the call is over, and closes it. A source that fails cancels the call. */
async function send(call: Writable & Call, source: Requests): Promise<void> {
  const iterator = source[Symbol.asyncIterator]();
  const waiting = makeInterruptible();
  const over = new Error('the call is over');
  call.once('status', () => waiting.interrupt(over));
  try {
    for (;;) {
      const { done, value } = await waiting.wait(iterator.next());
      if (done) break;
      if (!call.write(value)) await waiting.wait(once(call, 'drain'));
    }
    call.end();
  } catch (error) {
    // Not awaited: a source that waits for something may take its time.
    iterator.return?.().catch(() => undefined);
    // How a call ended is told by its status.
    if (error === over) return;
    call.cancel();
    throw error;
  }
}

/**
 * A stream that remembers why it failed. grpc-js tells it in an `error` event, which ends the process when nobody
 * listens and is lost on a reader who comes later: to him the stream would look whole.
 */
function watched<T extends Readable & Call>(stream: T) {
  let failure: unknown;
  const fail = (error: unknown): void => {
    failure ??= error;
  };
  stream.on('error', (error) => fail(toConnectError(error as ServiceError)));
  return Object.assign(stream, { fail, failure: () => failure });
}

/** The messages of a stream, then its failure if it has one. Who stops reading cancels the call. */
function receive(opening: Promise<ReturnType<typeof watched>>): AsyncIterable<AnyMessage> {
  // Told to whoever reads; nobody has to.
  opening.catch(() => undefined);
  return (async function* () {
    const stream = await opening;
    try {
      yield* stream;
    } catch (error) {
      stream.fail(error);
    } finally {
      stream.cancel();
    }
    if (stream.failure() !== undefined) throw stream.failure();
  })();
}

/** What `work` gives; CANCELLED instead once the signal is aborted. */
async function abortable<T>(work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work();
  const cancelled = new ConnectError('The call was cancelled.', Code.Canceled);
  if (signal.aborted) throw cancelled;
  const waiting = makeInterruptible();
  const onAbort = (): void => waiting.interrupt(cancelled);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await waiting.wait(work());
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Cancels the call when the signal is aborted; the signal may outlive many calls and keeps nothing of them. */
function cancelOn(signal: AbortSignal | undefined, call: Call): void {
  if (!signal) return;
  const cancel = (): void => call.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  call.once('status', () => signal.removeEventListener('abort', cancel));
  if (signal.aborted) cancel();
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
