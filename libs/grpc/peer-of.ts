import type { ClientUnaryCall } from '@grpc/grpc-js';

/** The undocumented parts of grpc-js that are needed here: a call is made of others, one in the other. */
interface Part {
  readonly call?: Part;
  readonly nextCall?: Part;
  readonly child?: Part;
  readonly underlyingCalls?: readonly { readonly call: Part }[];
  getPeer?(): string;
}

const MOST_PARTS = 10;

/**
 * The address that a call went to, of several behind a name. grpc-js tells it only once it would not make the call again
 * by itself, which is with the answer; until then it is asked of the part that was sent last. `unknown` where that
 * cannot be found.
 */
export function peerOf(call: ClientUnaryCall): string {
  let part: Part = call as unknown as Part;
  for (let depth = 0; depth < MOST_PARTS; depth += 1) {
    const inner = part.underlyingCalls?.at(-1)?.call ?? part.nextCall ?? part.child ?? part.call;
    if (inner === undefined) break;
    if (part.underlyingCalls) return inner.getPeer?.() ?? 'unknown';
    part = inner;
  }
  return call.getPeer();
}
