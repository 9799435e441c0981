import { createContextKey, type HandlerContext } from '@connectrpc/connect';
import type { Caller } from '#libs/kernel/caller.ts';

/** Where the verified caller stands in a handler's context. */
export const CALLER = createContextKey<Caller | undefined>(undefined, { description: 'verified caller' });

/** The verified caller of this call. The server refuses a call without one before its handler runs. */
export function callerOf(context: HandlerContext): Caller {
  const caller = context.values.get(CALLER);
  if (caller === undefined) throw new Error(`${context.method.name} was reached without a verified caller`);
  return caller;
}
