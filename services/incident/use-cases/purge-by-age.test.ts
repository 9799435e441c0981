import test from 'ava';
import { makeTurns } from '#libs/saga/turns.ts';
import type { AgePurgeOrder, AgePurgeRepository } from './ports.ts';
import { makePurgeByAge } from './purge-by-age.ts';

const ORDER: AgePurgeOrder = {
  subject: 'drift_checks',
  tenantId: 'acme',
  operationId: '01890000-0000-7000-8000-000000000000',
  retentionDays: 7,
  caller: { actor: 'cron', subject: 'service:retention' },
};

/** A tenant's expired rows; another operation may hold some of them for a while. */
function fixture({ expired, heldBatches = 0 }: { expired: number; heldBatches?: number }) {
  const sizes: number[] = [];
  const told: number[] = [];
  let left = expired;
  let held = heldBatches;
  let removed = 0;
  const purge = () => ({ cutoff: Temporal.Instant.fromEpochMilliseconds(0), deleted: removed, dependents: 0 });
  const repository: AgePurgeRepository = {
    begin: async () => purge(),
    async purgeBatch(_, limit) {
      sizes.push(limit);
      if (held > 0) {
        held -= 1;
        return { purge: purge(), deleted: 0, isDone: false };
      }
      const deleted = Math.min(limit, left);
      left -= deleted;
      removed += deleted;
      return { purge: purge(), deleted, isDone: left === 0 };
    },
    countExpired: async () => Promise.reject(new Error('not asked')),
  };
  const { purge: run } = makePurgeByAge(repository, makeTurns(), (_, { deleted: all }) => told.push(all));
  return { run, sizes, told };
}

const NO_SIGNAL = new AbortController().signal;
const PLENTY = { limit: 100_000, budgetMs: 60_000 };

test('nothing expired is COMPLETE at once', async (t) => {
  const { run, told } = fixture({ expired: 0 });
  t.like(await run(ORDER, PLENTY, NO_SIGNAL), { progress: 'COMPLETE', deleted: 0 });
  t.deepEqual(told, [0]);
});

test('it goes on in batches of 1,000 until nothing is left', async (t) => {
  const { run, sizes } = fixture({ expired: 3_500 });
  t.like(await run(ORDER, PLENTY, NO_SIGNAL), { progress: 'COMPLETE', deleted: 3_500 });
  t.deepEqual(sizes, [1_000, 1_000, 1_000, 1_000]);
});

test('the limit is never exceeded, and what is left then is PARTIAL', async (t) => {
  const { run, sizes, told } = fixture({ expired: 3_500 });
  t.like(await run(ORDER, { ...PLENTY, limit: 2_300 }, NO_SIGNAL), { progress: 'PARTIAL', deleted: 2_300 });
  t.deepEqual(sizes, [1_000, 1_000, 300]);
  t.deepEqual(told, []);
});

test('an empty batch is not taken for the end while another operation holds expired rows', async (t) => {
  const { run } = fixture({ expired: 10, heldBatches: 2 });
  t.like(await run(ORDER, PLENTY, NO_SIGNAL), { progress: 'COMPLETE', deleted: 10 });
});

test('a spent budget or an aborted call ends after the batch at hand', async (t) => {
  const spent = fixture({ expired: 3_500 });
  t.like(await spent.run(ORDER, { ...PLENTY, budgetMs: -1 }, NO_SIGNAL), { progress: 'PARTIAL', deleted: 1_000 });
  const aborted = fixture({ expired: 3_500 });
  t.like(await aborted.run(ORDER, PLENTY, AbortSignal.abort()), { progress: 'PARTIAL', deleted: 1_000 });
});
