import test from 'ava';
import { sqlTexts } from '#test/support/sql-texts.ts';

const texts = sqlTexts();

// Not that of count(*), nor a product.
const ALL_COLUMNS = /(?:\b(?:select|returning|distinct)\s+|,\s*|\w\.)\*/i;
// Their statements are named by what they say: see makeStatementNames.
const NAMED_BY_TEXT = /^services\/run\/adapters\/postgres\/(?:saga|content)-repository\.ts/;

test('no statement that connections prepare asks for all columns, whatever they will be', (t) => {
  const named = texts.filter(({ at, isNamed }) => isNamed || NAMED_BY_TEXT.test(at));
  t.true(named.length > 40, 'the statements were found');
  for (const text of ['select *', 'select r.*, 1', 'returning *', 'select 1, *']) t.regex(text, ALL_COLUMNS);
  for (const text of ["$1 * interval '1 ms'", 'count(*)']) t.notRegex(text, ALL_COLUMNS);
  t.deepEqual(
    named.filter(({ text }) => ALL_COLUMNS.test(text)).map(({ at }) => at),
    [],
  );
});
