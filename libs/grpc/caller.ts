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

/** Where a handler's context takes note of refusals. */
export const NOTE_REFUSAL = createContextKey<(reason: string) => void>(() => undefined, {
  description: 'notes a refusal',
});

/**
 * Notes in the audit that the caller was refused something without being told so, as where another tenant's data is
 * answered as if it did not exist.
 */
export const noteRefusal = (context: HandlerContext, reason: string): void => context.values.get(NOTE_REFUSAL)(reason);
