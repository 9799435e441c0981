import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { Named } from './statements.ts';
import type { OwnedSubject } from './subject.ts';

/** Runs a statement in a transaction. */
export const run = <Row>(
  trx: TenantTransaction,
  { text, bindings }: Named,
): Promise<{ rows: Row[]; rowCount?: number }> => trx.raw(text, bindings as Record<string, string | number>);

/** Lets every later statement of a transaction, and its commit, search for names without a schema here. */
export const searchIn = (trx: TenantTransaction, path: string): Promise<unknown> =>
  trx.raw(`select set_config('search_path', :path, true)`, { path });

/** Does `work` where a subject's `remove` searches; its transaction goes on as before. */
export async function searchingAs<T>(
  trx: TenantTransaction,
  { searchPath }: OwnedSubject,
  work: () => Promise<T>,
): Promise<T> {
  if (searchPath === undefined) return work();
  await searchIn(trx, searchPath);
  const result = await work();
  await trx.raw('set local search_path = default');
  return result;
}

/** Makes every later statement of a transaction fit into what is left of its time; called before each that may be long. */
export type BoundTime = () => Promise<void>;

// A statement that begins this early is bounded well enough by the time of the whole transaction.
const HARDLY_ANY_MS = 100;

/** Bounds a transaction that begins now to `mostMs`; its statements are bounded to that much already. */
export function boundTime(trx: TenantTransaction, mostMs: number, startedAt: number): BoundTime {
  return async () => {
    const spentMs = performance.now() - startedAt;
    if (spentMs < HARDLY_ANY_MS) return;
    const leftMs = String(Math.max(1, Math.floor(mostMs - spentMs)));
    await trx.raw(`select set_config('statement_timeout', :leftMs, true)`, { leftMs });
  };
}

/** The only row of a statement that always has one. */
export function one<Row>(result: { readonly rows: readonly Row[] }): Row {
  const row = firstOf(result);
  if (!row) throw new Error('the statement gave no row');
  return row;
}
