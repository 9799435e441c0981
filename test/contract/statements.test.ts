import anyTest, { type TestFn } from 'ava';
import { asksForAllColumns } from '#libs/postgres/statement.ts';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { conditionals, functionsOf, isWriting, writingClauses } from '#test/support/sql-clauses.ts';
import { sqlSources, sqlTexts } from '#test/support/sql-texts.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;
const texts = sqlTexts();

// Their statements are named by what they say: see makeStatementNames.
const NAMED_BY_TEXT = /^services\/run\/adapters\/postgres\/(?:saga|content)-repository\.ts/;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

test('no statement that connections prepare asks for all columns, whatever they will be', (t) => {
  const named = texts.filter(({ at, isNamed }) => isNamed || NAMED_BY_TEXT.test(at));
  t.true(named.length > 40, 'the statements were found');
  t.deepEqual(
    named.filter(({ text }) => asksForAllColumns(text)).map(({ at }) => at),
    [],
  );
});

test('nothing that is sent stays in its session, which a pooler may hand to another client', (t) => {
  const isLeftBehind = (source: string): boolean =>
    /pg_(?:try_)?advisory_lock(?:_shared)?\b|set_config\([^)]*,\s*false\)|\bwith hold\b/i.test(source) ||
    /[`'";]\s*(?:set (?!local )|reset |(?:un)?listen |prepare |deallocate |discard |create temp)/i.test(source);
  for (const source of ["raw('select pg_advisory_lock(1)')", "'begin; set lethe.tenant = 1'", '`listen jobs`'])
    t.true(isLeftBehind(source), source);
  for (const source of ["`begin; set local lethe.tenant = ''`", "'select pg_advisory_xact_lock(1)'"])
    t.false(isLeftBehind(source), source);
  t.deepEqual(
    sqlSources()
      .filter(({ source }) => isLeftBehind(source))
      .map(({ file }) => file),
    [],
  );
});

test('no statement takes an advisory lock but the migrations, and for one more release that of a run', (t) => {
  const holders = new Set(['libs/postgres/migrate.ts', 'libs/participant/run-lock.ts']);
  const found = sqlSources().filter(({ source }) =>
    /advisory/i.test(source.replaceAll(/^\s*(?:\*|\/\/|\/\*).*$/gm, '')),
  );
  t.deepEqual(new Set(found.map(({ file }) => file)), holders);
});

// Citus refuses both on tables that it distributes.

test('every part of a statement that writes answers with what it wrote', (t) => {
  const isSilent = (text: string): boolean => writingClauses(text).some((body) => !/\breturning\b/i.test(body));
  t.true(isSilent('with a as (insert into t select f(1) from u), b as (select 1) select 2'));
  t.false(isSilent('with a as (insert into t select f(1) from u returning 1) delete from u'));
  t.true(texts.flatMap(({ text }) => writingClauses(text)).length > 30, 'the parts were found');
  t.deepEqual(
    texts.filter(({ text }) => isSilent(text)).map(({ at }) => at),
    [],
  );
});

test('no statement that writes reads a clock, or what else may change, inside CASE or COALESCE', async (t) => {
  const database = await t.context.postgres.createDatabase([]);
  const rows = await database.query<{ name: string }>(
    `select distinct proname::text as name from pg_proc where provolatile <> 'i' and proname not like '\\_%'`,
  );
  const changing = new Set(['interval', 'current_timestamp', 'localtimestamp', ...rows.map(({ name }) => name)]);
  const faultsOf = (text: string): readonly string[] =>
    isWriting(text)
      ? conditionals(text).filter((expression) => functionsOf(expression).some((name) => changing.has(name)))
      : [];
  t.is(faultsOf('update t set a = case when b then clock_timestamp() end, c = coalesce(c, now(), 1)').length, 2);
  t.is(faultsOf("with w as (update t set a = coalesce(a, b - $1 * interval '1 day') returning 1) select 1").length, 1);
  t.is(faultsOf('update t set a = coalesce(b, lower(c)) from (select coalesce(d, now()) from u) v').length, 0);
  t.is(faultsOf('select coalesce(a, now()) from t').length, 0);
  t.deepEqual(
    texts.flatMap(({ at, text }) => faultsOf(text).map((fault) => `${at}: ${fault}`)),
    [],
  );
});
