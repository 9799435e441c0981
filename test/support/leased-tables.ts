import { setTimeout as delay } from 'node:timers/promises';
import { makeBulkDeletionRepository } from '#libs/bulk-deletion/bulk-deletion-repository.ts';
import type { BulkClaim } from '#libs/bulk-deletion/ports.ts';
import { makeRunBulkDeletions } from '#libs/bulk-deletion/run-bulk-deletions.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { jobTargets } from '#services/job/adapters/postgres/bulk-targets.ts';
import { makeDeletionRecords as makeJobDeletionRecords } from '#services/job/adapters/postgres/deletion-records.ts';
import { makeDeletionWork as makeJobDeletionWork } from '#services/job/adapters/postgres/deletion-work.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { NOTHING_REMOVED } from '#services/job/domain/deletion.ts';
import type { JobFilter } from '#services/job/domain/job-filter.ts';
import type { DeletionClaim as JobDeletionClaim } from '#services/job/use-cases/deletion-ports.ts';
import { makeRunDeletions } from '#services/job/use-cases/run-deletions.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { makePurgeRepository } from '#services/retention/adapters/postgres/purge-repository.ts';
import type { CatalogueSubject } from '#services/retention/domain/catalogue.ts';
import type { ItemClaim, ItemProgress, RetentionOwners } from '#services/retention/use-cases/purge-ports.ts';
import { makeRunPurges } from '#services/retention/use-cases/run-purges.ts';
import type { TenantPurgePorts } from '#services/retention/use-cases/tenant-purge.ts';
import { makeDeletionRecords } from '#services/run/adapters/postgres/deletion-records.ts';
import { makeDeletionWork } from '#services/run/adapters/postgres/deletion-work.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { makeSagaRepository } from '#services/run/adapters/postgres/saga-repository.ts';
import { afterFailure } from '#services/run/domain/deletion.ts';
import { afterAttempt, beginSaga, cancelSaga, nextMove, retrySaga } from '#services/run/domain/saga.ts';
import { toDeclaration } from '#services/run/domain/workflow.ts';
import { makeAdvanceRuns } from '#services/run/use-cases/advance-runs.ts';
import type { DeletionClaim, Participant } from '#services/run/use-cases/deletion-ports.ts';
import { makeRunCascades } from '#services/run/use-cases/run-cascades.ts';
import type { Hold, SagaClaim, SagaRun } from '#services/run/use-cases/saga-ports.ts';
import { clientToDelivery } from '#services/run/workflows/client-to-delivery/workflow.ts';
import type { Claim, Item, LeasedTable, Row, WorkerOptions } from '#test/contract/leased-work.ts';
import { makeMemoryObjectStore } from './memory-object-store.ts';
import type { TestDatabase, TestPostgres } from './postgres.ts';
import { callerIn, makeFakeParticipant } from './saga-harness.ts';

/** A table's columns as SQL, where one has other words than the next. */
interface Words {
  readonly table: string;
  readonly id: string;
  readonly due: string;
  readonly setDue: (at: string) => string;
  readonly owner: string;
  readonly token: string;
  /** Attempts that are over. */
  readonly attempts: string;
  readonly lastError: string;
  readonly error: string;
  readonly isParked: string;
}

type Rows = Pick<LeasedTable, 'created' | 'read' | 'findLongestDue' | 'setDue' | 'write' | 'close'> & {
  readonly tokenOf: (item: Item) => Promise<number>;
};

const WORKER = 'worker';
const LEASE_MS = 60_000;
const retryOf = (maxAttempts: number) => ({ maxAttempts, baseMs: 60_000, maxMs: 60_000 });

/** What every table's rows are read and changed by, as the superuser. */
function rowsOf(created: TestDatabase, database: Database, words: Words): Rows {
  const { table, id } = words;
  const where = `where tenant_id = $1 and ${id} = $2`;
  return {
    created,
    async read(item) {
      const [row] = await created.query<Row>(
        `select extract(epoch from ${words.due} - clock_timestamp())::float8 * 1000 as "dueInMs", ${words.owner} as owner,
                ${words.attempts} as attempts, ${words.lastError} as "lastError", ${words.isParked} as "isParked"
         from ${table} t ${where}`,
        [item.tenantId, item.id],
      );
      if (!row) throw new Error('the item is gone');
      return row;
    },
    findLongestDue: (limit) =>
      created.query<Item>(
        `select tenant_id as "tenantId", ${id} as id from ${table}
         where ${words.due} <= clock_timestamp() order by ${words.due} limit $1`,
        [limit],
      ),
    async setDue(item, ms) {
      const at = "clock_timestamp() + $3::float8 * interval '1 ms'";
      await created.query(`update ${table} set ${words.setDue(at)} ${where}`, [item.tenantId, item.id, ms]);
    },
    async write(item, { owner, attempts, lastError }) {
      const set = [
        ...(owner === null ? [`${words.owner} = null`] : []),
        ...(attempts === undefined ? [] : [`attempts = attempts - (${words.attempts} - ${attempts})`]),
        ...(lastError === null ? [`${words.error} = null`] : []),
      ];
      await created.query(`update ${table} t set ${set.join(', ')} ${where}`, [item.tenantId, item.id]);
    },
    async tokenOf(item) {
      const [row] = await created.query<{ token: string }>(`select ${words.token} as token from ${table} ${where}`, [
        item.tenantId,
        item.id,
      ]);
      return Number(row?.token);
    },
    close: () => database.close(),
  };
}

async function openTable(
  postgres: TestPostgres,
  migrations: readonly Migration[],
  words: Words,
): Promise<{ readonly database: Database; readonly rows: Rows }> {
  const created = await postgres.createDatabase(migrations);
  const database = created.open();
  return { database, rows: rowsOf(created, database, words) };
}

/** A participant whose part of any run is `effect`. */
const participantOf = ({ effect }: WorkerOptions, name: string): Participant => {
  const answer = { progress: 'COMPLETE', counts: [], failedItems: [] } as const;
  return {
    name,
    async purge({ tenantId }) {
      if (name === 'job') await effect(tenantId);
      return answer;
    },
    verify: async () => ({ counts: [] }),
    softDelete: async () => answer,
    restore: async () => answer,
    preview: () => Promise.reject(new Error('nobody previews')),
    isReachable: async () => true,
  };
};

/** JobService's deletions. */
async function openJobDeletions(postgres: TestPostgres): Promise<LeasedTable<JobDeletionClaim>> {
  const { database, rows } = await openTable(postgres, jobMigrations, {
    table: 'job_deletions',
    id: 'id',
    due: "case when state <> 'STUCK' then coalesce(lease_expires_at, next_attempt_at) end",
    setDue: (at) => `next_attempt_at = least(next_attempt_at, ${at}),
      lease_expires_at = case when lease_owner is not null then ${at} end`,
    owner: 'lease_owner',
    token: 'lease_token',
    attempts: '(attempts - case when lease_owner is null then 0 else 1 end)',
    lastError: 'last_error',
    error: 'last_error',
    isParked: "state = 'STUCK'",
  });
  const deletions = { ...makeJobDeletionWork(database), ...makeJobDeletionRecords(database) };
  const counts = NOTHING_REMOVED;
  return {
    ...rows,
    async add(tenantId) {
      const id = newId();
      await rows.created.query(
        `insert into job_deletions (tenant_id, id, job_id, state, actor, subject, counts, next_attempt_at)
         values ($1, $2, gen_random_uuid(), 'PENDING', 'a', 'a', $3::jsonb, clock_timestamp())`,
        [tenantId, id, JSON.stringify(counts)],
      );
      return { tenantId, id };
    },
    findDue: async (limit) =>
      (await deletions.findDue(limit)).map(({ tenantId, deletionId }) => ({ tenantId, id: deletionId })),
    claim: ({ tenantId, id }, owner, leaseMs) => deletions.claim(tenantId, id, owner, leaseMs),
    renew: (claim, leaseMs) => deletions.renew(claim, leaseMs),
    release: (claim) => deletions.release(claim, counts),
    fail: (claim, error, retryMs) =>
      deletions.postpone(claim, { counts, left: 0, error, failedKeys: [], retryMs, counted: true }),
    parking: {
      park: (claim, error) =>
        deletions.postpone(claim, { counts, left: 0, error, failedKeys: [], retryMs: undefined, counted: true }),
      async redrive(item) {
        const by = { caller: callerIn(item.tenantId), reason: undefined, isByPerson: true };
        await deletions.redrive(item.tenantId, item.id, by);
        return item;
      },
      lossesBeforeParked: (maxAttempts) => maxAttempts,
    },
    work({ maxAttempts, effect, leaseMs = LEASE_MS }, signal, callNext) {
      const store = makeMemoryObjectStore();
      const work = makeRunDeletions(
        deletions,
        { countObjects: async () => ({ liveUploads: 0, stored: 0 }) } as never,
        {
          ...store,
          async removePrefix(prefix, options) {
            await effect(prefix.split('/')[1] ?? '');
            return store.removePrefix(prefix, options);
          },
        },
        async () => undefined,
        { workerId: WORKER, leaseMs, objectsPerBatch: 10, turnMs: 60_000, retry: retryOf(maxAttempts) },
        () => undefined,
      );
      return work(signal, callNext);
    },
    asCurrent: async (claim, item) => ({ ...claim, token: BigInt(await rows.tokenOf(item)) }),
  };
}

/** RunService's deletions. */
async function openRunDeletions(postgres: TestPostgres): Promise<LeasedTable<DeletionClaim>> {
  const { database, rows } = await openTable(postgres, runMigrations, {
    table: 'deletions',
    id: 'id',
    due: "case when state <> 'STUCK' then coalesce(lease_expires_at, next_attempt_at) end",
    setDue: (at) => `next_attempt_at = least(next_attempt_at, ${at}),
      lease_expires_at = case when lease_owner is not null then ${at} end`,
    owner: 'lease_owner',
    token: 'lease_token',
    attempts: 'attempts',
    lastError: 'last_error',
    error: 'last_error',
    isParked: "state = 'STUCK'",
  });
  const deletions = { ...makeDeletionWork(database), ...makeDeletionRecords(database) };
  const failed = ({ deletion }: DeletionClaim, error: string, isLast: boolean) => {
    const [step] = deletion.steps;
    if (!step) throw new Error('the deletion has no steps');
    return afterFailure({ ...step, attempts: deletion.attempts }, error, isLast);
  };
  return {
    ...rows,
    async add(tenantId) {
      const id = newId();
      await rows.created.query(
        `with begun as (
           insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint, next_attempt_at)
           values ($1, $2, gen_random_uuid(), 'PURGE', 'PENDING', 'a', 'a', '', clock_timestamp()))
         insert into deletion_steps (tenant_id, deletion_id, position, participant, state)
         values ($1, $2, 0, 'job', 'PENDING'), ($1, $2, 1, 'run', 'PENDING')`,
        [tenantId, id],
      );
      return { tenantId, id };
    },
    findDue: async (limit) =>
      (await deletions.findDue(limit)).map(({ tenantId, deletionId }) => ({ tenantId, id: deletionId })),
    claim: ({ tenantId, id }, owner, leaseMs) => deletions.claim(tenantId, id, owner, leaseMs),
    renew(claim, leaseMs) {
      const [step] = claim.deletion.steps;
      if (!step) throw new Error('the deletion has no steps');
      return deletions.saveStep(claim, 'CASCADING', step, leaseMs);
    },
    release: (claim) => deletions.release(claim, 0),
    fail: (claim, error, retryMs) => deletions.fail(claim, failed(claim, error, false), retryMs),
    parking: {
      park: (claim, error) => deletions.fail(claim, failed(claim, error, true), undefined),
      async redrive(item) {
        await deletions.redrive(item.tenantId, item.id, callerIn(item.tenantId), undefined);
        return item;
      },
      lossesBeforeParked: (maxAttempts) => maxAttempts,
    },
    work(options, signal, callNext) {
      const work = makeRunCascades(
        deletions,
        async () => undefined,
        ['job', 'run'].map((name) => participantOf(options, name)),
        {
          workerId: WORKER,
          leaseMs: options.leaseMs ?? LEASE_MS,
          movesPerTurn: 100,
          purgeLimit: 100,
          retry: retryOf(options.maxAttempts),
        },
        () => undefined,
      );
      return work(signal, callNext);
    },
    asCurrent: async (claim, item) => ({ ...claim, token: BigInt(await rows.tokenOf(item)) }),
  };
}

/** RunService's runs, whose compensation asks a participant. */
async function openRuns(postgres: TestPostgres): Promise<LeasedTable<SagaClaim>> {
  const stepError = `(select error from workflow_run_steps s
                      where s.tenant_id = t.tenant_id and s.run_id = t.id and s.name = t.current_step)`;
  const { database, rows } = await openTable(postgres, runMigrations, {
    table: 'workflow_runs',
    id: 'id',
    due: 'due_at',
    setDue: (at) => `due_at = ${at}`,
    owner: 'claim_owner',
    token: 'claim_token',
    attempts: 'attempts',
    lastError: `case when state = 'FAILED' then parked_reason else ${stepError} end`,
    error: 'parked_reason',
    isParked: "state = 'FAILED'",
  });
  const sagas = makeSagaRepository(database, clientToDelivery.types);
  const declaration = toDeclaration(clientToDelivery);
  const order = ({ tenantId, id }: Item, action: 'cancel' | 'retry') =>
    sagas.order(
      { tenantId, runId: id, action, actor: 'a', subject: 'a', trustEntry: undefined, reason: undefined },
      (_, saga) => (action === 'cancel' ? cancelSaga(saga) : retrySaga(saga)),
    );
  /** Writes the run as it is, or as it becomes, and holds it so long. */
  const write = async (claim: SagaClaim, hold: Hold, after: SagaRun = claim.run): Promise<void> => {
    await sagas.write(claim, { after, hold });
  };
  const failed = ({ run }: SagaClaim, error: string, isLast: boolean): SagaRun => {
    const move = nextMove(run);
    if (move.kind !== 'compensate') throw new Error('the run does not compensate');
    return { ...run, ...afterAttempt(run, move.steps[0], error, isLast) };
  };
  await sagas.keepDeclaration(declaration);
  return {
    ...rows,
    async add(tenantId) {
      const id = newId();
      const first = { name: 'draft', participants: ['job'] };
      const run: SagaRun = {
        ...beginSaga(first, {}),
        tenantId,
        runId: id,
        workflow: clientToDelivery.name,
        declaration,
        actor: 'a',
        subject: 'a',
        trustEntry: undefined,
      };
      await sagas.begin({ run, displayName: '', request: undefined }, undefined);
      await order({ tenantId, id }, 'cancel');
      return { tenantId, id };
    },
    findDue: async (limit) => (await sagas.findDue(limit)).map(({ tenantId, runId }) => ({ tenantId, id: runId })),
    claim: ({ tenantId, id }, owner, leaseMs) => sagas.claim({ tenantId, runId: id }, owner, leaseMs),
    renew: (claim, leaseMs) => write(claim, { kind: 'renew', leaseMs }),
    release: (claim) => write(claim, { kind: 'release', pauseMs: 0 }),
    fail: (claim, error, retryMs) => write(claim, { kind: 'release', pauseMs: retryMs }, failed(claim, error, false)),
    parking: {
      park: (claim, error) => write(claim, { kind: 'keep' }, failed(claim, error, true)),
      async redrive(item) {
        await order(item, 'retry');
        return item;
      },
      lossesBeforeParked: (maxAttempts) => maxAttempts,
    },
    work({ maxAttempts, effect, leaseMs = LEASE_MS }, signal, callNext) {
      const job = makeFakeParticipant('job');
      const { compensate } = job;
      job.compensate = async (call) => {
        await effect(call.tenantId);
        return compensate(call);
      };
      const { due } = makeAdvanceRuns(
        sagas,
        [clientToDelivery],
        [job],
        { workerId: WORKER, leaseMs, retry: retryOf(maxAttempts) },
        () => undefined,
        () => undefined,
      );
      return due(signal, callNext);
    },
    async asCurrent(claim, item) {
      const [row] = await rows.created.query<{ version: string }>('select version from workflow_runs where id = $1', [
        item.id,
      ]);
      return { ...claim, token: await rows.tokenOf(item), version: Number(row?.version) };
    },
  };
}

const NOW = Temporal.Instant.from('2026-06-01T00:00:00Z');
const SUBJECT: CatalogueSubject = {
  name: 'drift_checks',
  owner: 'incident',
  dataId: 'd',
  resourceType: 'drift_check',
  dependentTypes: [],
  ageOf: '',
  hasFloor: false,
  problem: undefined,
  claim: undefined,
  listedAt: NOW,
  observeNightsLeft: 0,
  retirement: undefined,
};

/** What a purge needs besides its items: one subject, whose owner counts nothing after `effect`. */
const purgePorts = ({ effect }: WorkerOptions): Omit<TenantPurgePorts, 'purges'> => ({
  plans: {
    resolve: async () => ({
      current: undefined,
      windows: [
        {
          subject: SUBJECT.name,
          window: { kind: 'DAYS', days: 30 },
          source: 'PLAN',
          from: { plan: 'PRO', version: 1 },
          windowVersion: 1,
          change: undefined,
        },
      ],
      at: NOW,
    }),
  },
  catalogue: { list: async () => [SUBJECT], findObserved: async () => new Set() } as never,
  owners: {
    names: [SUBJECT.owner],
    async count({ tenantId }) {
      await effect(tenantId);
      return { cursor: undefined, expired: 0, remaining: 0, cutoff: NOW };
    },
  } as Partial<RetentionOwners> as RetentionOwners,
  stops: { get: async () => ({ isStopped: false, version: 0, last: undefined }) } as never,
  recordCleanup: async () => undefined,
});

/** RetentionService's items, as those of dry runs: a tenant can have many of them. */
async function openPurgeItems(postgres: TestPostgres): Promise<LeasedTable<ItemClaim>> {
  const { database, rows } = await openTable(postgres, retentionMigrations, {
    table: 'retention_purge_items',
    id: 'purge_id',
    due: 'due_at',
    setDue: (at) => `due_at = ${at}`,
    owner: 'lease_owner',
    token: 'lease_token',
    attempts: '(attempts - case when lease_owner is null then 0 else 1 end)',
    lastError: 'error',
    error: 'error',
    isParked: "state in ('FAILED', 'PARTIAL')",
  });
  const purges = makePurgeRepository(database);
  const progressOf = ({ item }: ItemClaim, more: Partial<ItemProgress>): ItemProgress => ({ ...item, ...more });
  const add = async (tenantId: string): Promise<Item> => ({
    tenantId,
    id: await purges.create({
      tenantIds: [tenantId],
      isOfAll: false,
      readMsAgo: 0,
      subjects: [],
      trigger: 'PURGE',
      validateOnly: true,
      actor: 'a',
      subject: 'a',
      reason: undefined,
      requestId: undefined,
      requestScope: undefined,
      fingerprint: '',
      fleetHold: undefined,
    }),
  });
  const findDue: LeasedTable['findDue'] = async (limit) =>
    (await purges.findDue(limit)).map(({ tenantId, purgeId }) => ({ tenantId, id: purgeId }));
  return {
    ...rows,
    add,
    findDue,
    claim: ({ tenantId, id }, owner, leaseMs) => purges.claim({ tenantId, purgeId: id }, owner, leaseMs),
    renew: (claim, leaseMs) => purges.save(claim, progressOf(claim, {}), leaseMs),
    release: (claim) => purges.release(claim),
    fail: (claim, error, ms) =>
      purges.postpone(claim, progressOf(claim, { error, failures: claim.item.failures + 1 }), {
        ms,
        silence: 'NONE',
        isAttempt: true,
      }),
    parking: {
      park: (claim, error) => purges.save(claim, progressOf(claim, { state: 'FAILED', error }), LEASE_MS),
      // A tenant's part of a purge has ended when it is given up: what goes on with it is the next purge.
      redrive: ({ tenantId }) => add(tenantId),
      // Lost workers are counted apart from failures, so that a rolling restart parks nothing.
      lossesBeforeParked: () => 50,
    },
    async work(options, signal) {
      const run = makeRunPurges(
        { ...purgePorts(options), purges },
        {
          workerId: WORKER,
          leaseMs: options.leaseMs ?? LEASE_MS,
          retry: retryOf(options.maxAttempts),
          maxWaitMs: 60_000,
          maxPauseMs: 60_000,
          ceiling: { maxShare: undefined, maxCount: undefined, shareFrom: 0 },
        },
        () => undefined,
        () => undefined,
      );
      for (const { tenantId, id } of await findDue(8)) if (await run({ tenantId, purgeId: id }, signal)) return 1;
      return 0;
    },
    asCurrent: async (claim, item) => ({ ...claim, token: BigInt(await rows.tokenOf(item)) }),
  };
}

/** JobService's bulk deletions, each of one job that has been hidden meanwhile. */
async function openBulkDeletions(postgres: TestPostgres): Promise<LeasedTable<BulkClaim<JobFilter>>> {
  const { database, rows } = await openTable(postgres, jobMigrations, {
    table: 'bulk_deletions',
    id: 'id',
    due: 'case when finished_at is null then coalesce(lease_expires_at, next_attempt_at) end',
    setDue: (at) => `next_attempt_at = least(next_attempt_at, ${at}),
      lease_expires_at = case when lease_owner is not null then ${at} end`,
    owner: 'lease_owner',
    token: 'lease_token',
    attempts: 'attempts',
    lastError: 'last_error',
    error: 'last_error',
    isParked: 'false',
  });
  const bulks = makeBulkDeletionRepository(database, jobTargets);
  return {
    ...rows,
    async add(tenantId) {
      const id = newId();
      await rows.created.query(
        `with begun as (
           insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, fingerprint, force, filter)
           values ($1, $2, 'PURGE', 'RUNNING', 'a', 'a', '', '', false, '{"states": []}'))
         insert into bulk_deletion_items (tenant_id, bulk_deletion_id, position, target_id, etag, state)
         values ($1, $2, 1, gen_random_uuid(), '', 'PENDING')`,
        [tenantId, id],
      );
      return { tenantId, id };
    },
    findDue: async (limit) =>
      (await bulks.findDue(limit)).map(({ tenantId, bulkDeletionId }) => ({ tenantId, id: bulkDeletionId })),
    claim: ({ tenantId, id }, owner, leaseMs) => bulks.claim(tenantId, id, owner, leaseMs),
    renew: (claim, leaseMs) => bulks.renew(claim, leaseMs),
    release: (claim) => bulks.release(claim, 0),
    fail: (claim, error, retryMs) => bulks.release(claim, retryMs, error),
    parking: undefined,
    work({ maxAttempts, effect, leaseMs = LEASE_MS }, signal, callNext) {
      const work = makeRunBulkDeletions(
        bulks,
        async ({ tenantId }) => {
          await effect(tenantId);
          return false;
        },
        {
          name: 'job',
          workerId: WORKER,
          leaseMs,
          maxUnderWay: 1,
          chunkSize: 10,
          turnMs: 60_000,
          pollMs: 10,
          retry: retryOf(maxAttempts),
        },
        (ms, signal) => delay(ms, undefined, { signal }),
        { onEnded: () => undefined, onItemsEnded: () => undefined, onItemFailed: () => undefined },
      );
      return work(signal, callNext);
    },
    asCurrent: async (claim, item) => ({ ...claim, token: BigInt(await rows.tokenOf(item)) }),
  };
}

/** Everything that Lethe leases to workers, by name, and whether it has parking. */
export const LEASED_TABLES: Readonly<
  Record<string, { readonly open: (postgres: TestPostgres) => Promise<LeasedTable>; readonly parks: boolean }>
> = {
  'job deletions': { open: forAnyClaim(openJobDeletions), parks: true },
  'run deletions': { open: forAnyClaim(openRunDeletions), parks: true },
  runs: { open: forAnyClaim(openRuns), parks: true },
  'purge items': { open: forAnyClaim(openPurgeItems), parks: true },
  'bulk deletions': { open: forAnyClaim(openBulkDeletions), parks: false },
};

/** The suite gives a table only claims that the table has made. */
function forAnyClaim<C extends Claim>(
  open: (postgres: TestPostgres) => Promise<LeasedTable<C>>,
): (postgres: TestPostgres) => Promise<LeasedTable> {
  return open as unknown as (postgres: TestPostgres) => Promise<LeasedTable>;
}
