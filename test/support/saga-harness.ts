import { setTimeout as delay } from 'node:timers/promises';
import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { makeSagaRepository } from '#services/run/adapters/postgres/saga-repository.ts';
import type { JsonObject } from '#services/run/domain/run.ts';
import type { Workflow } from '#services/run/domain/workflow.ts';
import { type AdvanceRuns, makeAdvanceRuns } from '#services/run/use-cases/advance-runs.ts';
import type { ParticipantCall } from '#services/run/use-cases/deletion-ports.ts';
import { makeOwnRuns, type OwnRuns } from '#services/run/use-cases/run-slots.ts';
import type { SagaRepository, SagaRun, StepParticipant } from '#services/run/use-cases/saga-ports.ts';
import { makeStartRun, type StartRun } from '#services/run/use-cases/start-run.ts';
import { clientToDelivery } from '#services/run/workflows/client-to-delivery/workflow.ts';
import type { TestDatabase } from './postgres.ts';

/** The seed's ten tables, by hand: evidence shares nothing with what it judges. */
export const TEN_TABLES = [
  'delivery_artifacts',
  'delivery_packages',
  'qc_issues',
  'qc_results',
  'production_bundle_assets',
  'production_bundles',
  'production_drafts',
  'strategy_document',
  'onboarding_intake',
  'onboarding_brief',
] as const;

/** What a run of client_to_delivery is given, with flags as the test wants them. */
export const inputOf = (more: JsonObject = {}): JsonObject => ({
  environment_id: '00000000-0000-4000-8000-000000000001',
  brief: {
    client: 'Acme',
    product: 'Night Bus',
    audience: 'commuters',
    goals: ['sell ten thousand passes', 'be known in town'],
    channels: ['web', 'radio', 'print'],
  },
  ...more,
});

/** Rows in each of the ten tables, by SQL that shares no code with the engine; of one run where one is named. */
export async function countTen(
  database: Pick<TestDatabase, 'query'>,
  tenantId: string,
  runId?: string,
): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const table of TEN_TABLES) {
    const [row] = await database.query<{ count: number }>(
      `select count(*)::int as count from ${table} where tenant_id = $1 and ($2::uuid is null or run_id = $2)`,
      [tenantId, runId ?? null],
    );
    counts[table] = row?.count ?? 0;
  }
  return counts;
}

/** None in any table. */
export const NOTHING = Object.fromEntries(TEN_TABLES.map((table) => [table, 0]));

/** What a completed run with a brief of its own leaves: three channels. */
export const COMPLETE = {
  ...NOTHING,
  onboarding_brief: 1,
  onboarding_intake: 1,
  strategy_document: 1,
  production_drafts: 1,
  production_bundles: 1,
  production_bundle_assets: 3,
  qc_results: 1,
  delivery_packages: 1,
  delivery_artifacts: 3,
};

/** A participant that keeps its effects in memory, and fails as it is told. */
export interface FakeParticipant extends StepParticipant {
  /** Effects by `run/step`. */
  readonly effects: Map<string, JsonObject>;
  readonly calls: string[];
  /** Thrown by the next calls of that kind, one each; `for ever` by all of them. */
  fail: {
    check?: Error | undefined;
    execute?: Error | undefined;
    compensate?: Error | undefined;
    verify?: Error | undefined;
  };
  /** Whether nobody answers under its address. */
  isAway: boolean;
  /** Claims to have removed, and keeps. */
  lies: boolean;
  /** How many calls of each kind are answered PARTIAL before the first that is COMPLETE. */
  partial: number;
  /** Awaited inside every execute, after the effect is there. */
  afterExecute: () => Promise<void>;
}

/** Makes a participant that answers as the contract says. */
export function makeFakeParticipant(name: string): FakeParticipant {
  const effects = new Map<string, JsonObject>();
  const tombstones = new Set<string>();
  const callsOf = (call: string): number => fake.calls.filter((made) => made === call).length;
  const keyOf = ({ runId, step }: ParticipantCall): string => `${runId}/${step}`;
  const fake: FakeParticipant = {
    name,
    effects,
    calls: [],
    fail: {},
    isAway: false,
    lies: false,
    partial: 0,
    afterExecute: async () => undefined,
    isReachable: async () => !fake.isAway,
    async check() {
      if (fake.fail.check) throw fake.fail.check;
    },
    async execute(call, action, input) {
      fake.calls.push(`execute ${call.step}`);
      if (fake.fail.execute) throw fake.fail.execute;
      if (tombstones.has(keyOf(call))) throw new DomainError('failed-precondition', 'STEP_COMPENSATED', 'Too late.');
      if (!effects.has(keyOf(call))) effects.set(keyOf(call), { action, input });
      await fake.afterExecute();
      if (callsOf(`execute ${call.step}`) <= fake.partial) return { progress: 'PARTIAL', output: {} };
      return { progress: 'COMPLETE', output: name === 'job' ? { job_id: call.runId } : { incident_id: call.runId } };
    },
    async compensate(call) {
      fake.calls.push(`compensate ${call.step}`);
      if (fake.fail.compensate) throw fake.fail.compensate;
      tombstones.add(keyOf(call));
      const calls = callsOf(`compensate ${call.step}`);
      if (calls <= fake.partial) {
        const counts = [{ resourceType: name, found: fake.partial + 1, deleted: calls, left: 0, bytes: 0 }];
        return { progress: 'PARTIAL', counts, failedItems: [] };
      }
      const deleted = fake.lies ? 1 : effects.delete(keyOf(call)) ? 1 : 0;
      return {
        progress: 'COMPLETE',
        counts: deleted ? [{ resourceType: name, found: 1, deleted, left: 0, bytes: 0 }] : [],
        failedItems: [],
      };
    },
    holds: async (call) => effects.has(keyOf(call)),
    async verifyStep(call) {
      if (fake.fail.verify) throw fake.fail.verify;
      const left = effects.has(keyOf(call)) ? 1 : 0;
      return { counts: left ? [{ resourceType: name, found: left, deleted: 0, left, bytes: 0 }] : [] };
    },
  };
  return fake;
}

/** One replica's engine over a real database, driven by hand. */
export interface Engine {
  readonly sagas: SagaRepository;
  readonly advance: AdvanceRuns;
  readonly own: OwnRuns;
  readonly startRun: StartRun;
  readonly settled: { readonly run: SagaRun; readonly outcome: string }[];
  /** Begins a run and waits until it is over or waits for another attempt. */
  run(input: JsonObject, more?: Partial<Parameters<StartRun>[0]>): Promise<SagaRun>;
  /** Waits until this replica drives no run that began here. */
  idle(): Promise<void>;
  /** Takes up what is due until nothing is. */
  drain(): Promise<void>;
}

/** Who calls in these tests. */
export const callerIn = (tenantId: string): Caller => ({
  subject: 'ana',
  actor: 'ana',
  kind: 'user',
  role: 'admin',
  tenantId,
  scopes: new Set(),
  trustEntry: 'company',
});

/** Composes an engine over a database, or over what stands in for it; workers are the test's to call. */
export function makeEngine(
  database: Database | SagaRepository,
  participants: readonly StepParticipant[],
  options: {
    readonly tenantId?: string;
    readonly workflow?: Workflow;
    readonly workerId?: string;
    readonly leaseMs?: number;
    readonly maxAttempts?: number;
    readonly slots?: number;
  } = {},
): Engine {
  const {
    tenantId = 'acme',
    workflow = clientToDelivery,
    workerId = 'w1',
    leaseMs = 10_000,
    maxAttempts = 3,
    slots = 1_000,
  } = options;
  const settled: { run: SagaRun; outcome: string }[] = [];
  const waiting = new Map<string, (run: SagaRun) => void>();
  const early = new Map<string, SagaRun>();
  const sagas = 'forTenant' in database ? makeSagaRepository(database, workflow.types) : database;
  const advance = makeAdvanceRuns(
    sagas,
    [workflow],
    participants,
    { workerId, leaseMs, retry: { maxAttempts, baseMs: 1, maxMs: 2 } },
    () => undefined,
    (run, outcome) => {
      settled.push({ run, outcome });
      const told = waiting.get(run.runId);
      waiting.delete(run.runId);
      if (told) told(run);
      else early.set(run.runId, run);
    },
  );
  let underWay = 0;
  const held: AdvanceRuns['held'] = async (claim, signal) => {
    underWay += 1;
    await advance.held(claim, signal).finally(() => {
      underWay -= 1;
    });
  };
  const own = makeOwnRuns({ held }, { owner: workerId, leaseMs, size: slots }, (error) => {
    throw error;
  });
  const startRun = makeStartRun(
    sagas,
    [workflow],
    advance,
    participants,
    own,
    () => undefined,
    async (run) => run,
  );
  const drain = async (): Promise<void> => {
    const signal = new AbortController().signal;
    for (let idle = 0; idle < 5; ) {
      if ((await advance.due(signal)) > 0) idle = 0;
      else {
        idle += 1;
        await delay(2);
      }
    }
  };
  return {
    sagas,
    advance,
    own,
    startRun,
    settled,
    async run(input, more = {}) {
      const over = Promise.withResolvers<SagaRun>();
      const { id } = await startRun({
        caller: callerIn(tenantId),
        workflow: workflow.name,
        displayName: '',
        input,
        requestId: undefined,
        ...more,
      });
      const known = early.get(id);
      if (known) early.delete(id);
      else waiting.set(id, over.resolve);
      return known ?? over.promise;
    },
    async idle() {
      while (underWay > 0) await delay(2);
    },
    drain,
  };
}
