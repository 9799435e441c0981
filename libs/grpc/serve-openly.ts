import type { EventEmitter } from 'node:events';
import type {
  handleBidiStreamingCall,
  handleServerStreamingCall,
  MethodDefinition,
  Server,
  ServerDuplexStream,
  UntypedHandleCall,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { makeStreamLimit } from './limit-streams.ts';
import { toStatus } from './status.ts';

type OpenMethod = MethodDefinition<object, object>;
type Watch = handleServerStreamingCall<{ service?: string }, { status: string }>;
type Reflect = handleBidiStreamingCall<object, object>;

// Longer than any name that can be asked for.
const MAX_REQUEST_BYTES = 4_096;
const STREAMS = { perCaller: 100, perProcess: 1_000 };

/**
 * Where health and reflection are added, which anybody may ask without a credential: what they are asked must cost the
 * process nothing that lasts. Their streams are counted by the address that they come from. A request that is longer than
 * any name is taken for one of an unknown name. The packages remember every name that is watched, and write answers that
 * nobody reads; here a watch of a name that is not among `known` is answered and not remembered, and no request is read
 * before the answers to those before it were taken.
 */
export function openly(server: Server, known: ReadonlySet<string | undefined>): Pick<Server, 'addService'> {
  const openStream = makeStreamLimit(STREAMS);
  const isOpened = (call: EventEmitter & { getPeer(): string }): boolean => {
    try {
      // Told of every call that ends, also of one that ended well.
      call.once('cancelled', openStream(addressOf(call.getPeer())));
      return true;
    } catch (error) {
      call.emit(
        'error',
        toStatus(error, () => undefined),
      );
      return false;
    }
  };
  const bound = (method: OpenMethod, handle: UntypedHandleCall): UntypedHandleCall => {
    if (!method.responseStream) return handle;
    if (method.requestStream) {
      const reflect: Reflect = (call) => {
        if (!isOpened(call)) return;
        readAsAnswersGo(call);
        (handle as Reflect)(call);
      };
      return reflect;
    }
    const watch: Watch = (call) => {
      if (!isOpened(call)) return;
      if (known.has(call.request.service)) (handle as Watch)(call);
      else call.write({ status: 'SERVICE_UNKNOWN' });
    };
    return watch;
  };
  return {
    addService(service, implementation) {
      const [given, handles] = [service as Record<string, OpenMethod>, implementation as UntypedServiceImplementation];
      const definition: Record<string, OpenMethod> = {};
      const handlers: UntypedServiceImplementation = {};
      for (const [name, method] of Object.entries(given)) {
        const handle = handles[name] ?? handles[method.originalName ?? name];
        definition[name] = { ...method, requestDeserialize: shortly(method) };
        if (handle) handlers[name] = bound(method, handle);
      }
      server.addService(definition, handlers);
    },
  };
}

const shortly =
  ({ requestDeserialize }: OpenMethod) =>
  (bytes: Buffer): object =>
    bytes.length > MAX_REQUEST_BYTES ? {} : requestDeserialize(bytes);

/** Lets a stream take no further request while its answers are not taken. */
function readAsAnswersGo(call: ServerDuplexStream<object, object>): void {
  const write = call.write.bind(call) as (answer: unknown) => boolean;
  call.write = (answer: unknown): boolean => {
    const goesOn = write(answer);
    if (!goesOn) {
      call.pause();
      call.once('drain', () => call.resume());
    }
    return goesOn;
  };
}

const addressOf = (peer: string): string => peer.slice(0, peer.lastIndexOf(':'));
