import { AsyncLocalStorage } from 'node:async_hooks';
import type { Caller } from '#libs/kernel/caller.ts';

const current = new AsyncLocalStorage<Caller>();

/** Does a call's work, all of which can then tell by which key its caller came. */
export const runAsCaller = <T>(caller: Caller, work: () => T): T => current.run(caller, work);

/**
 * The entry of the trust file whose key signed the credential of the call under way, by name. Undefined outside a call, in
 * a call that another subject made, and where the credential's check names no entry.
 */
export function currentTrustEntry(subject: string): string | undefined {
  const caller = current.getStore();
  return caller?.subject === subject ? caller.trustEntry : undefined;
}
