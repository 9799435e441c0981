import { leaseLost } from '#services/run/domain/errors.ts';
import { isTerminal, type JsonObject, type Run } from '#services/run/domain/run.ts';
import { toRemovedCounts } from '#services/run/domain/saga.ts';
import type { Declaration, EffectRow } from '#services/run/domain/workflow.ts';
import type { Removed, SagaClaim, SagaRepository, SagaRun } from '#services/run/use-cases/saga-ports.ts';

interface Kept {
  run: SagaRun;
  token: number;
  version: number;
  isDue: boolean;
  owner: string | undefined;
}

/** Runs as sagas without a database: what the engine costs by itself. A lease never runs out. */
export function makeMemorySagas(): SagaRepository & { readonly rows: Map<string, Map<string, EffectRow>> } {
  const runs = new Map<string, Kept>();
  const rows = new Map<string, Map<string, EffectRow>>();
  const declarations: Declaration[] = [];
  const rowsOf = (type: string): Map<string, EffectRow> => {
    const known = rows.get(type) ?? new Map<string, EffectRow>();
    rows.set(type, known);
    return known;
  };
  const provenance = new Map<string, { type: string; id: string }[]>();

  return {
    rows,
    async keepDeclaration(declaration) {
      declarations.push(declaration);
    },
    async begin({ run, displayName }, hold) {
      runs.set(run.runId, { run, token: hold ? 1 : 0, version: 1, isDue: hold === undefined, owner: hold?.owner });
      const claim: SagaClaim | undefined = hold && { run, token: 1, version: 1, isAfterLoss: false };
      return { run: toRun(run, displayName), claim };
    },
    async findDue(limit) {
      return [...runs.values()]
        .filter(({ isDue }) => isDue)
        .slice(0, limit)
        .map(({ run: { tenantId, runId } }) => ({ tenantId, runId }));
    },
    async claim({ runId }, owner) {
      const kept = runs.get(runId);
      if (!kept?.isDue) return undefined;
      kept.isDue = false;
      kept.token += 1;
      kept.owner = owner;
      return { run: kept.run, token: kept.token, version: kept.version, isAfterLoss: false };
    },
    async write({ token, version, run: { runId } }, write) {
      const kept = runs.get(runId);
      if (kept?.token !== token || kept.version !== version) throw leaseLost();
      kept.version += 1;
      const removed: Record<string, Removed> = {};
      if (write.rows?.kind === 'make') {
        const made: { type: string; id: string }[] = [];
        for (const [type, effects] of Object.entries(write.rows.effects)) {
          for (const row of effects) {
            rowsOf(type).set(row.id, row);
            made.push({ type, id: row.id });
          }
        }
        provenance.set(`${runId}/${write.rows.step}`, made);
      }
      for (const step of write.rows?.kind === 'remove' ? write.rows.steps : []) {
        const own: Record<string, number> = {};
        for (const { type, id } of provenance.get(`${runId}/${step}`) ?? []) {
          if (rowsOf(type).delete(id)) own[type] = (own[type] ?? 0) + 1;
        }
        provenance.delete(`${runId}/${step}`);
        const counts = Object.entries(own).map(([resourceType, deleted]) => ({
          resourceType,
          found: deleted,
          deleted,
          left: 0,
          bytes: 0,
        }));
        const remote = write.after.steps.find(({ name }) => name === step)?.removals ?? [];
        const removals = [...remote, { participant: 'run', counts }];
        removed[step] = { removals, removed: toRemovedCounts(removals) };
      }
      kept.run = write.after;
      kept.isDue = !isTerminal(write.after.state) && write.hold.kind === 'release';
      return removed;
    },
    async findBegun() {
      return undefined;
    },
    async findEffect(_, type, id) {
      return rowsOf(type).get(id) as JsonObject | undefined;
    },
    async order({ runId }, change) {
      const kept = runs.get(runId);
      if (!kept) return undefined;
      kept.run = { ...kept.run, ...change(toRun(kept.run, ''), kept.run) };
      kept.token += 1;
      kept.version += 1;
      kept.isDue = !isTerminal(kept.run.state);
      return toRun(kept.run, '');
    },
    async oldestUnfinishedSeconds() {
      return 0;
    },
    async parkedCount() {
      return [...runs.values()].filter(({ run }) => run.parkedReason !== undefined).length;
    },
  };
}

function toRun(run: SagaRun, displayName: string): Run {
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
    version: 1n,
  };
}
