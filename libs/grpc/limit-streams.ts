import { DomainError } from '#libs/kernel/domain-error.ts';

/** How many streams may be open at once. */
export interface StreamLimits {
  readonly perCaller: number;
  readonly perProcess: number;
}

// A stream that was refused is worth trying again once others have ended, which takes a while.
const RETRY_AFTER_MS = 5_000;

// What callers of one tenant have together leaves other tenants the rest.
const SHARE_OF_TENANT = 1 / 4;

/**
 * Counts the streams that are open. The function opens one for a caller, of a tenant if it has one, and what it returns
 * ends it, once; TOO_MANY_STREAMS when the caller or the process has as many as allowed, or the tenant a quarter of what
 * the process may have.
 */
export function makeStreamLimit({
  perCaller,
  perProcess,
}: StreamLimits): (caller: string, tenant?: string) => () => void {
  const perTenant = Math.ceil(perProcess * SHARE_OF_TENANT);
  const ofCallers = makeCounts();
  const ofTenants = makeCounts();
  let open = 0;
  return (caller, tenant) => {
    const own = ofCallers.of(caller);
    if (own >= perCaller) throw tooMany(`You have ${own} streams open at this server; end some first.`, perCaller);
    const shared = tenant === undefined ? 0 : ofTenants.of(tenant);
    if (shared >= perTenant) {
      throw tooMany(`Your tenant has ${shared} streams open at this server; end some first.`, perTenant);
    }
    if (open >= perProcess) throw tooMany(`This server has ${open} streams open and takes no more.`, perProcess);
    open += 1;
    ofCallers.add(caller, 1);
    if (tenant !== undefined) ofTenants.add(tenant, 1);
    let hasEnded = false;
    return () => {
      if (hasEnded) return;
      hasEnded = true;
      open -= 1;
      ofCallers.add(caller, -1);
      if (tenant !== undefined) ofTenants.add(tenant, -1);
    };
  };
}

/** Counts by name, which keep nothing of a name whose count is 0. */
function makeCounts() {
  const counts = new Map<string, number>();
  const of = (name: string): number => counts.get(name) ?? 0;
  return {
    of,
    add(name: string, more: number): void {
      const count = of(name) + more;
      if (count === 0) counts.delete(name);
      else counts.set(name, count);
    },
  };
}

const tooMany = (message: string, limit: number): DomainError =>
  new DomainError(
    'resource-exhausted',
    'TOO_MANY_STREAMS',
    message,
    { limit: String(limit) },
    { retryAfterMs: RETRY_AFTER_MS },
  );
