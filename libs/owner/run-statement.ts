import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { Named } from './statements.ts';

/** Runs a statement in a transaction. */
export const run = <Row>(
  trx: TenantTransaction,
  { text, bindings }: Named,
): Promise<{ rows: Row[]; rowCount?: number }> => trx.raw(text, bindings as Record<string, string | number>);

/** The only row of a statement that always has one. */
export function one<Row>(result: { readonly rows: readonly Row[] }): Row {
  const row = firstOf(result);
  if (!row) throw new Error('the statement gave no row');
  return row;
}
