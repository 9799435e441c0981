import test from 'ava';
import type { Database } from '#libs/postgres/open-database.ts';
import { oldestSeconds } from './oldest-work.ts';

const now = Temporal.Instant.from('2026-03-01T12:00:00Z');
const row = (tenant: string, kind: string, seconds: number) => ({
  tenant_id: tenant,
  kind,
  id: '00000000-0000-7000-8000-000000000001',
  created_at: now.subtract({ seconds }),
  now,
});

/** Answers as the statement does, the oldest first; it must be asked for in that order. */
const databaseWith = (rows: readonly ReturnType<typeof row>[]): Database =>
  ({
    acrossTenants: async ({ text }: { readonly text: string }) =>
      /order by w\.created_at$/.test(text)
        ? rows.toSorted((a, b) => Temporal.Instant.compare(a.created_at, b.created_at))
        : [],
  }) as unknown as Database;

test('the age of a kind of work is that of its oldest item over all tenants', async (t) => {
  const database = databaseWith([row('b', 'PURGE', 60), row('a', 'PURGE', 7_200), row('c', 'UPLOAD', 90_000)]);
  t.is(await oldestSeconds(database, 'PURGE')(), 7_200);
  t.is(await oldestSeconds(database, 'UPLOAD')(), 90_000);
  t.is(await oldestSeconds(database, 'COMPENSATION')(), 0);
});
