/**
 * Bounds how many uploads of a process are read at a time, since each holds a part of some MiB until the store has it.
 * The others are not read meanwhile, so that their senders wait.
 */
export interface UploadTurns {
  /**
   * Resolves when it is an upload's turn, with how to give the turn back, which must be done once. Whoever has waited
   * longest of the tenant with the fewest turns is next, and no tenant has more than half of all turns, or one. Rejects
   * with the signal's reason.
   */
  take(tenantId: string, signal: AbortSignal): Promise<() => void>;
}

interface Waiting {
  readonly tenantId: string;
  readonly begin: () => void;
}

/** Makes the turns of one process; `atOnce` is how many there are, at least 1. */
export function makeUploadTurns(atOnce: number): UploadTurns {
  const mostOfTenant = Math.max(1, Math.floor(atOnce / 2));
  const held = new Map<string, number>();
  const waiting = new Set<Waiting>();
  let free = atOnce;

  const heldBy = (tenantId: string): number => held.get(tenantId) ?? 0;
  const change = (tenantId: string, by: 1 | -1): void => {
    free -= by;
    const turns = heldBy(tenantId) + by;
    if (turns === 0) held.delete(tenantId);
    else held.set(tenantId, turns);
  };
  const handOut = (): void => {
    while (free > 0) {
      let next: Waiting | undefined;
      for (const each of waiting) {
        if (heldBy(each.tenantId) >= mostOfTenant) continue;
        if (next === undefined || heldBy(each.tenantId) < heldBy(next.tenantId)) next = each;
      }
      if (next === undefined) return;
      waiting.delete(next);
      change(next.tenantId, 1);
      next.begin();
    }
  };

  return {
    async take(tenantId, signal) {
      signal.throwIfAborted();
      await new Promise<void>((resolve, reject) => {
        const leave = (): void => {
          waiting.delete(one);
          reject(signal.reason);
        };
        const one: Waiting = {
          tenantId,
          begin() {
            signal.removeEventListener('abort', leave);
            resolve();
          },
        };
        signal.addEventListener('abort', leave, { once: true });
        waiting.add(one);
        handOut();
      });
      return () => {
        change(tenantId, -1);
        handOut();
      };
    },
  };
}
