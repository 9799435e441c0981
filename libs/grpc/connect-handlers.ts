import type { Readable } from 'node:stream';
import {
  create,
  type DescMethod,
  type DescService,
  fromBinary,
  type Message,
  type MessageInitShape,
  toBinary,
} from '@bufbuild/protobuf';
import {
  Code,
  ConnectError,
  type ContextValues,
  createContextValues,
  type HandlerContext,
  type ServiceImpl,
} from '@connectrpc/connect';
import type {
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  Metadata,
  ServerDuplexStream,
  ServerWritableStream,
  ServiceDefinition,
  StatusObject,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError, fieldInvalid } from '#libs/kernel/domain-error.ts';
import { CALLER, NOTE_REFUSAL } from './caller.ts';
import { checkRequest } from './check-request.ts';
import { runAsCaller } from './current-caller.ts';

import { makeInterruptible } from './interruptible.ts';
import { type OnInternalError, toStatus } from './status.ts';

/** What every kind of server call has in common. */
interface ServerCall {
  readonly metadata: Metadata;
  readonly cancelled: boolean;
  getDeadline(): Date | number;
  getPath(): string;
  getPeer(): string;
  on(event: 'cancelled', listener: () => void): unknown;
}

/** A service and what of it is implemented; an RPC that is absent answers UNIMPLEMENTED. */
export interface ServiceBinding<Desc extends DescService = DescService> {
  readonly service: Desc;
  readonly implementation: Partial<ServiceImpl<Desc>>;
  /** The RPCs that tell of work done elsewhere for as long as it lasts: they end first when the server is to stop. */
  readonly watches: readonly string[];
}

/** Binds an implementation to its service, type-checked. */
export const bindService = <Desc extends DescService>(
  service: Desc,
  implementation: Partial<ServiceImpl<Desc>>,
  watches: readonly (keyof Desc['method'])[] = [],
): ServiceBinding => ({
  service,
  implementation: implementation as Partial<ServiceImpl<DescService>>,
  watches: watches as readonly string[],
});

/** A call that was refused because of who made it. */
export interface Refusal {
  /** `package.Service/Method`. */
  readonly rpc: string;
  /** Undefined where the credential was not believed. */
  readonly caller: Caller | undefined;
  /** The entry of the trust file whose key signed the credential, by name. Undefined: no entry's key did. */
  readonly trustEntry?: string | undefined;
  /** e.g. ROLE_TOO_LOW. */
  readonly reason: string;
  /** The other end of the connection, host:port. */
  readonly peer: string;
}

/** What stands between the wire and every handler. */
export interface CallGuard {
  /**
   * The verified and authorized caller; throws a DomainError otherwise, after it has told of the refusal. `rpc` is
   * `package.Service/Method`.
   */
  admit(rpc: string, authorization: string | undefined, peer: string): Promise<Caller>;
  /** Opens a stream for an admitted caller, and answers how to end it; throws TOO_MANY_STREAMS. */
  openStream(caller: Caller): () => void;
  /** Told of every refusal of a call that had been admitted. */
  onRefused(refusal: Refusal): void;
  /** Told once of every finished call; `code` is the gRPC status number. */
  onFinished(rpc: string, code: number, durationMs: number): void;
  onInternalError: OnInternalError;
  /** The deadline of a unary call whose caller set none, and how long an upload's caller may be silent, in milliseconds. */
  readonly defaultDeadlineMs: number;
  /** Ends the watches, as soon as the server is to stop. */
  readonly stopSignal: AbortSignal;
  /** Ends the calls that are still running when the server gives up draining. */
  readonly shutdownSignal: AbortSignal;
}

/** The grpc-js definition of a service. Messages stay bytes here, so that nothing is parsed for a refused caller. */
export const serviceDefinition = (service: DescService): ServiceDefinition =>
  Object.fromEntries(
    service.methods.map((method) => [
      method.localName,
      {
        path: `/${service.typeName}/${method.name}`,
        requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
        responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
        requestSerialize: identity,
        requestDeserialize: identity,
        responseSerialize: identity,
        responseDeserialize: identity,
        originalName: method.name,
      },
    ]),
  );

const identity = (bytes: Buffer): Buffer => bytes;

/** The grpc-js handlers of a Connect implementation. */
export function connectHandlers(
  { service, implementation, watches }: ServiceBinding,
  guard: CallGuard,
): UntypedServiceImplementation {
  return Object.fromEntries(
    service.methods.map((method) => {
      // biome-ignore lint/suspicious/noExplicitAny: bindService has checked the implementation against its service.
      const implement = (implementation as Record<string, any>)[method.localName]?.bind(implementation) as Implement;
      const isWatch = watches.includes(method.localName);
      return [method.localName, handlerOf(method, implement, guard, isWatch)];
    }),
  );
}

// biome-ignore lint/suspicious/noExplicitAny: the message types of a method are known to its descriptor only.
type Implement = (request: any, context: HandlerContext) => any;

function handlerOf(
  method: DescMethod,
  implement: Implement | undefined,
  guard: CallGuard,
  isWatch: boolean,
): UntypedServiceImplementation[string] {
  const rpc = `${method.parent.typeName}/${method.name}`;
  const encode = (message: MessageInitShape<typeof method.output>): Buffer =>
    Buffer.from(toBinary(method.output, create(method.output, message)));

  /** One call, from its admission to its status: `work` answers it, `refuse` sends the status of what went wrong. */
  const serve = async (
    call: ServerCall,
    refuse: (status: Partial<StatusObject>) => unknown,
    work: (run: Implement, context: ServerCallContext) => Promise<void>,
  ): Promise<void> => {
    const startedAt = performance.now();
    let caller: Caller | undefined;
    let context: ServerCallContext | undefined;
    let endStream: (() => void) | undefined;
    let code = 0;
    try {
      caller = await guard.admit(rpc, call.metadata.get('authorization')[0]?.toString(), call.getPeer());
      if (method.methodKind !== 'unary') endStream = guard.openStream(caller);
      if (!implement) throw new ConnectError(`${rpc} is not implemented yet.`, Code.Unimplemented);
      // While its caller was verified nobody listened.
      if (call.cancelled) throw cancelled();
      const serving = new ServerCallContext(
        method,
        call,
        caller,
        guard,
        isWatch ? guard.stopSignal : guard.shutdownSignal,
      );
      context = serving;
      await runAsCaller(caller, () => work(implement, serving));
    } catch (error) {
      if (caller && error instanceof DomainError && error.kind === 'permission-denied') {
        guard.onRefused({ rpc, caller, reason: error.reason, peer: call.getPeer() });
      }
      const status = toStatus(error, guard.onInternalError);
      refuse(status);
      code = status.code ?? Code.Unknown;
    }
    endStream?.();
    guard.onFinished(rpc, code, performance.now() - startedAt);
    context?.end();
  };
  const received = async function* (call: Readable, context: ServerCallContext) {
    context.beginToWait();
    try {
      // The end of the requests is not the end of the call: by default the answers' half would be destroyed with them.
      for await (const bytes of call.iterator({ destroyOnReturn: false })) {
        context.endWaiting();
        yield decode(method, bytes);
        context.beginToWait();
      }
    } finally {
      context.endWaiting();
    }
  };
  const sendAll = async (
    call: ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>,
    context: ServerCallContext,
    answers: AsyncIterable<MessageInitShape<typeof method.output>>,
  ): Promise<void> => {
    for await (const message of context.through(answers)) {
      if (!call.write(encode(message))) await context.race(drained(call));
    }
    call.end();
  };

  switch (method.methodKind) {
    case 'unary': {
      const handler: handleUnaryCall<Buffer, Buffer> = (call, respond) =>
        serve(call, respond, async (run, context) =>
          respond(null, encode(await context.race(run(decode(method, call.request), context)))),
        );
      return handler;
    }
    case 'client_streaming': {
      const handler: handleClientStreamingCall<Buffer, Buffer> = (call, respond) =>
        serve(call, respond, async (run, context) =>
          respond(null, encode(await context.race(run(received(call, context), context)))),
        );
      return handler;
    }
    case 'server_streaming': {
      const handler: handleServerStreamingCall<Buffer, Buffer> = (call) =>
        serve(
          call,
          (status) => call.emit('error', status),
          (run, context) => sendAll(call, context, run(decode(method, call.request), context)),
        );
      return handler;
    }
    case 'bidi_streaming': {
      const handler: handleBidiStreamingCall<Buffer, Buffer> = (call) =>
        serve(
          call,
          (status) => call.emit('error', status),
          (run, context) => sendAll(call, context, run(received(call, context), context)),
        );
      return handler;
    }
  }
}

// setTimeout takes none longer.
const MAX_TIMER_MS = 2_147_483_647;

/**
 * One call as its handler sees it, and its end by cancellation, deadline or shutdown as something that the handler's
 * promise can be raced against. What most handlers never ask for, headers and signal, is made when it is asked for:
 * making them costs more than a small call.
 */
class ServerCallContext implements HandlerContext {
  readonly service: DescService;
  readonly method: DescMethod;
  readonly protocolName = 'grpc';
  readonly requestMethod = 'POST';
  readonly url: string;
  readonly values: ContextValues;
  readonly #metadata: Metadata;
  readonly #deadlineAt: number | undefined;
  /** How long the client may be silent; undefined where a deadline or nothing bounds the call. */
  readonly #idleMs: number | undefined;
  readonly #stopSignal: AbortSignal;
  readonly #waiting = makeInterruptible();
  readonly #onStop = (): void => this.#stop(shuttingDown());
  #timer: NodeJS.Timeout | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #isOver = false;
  #reason: Error | undefined;
  #controller: AbortController | undefined;
  #requestHeader: Headers | undefined;
  #responseHeader: Headers | undefined;
  #responseTrailer: Headers | undefined;

  constructor(method: DescMethod, call: ServerCall, caller: Caller, guard: CallGuard, stopSignal: AbortSignal) {
    this.service = method.parent;
    this.method = method;
    this.url = call.getPath();
    const rpc = `${method.parent.typeName}/${method.name}`;
    this.values = createContextValues()
      .set(CALLER, caller)
      .set(NOTE_REFUSAL, (reason) => guard.onRefused({ rpc, caller, reason, peer: call.getPeer() }));
    this.#metadata = call.metadata;
    this.#stopSignal = stopSignal;
    // grpc-js tells it of every call, also of one that ended well: then there is nothing to stop.
    call.on('cancelled', () => this.#isOver || this.#stop(cancelled()));
    if (stopSignal.aborted) this.#onStop();
    else stopSignal.addEventListener('abort', this.#onStop, { once: true });
    const requested = remainingMs(call.getDeadline());
    const timeoutMs = requested ?? (method.methodKind === 'unary' ? guard.defaultDeadlineMs : undefined);
    const isClientStream = method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming';
    this.#idleMs = isClientStream ? guard.defaultDeadlineMs : undefined;
    if (timeoutMs === undefined) return;
    this.#deadlineAt = performance.now() + timeoutMs;
    this.#timer = this.#stopAfter(timeoutMs, 'The deadline has passed.');
  }

  /** Bounds the wait for the next message of a stream, however long its caller gave the whole. */
  beginToWait(): void {
    if (this.#idleMs === undefined || this.#isOver) return;
    this.#idleTimer = this.#stopAfter(this.#idleMs, `Nothing was sent for ${this.#idleMs / 1_000} s.`);
  }

  /** A message has come, or nobody waits for one any more. */
  endWaiting(): void {
    clearTimeout(this.#idleTimer);
  }

  #stopAfter(ms: number, why: string): NodeJS.Timeout {
    const stop = (): void => this.#stop(new ConnectError(why, Code.DeadlineExceeded));
    return setTimeout(stop, Math.min(Math.max(1, ms), MAX_TIMER_MS));
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#reason) this.#controller.abort(this.#reason);
    return this.#controller.signal;
  }

  get requestHeader(): Headers {
    this.#requestHeader ??= headersOf(this.#metadata);
    return this.#requestHeader;
  }

  get responseHeader(): Headers {
    this.#responseHeader ??= new Headers();
    return this.#responseHeader;
  }

  get responseTrailer(): Headers {
    this.#responseTrailer ??= new Headers();
    return this.#responseTrailer;
  }

  readonly timeoutMs = (): number | undefined =>
    this.#deadlineAt === undefined ? undefined : Math.max(0, this.#deadlineAt - performance.now());

  /** What `work` gives, or how the call ended where that comes first. */
  race<T>(work: Promise<T> | T): Promise<T> {
    return this.#waiting.wait(work);
  }

  /** The items until the call ends; the source is told to stop then. */
  async *through<T>(source: AsyncIterable<T>): AsyncIterable<T> {
    const iterator = source[Symbol.asyncIterator]();
    try {
      for (;;) {
        const { done, value } = await this.race(iterator.next());
        if (done) return;
        yield value;
      }
    } finally {
      // Not awaited: a source that waits for something else hears of the end through its signal.
      iterator.return?.().catch(() => undefined);
    }
  }

  /** The call is answered: whatever still works for it is told to stop. */
  end(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#idleTimer);
    this.#stopSignal.removeEventListener('abort', this.#onStop);
    this.#controller?.abort(new ConnectError('The call is over.', Code.Canceled));
  }

  #stop(reason: Error): void {
    this.#reason ??= reason;
    this.#waiting.interrupt(reason);
    this.#controller?.abort(reason);
  }
}

function remainingMs(deadline: Date | number): number | undefined {
  const at = deadline instanceof Date ? deadline.getTime() : deadline;
  return Number.isFinite(at) ? at - Date.now() : undefined;
}

function headersOf(metadata: Metadata): Headers {
  const headers = new Headers();
  for (const [key, value] of Object.entries(metadata.getMap())) {
    // The credential has done its work; what is not there cannot be logged or passed on.
    if (typeof value === 'string' && key !== 'authorization') headers.set(key, value);
  }
  return headers;
}

function decode(method: DescMethod, bytes: Buffer): Message {
  let message: Message;
  try {
    message = fromBinary(method.input, bytes);
  } catch {
    throw fieldInvalid('request', `is not a ${method.input.typeName}`);
  }
  checkRequest(method.input, message, bytes);
  return message;
}

const RETRY_AFTER_STOP_MS = 1_000;

const shuttingDown = (): DomainError =>
  new DomainError('unavailable', 'SHUTTING_DOWN', 'The server is stopping; try again.', undefined, {
    retryAfterMs: RETRY_AFTER_STOP_MS,
  });

const cancelled = (): ConnectError => new ConnectError('The call was cancelled.', Code.Canceled);

const drained = (call: { once(event: 'drain', listener: () => void): unknown }): Promise<void> =>
  new Promise((resolve) => call.once('drain', resolve));
