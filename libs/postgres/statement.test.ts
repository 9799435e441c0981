import test from 'ava';
import { asksForAllColumns, assertColumnsNamed } from './statement.ts';

const ASKING = [
  'select * from notes',
  'select n.*, 1 from notes n',
  'select "n".* from notes n',
  'select (items_of($1)).*',
  'select 1, * from notes',
  'select distinct on (a, b) * from notes',
  'select all\n  *\nfrom notes',
  'insert into notes (id) values ($1) returning *',
  'update notes n set a = 1 returning n . *',
  'with mine as (select * from notes) select a from mine',
  'table notes',
  'with mine as (table notes) select 1',
];

const NAMING = [
  "select id, $1 * interval '1 ms' from notes",
  'select count(*) from notes',
  'select a.b * c, (a + b) * c, 2.5 * a from notes a',
  "select a ~ '^x.*' from notes",
  "select a, '*' from notes where b like '%, *' -- n.*",
  'select a /* select * */ from notes',
  "select jsonb_path_query(a, '$.x.*') from notes",
];

for (const text of ASKING) {
  test(`a statement that is prepared may not ask for all columns: ${text}`, (t) => {
    t.true(asksForAllColumns(text));
    t.throws(() => assertColumnsNamed({ name: 'asking', text, values: [] }), { message: /asking .*name them/ });
    t.notThrows(() => assertColumnsNamed({ text, values: [] }));
  });
}

for (const text of NAMING) {
  test(`it may multiply, count and quote: ${text}`, (t) => {
    t.false(asksForAllColumns(text));
    t.notThrows(() => assertColumnsNamed({ name: 'naming', text, values: [] }));
  });
}

test('a name that is given another text is looked at again', (t) => {
  assertColumnsNamed({ name: 'changing', text: 'select id from notes', values: [] });
  t.throws(() => assertColumnsNamed({ name: 'changing', text: 'select * from notes', values: [] }));
});
