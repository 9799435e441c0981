import { setTimeout as delay } from 'node:timers/promises';
import { SERVICE_NAMES } from '#deploy/local/stack.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';

const SECONDS = 20;
const WATCHERS = 500;
// What a replica is given in a deployment; the embedded stack polls more often.
const POLLS = { LETHE_POLL_MS: '1000', LETHE_CATALOGUE_POLL_MS: '60000' };

// Until what is done at the start is over: owners are asked for their subjects and tenants.
const SETTLING_MS = 20_000;

const serverOf = (stack: TestStack): string => stack.superuserUrl('run').replace(/\/lethe_run$/, '/postgres');

/** Transactions so far, by database. */
async function transactions(stack: TestStack): Promise<Map<string, number>> {
  const rows = await queryOnce<{ name: string; count: string }>(
    serverOf(stack),
    `select datname as name, xact_commit + xact_rollback as count from pg_stat_database where datname like 'lethe_%'`,
  );
  return new Map(rows.map(({ name, count }) => [name, Number(count)]));
}

/** Transactions a second while nothing is done, of all databases or of one. */
async function rate(stack: TestStack, database?: string): Promise<number> {
  const before = await transactions(stack);
  await delay(SECONDS * 1_000);
  const after = await transactions(stack);
  let sum = 0;
  for (const [name, count] of after) if (!database || name === database) sum += count - (before.get(name) ?? 0);
  return Number((sum / SECONDS).toFixed(1));
}

/**
 * What one replica of each service asks of its database with nothing to do, where a poll is one statement and one
 * transaction, and what many watchers of one run ask that does not change.
 */
export const benchIdle: Bench = async () => {
  const stack = await startTestStack({ fromSources: true, services: SERVICE_NAMES, env: POLLS });
  const over = new AbortController();
  try {
    // Its transactions are nobody's statements.
    await queryOnce(serverOf(stack), 'alter system set autovacuum = off');
    await queryOnce(serverOf(stack), 'select pg_reload_conf()');
    await delay(SETTLING_MS);
    const idle = await rate(stack);
    const { runs } = stack.clients({ tenantId: 'bench', role: 'member' });
    const { run } = await runs.createRun({ workflow: 'watched' });
    let told = 0;
    const watch = async (): Promise<void> => {
      for await (const { moreFollows } of runs.watchRun({ runId: run?.id ?? '' }, { signal: over.signal })) {
        if (!moreFollows) told += 1;
      }
    };
    const watching = Array.from({ length: WATCHERS }, () => watch().catch(() => undefined));
    while (told < WATCHERS) await delay(100);
    const watched = await rate(stack, 'lethe_run');
    over.abort();
    await Promise.all(watching);
    return { idle_statements_per_s: idle, watch_tx_per_s: watched };
  } finally {
    over.abort();
    await stack.dispose();
  }
};
