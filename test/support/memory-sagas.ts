import { requestIdReused } from '#libs/kernel/domain-error.ts';
import { OWN_PARTICIPANT } from '#services/run/domain/deletion.ts';
import { leaseLost } from '#services/run/domain/errors.ts';
import { isTerminal, type JsonObject, type Run } from '#services/run/domain/run.ts';
import { toRemovedCounts } from '#services/run/domain/saga.ts';
import type { EffectRow } from '#services/run/domain/workflow.ts';
import type { Removed, RunKey, SagaClaim, SagaRepository, SagaRun } from '#services/run/use-cases/saga-ports.ts';

interface Kept {
  run: SagaRun;
  readonly displayName: string;
  readonly begunAt: number;
  token: number;
  version: number;
  /** By the process's monotonic clock; undefined: it never will be. While it is held: the lease's end. */
  dueAt: number | undefined;
  owner: string | undefined;
}

/**
 * Runs as sagas without a database: what the engine costs by itself. It keeps the contract of repositories, but has
 * neither audit nor receipts nor hidden runs.
 */
export function makeMemorySagas(): SagaRepository & {
  readonly rows: ReadonlyMap<string, ReadonlyMap<string, EffectRow>>;
} {
  const runs = new Map<string, Kept>();
  const requests = new Map<string, { readonly fingerprint: string; readonly runId: string }>();
  const rows = new Map<string, Map<string, EffectRow>>();
  // By run and step, what it made.
  const made = new Map<string, { readonly type: string; readonly key: string }[]>();
  const rowsOf = (type: string): Map<string, EffectRow> => {
    const known = rows.get(type) ?? new Map<string, EffectRow>();
    rows.set(type, known);
    return known;
  };
  const keptOf = ({ tenantId, runId }: RunKey): Kept | undefined => {
    const kept = runs.get(runId);
    return kept?.run.tenantId === tenantId ? kept : undefined;
  };
  const isDue = ({ dueAt }: Kept): boolean => dueAt !== undefined && dueAt <= performance.now();

  const findBegun: SagaRepository['findBegun'] = async (tenantId, { id, fingerprint }) => {
    const known = requests.get(`${tenantId}/${id}`);
    if (known && known.fingerprint !== fingerprint) throw requestIdReused(id);
    const kept = known && runs.get(known.runId);
    return kept && toRun(kept);
  };

  /** Removes what steps of a run have made, and answers by step what is gone of it in all. */
  const remove = (after: SagaRun, steps: readonly string[]): Record<string, Removed> => {
    const removed: Record<string, Removed> = {};
    for (const name of steps) {
      const declared = after.declaration?.steps.find((step) => step.name === name)?.removes ?? [];
      const place = `${after.runId}/${name}`;
      const gone = (made.get(place) ?? []).filter(
        ({ type, key }) => declared.includes(type) && rowsOf(type).delete(key),
      );
      made.delete(place);
      const own = declared.map((resourceType) => {
        const deleted = gone.filter(({ type }) => type === resourceType).length;
        return { resourceType, found: deleted, deleted, left: 0, bytes: 0 };
      });
      const remote = after.steps.find((step) => step.name === name)?.removals ?? [];
      removed[name] = {
        removed: toRemovedCounts([...remote, { participant: OWN_PARTICIPANT, counts: own }]),
        removals:
          remote.length === 0
            ? []
            : [...remote, { participant: OWN_PARTICIPANT, counts: own.filter(({ found }) => found > 0) }],
      };
    }
    return removed;
  };

  return {
    rows,
    async keepDeclaration() {
      // Each run has its own.
    },
    async begin({ run, displayName, request }, hold) {
      const begun = request && (await findBegun(run.tenantId, request));
      if (begun) return { run: begun, claim: undefined };
      if (request) requests.set(`${run.tenantId}/${request.id}`, { ...request, runId: run.runId });
      const now = performance.now();
      const kept: Kept = {
        run,
        displayName,
        begunAt: now,
        token: hold ? 1 : 0,
        version: 1,
        dueAt: now + (hold?.leaseMs ?? 0),
        owner: hold?.owner,
      };
      runs.set(run.runId, kept);
      const claim: SagaClaim | undefined = hold && { run, token: 1, version: 1, isAfterLoss: false };
      return { run: toRun(kept), claim };
    },
    findBegun,
    async findDue(limit) {
      const held = new Map<string, number>();
      for (const kept of runs.values()) {
        const { tenantId } = kept.run;
        if (kept.owner !== undefined && !isDue(kept)) held.set(tenantId, (held.get(tenantId) ?? 0) + 1);
      }
      return [...runs.values()]
        .filter(isDue)
        .toSorted((a, b) => (a.dueAt ?? 0) - (b.dueAt ?? 0))
        .map(({ run: { tenantId, runId } }) => {
          const place = (held.get(tenantId) ?? 0) + 1;
          held.set(tenantId, place);
          return { place, key: { tenantId, runId } };
        })
        .toSorted((a, b) => a.place - b.place)
        .slice(0, limit)
        .map(({ key }) => key);
    },
    async claim(key, owner, leaseMs) {
      const kept = keptOf(key);
      if (!kept || !isDue(kept)) return undefined;
      const isAfterLoss = kept.owner !== undefined;
      if (isAfterLoss) kept.run = { ...kept.run, attempts: kept.run.attempts + 1 };
      kept.token += 1;
      kept.owner = owner;
      kept.dueAt = performance.now() + leaseMs;
      return { run: kept.run, token: kept.token, version: kept.version, isAfterLoss };
    },
    async endLease({ token, run }, pauseMs) {
      const kept = keptOf(run);
      if (kept?.token === token && kept.owner !== undefined) kept.dueAt = performance.now() + pauseMs;
    },
    async write({ token, version, run }, { after, rows: change, hold }) {
      const kept = keptOf(run);
      if (kept?.token !== token || kept.version !== version) throw leaseLost();
      kept.version += 1;
      if (change?.kind === 'make') {
        const effects = Object.entries(change.effects).flatMap(([type, each]) => each.map((row) => ({ type, row })));
        const keys = effects.map(({ type, row }) => ({ type, key: `${run.tenantId}/${row.id}` }));
        for (const [index, { type, row }] of effects.entries()) rowsOf(type).set(keys[index]?.key ?? '', row);
        made.set(`${run.runId}/${change.step}`, keys);
      }
      const removed = change?.kind === 'remove' ? remove(after, change.steps) : {};
      kept.run = {
        ...after,
        steps: after.steps.map((step) => ({ ...step, ...removed[step.name] })),
      };
      if (hold.kind !== 'keep') kept.dueAt = performance.now() + (hold.kind === 'renew' ? hold.leaseMs : hold.pauseMs);
      if (hold.kind === 'release') kept.owner = undefined;
      if (isTerminal(after.state)) Object.assign(kept, { dueAt: undefined, owner: undefined });
      return removed;
    },
    async findEffect(tenantId, type, id) {
      return rowsOf(type).get(`${tenantId}/${id}`) as JsonObject | undefined;
    },
    async order({ action, actor, subject, trustEntry, ...key }, change) {
      const kept = keptOf(key);
      if (!kept) return undefined;
      const after = change(toRun(kept), kept.run);
      if (after === kept.run) return toRun(kept);
      kept.run = { ...kept.run, ...after, ...(action === 'retry' ? {} : { actor, subject, trustEntry }) };
      kept.token += 1;
      kept.version += 1;
      kept.dueAt = performance.now();
      kept.owner = undefined;
      return toRun(kept);
    },
    async oldestUnfinishedSeconds() {
      const begun = [...runs.values()].filter(({ dueAt }) => dueAt !== undefined).map(({ begunAt }) => begunAt);
      return begun.length === 0 ? 0 : (performance.now() - Math.min(...begun)) / 1_000;
    },
    async parkedCount() {
      return [...runs.values()].filter(({ run }) => run.parkedReason !== undefined).length;
    },
  };
}

function toRun({ run, displayName, version }: Kept): Run {
  const now = Temporal.Now.instant();
  return {
    id: run.runId,
    tenantId: run.tenantId,
    workflow: run.workflow,
    displayName,
    driver: 'ENGINE',
    state: run.state,
    input: run.input,
    output: run.output,
    error: run.error,
    parkedReason: run.parkedReason,
    attempts: run.attempts,
    currentStep: run.currentStep,
    createdAt: now,
    startedAt: now,
    updatedAt: now,
    finishedAt: isTerminal(run.state) ? now : undefined,
    tombstone: undefined,
    references: [],
    version: BigInt(version),
  };
}
