import test from 'ava';
import { render, toTable } from './table.ts';

const ID = '018f6b1e-7c1a-7000-8000-000000000001';
const WHY = 'the object store did not answer for a long time, so that nothing more was tried';

const fits = (text: string, columns: number): boolean => text.split('\n').every((line) => line.length <= columns);

test('a table that fits is as wide as what it holds', (t) => {
  t.is(render(toTable(['A', 'B'], [['one', 'two']]), 80), 'A    B\none  two');
});

test('a table that is too wide is wrapped within its cells, and ids and words stay whole', (t) => {
  const table = toTable(['ID', 'STATE', 'CREATED', 'WHY'], [[ID, 'STUCK', '2026-11-21T08:00:00Z', WHY]]);
  const text = render(table, 80);
  t.true(fits(text, 80), text);
  t.true(text.includes(ID));
  t.regex(text, /^ID +STATE +CREATED +WHY$/m);
  t.true(text.includes('2026-11-21'));
  for (const word of WHY.split(' ')) t.true(text.includes(word), word);
  t.true(render(table).includes(WHY), 'without a terminal a row is a line');
});

test('a table that cannot be wrapped is shown with a line for each cell', (t) => {
  const text = render(toTable(['ID', 'STATE', 'OF', 'WHY'], [[ID, 'STUCK', ID, WHY]]), 80);
  t.true(fits(text, 80), text);
  t.regex(text, new RegExp(`^ID +${ID}$`, 'm'));
  t.regex(text, new RegExp(`^OF +${ID}$`, 'm'));
  const two = render(
    toTable(
      ['ID', 'OF', 'EMPTY'],
      [
        [ID, ID, ''],
        [ID, ID, ''],
      ],
    ),
    60,
  );
  t.is(two.split('\n\n').length, 2);
  t.notRegex(two, /EMPTY/);
  t.is(render(toTable(['ID', 'OF'], []), 10), 'ID  OF');
});

test('wide characters are counted as wide, and what others wrote cannot steer the terminal', (t) => {
  const text = render(toTable(['NAME', 'WHY'], [['会議', 'a\u001b[2Jb\nc']]), 80);
  t.is(text, 'NAME  WHY\n会議  a\ufffd[2Jb c');
});
