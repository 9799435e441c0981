import test from 'ava';
import { OwnerBoxError, parseOwnerFile, readOwnerFile } from './parse-file.ts';

const GOOD = `
database:
  url_from: MAIL_DATABASE_URL
subjects:
  - name: messages
    resource_type: message
    table: mail.messages
    tenant: tenant_id
    instant: sent_at
    id: [mailbox, number]
    dependents:
      - table: attachments
        resource_type: attachment
        columns: {tenant_id: tenant_id, message_mailbox: mailbox, message_number: number}
`;

const problemsOf = (text: string): readonly string[] => {
  try {
    parseOwnerFile('mail.yaml', text);
  } catch (error) {
    if (error instanceof OwnerBoxError) return error.problems;
    throw error;
  }
  return [];
};

test('a file in YAML or JSON names tables, and leaves out what has a default', (t) => {
  const file = parseOwnerFile('mail.yaml', GOOD);
  t.like(file, { urlFrom: 'MAIL_DATABASE_URL', ownerUrlFrom: undefined });
  const [subject] = file.subjects;
  t.like(subject, { table: { schema: 'mail', name: 'messages' }, isUtc: false, hasFloor: false });
  t.deepEqual(subject?.id, ['mailbox', 'number']);
  t.deepEqual(subject?.dependents[0]?.table, { schema: 'public', name: 'attachments' });
  t.deepEqual(subject?.dependents[0]?.columns[1], ['message_mailbox', 'mailbox']);
  const json = JSON.stringify({
    database: { url_from: 'A' },
    subjects: [{ name: 'a', resource_type: 'b', table: 'c', tenant: 'd', instant: 'e', id: 'f', instant_zone: 'UTC' }],
  });
  t.like(parseOwnerFile('a.json', json).subjects[0], { id: ['f'], isUtc: true });
});

test('all problems of a file are reported together, each under its path', (t) => {
  const text = `
databse: {}
database: {url_from: 'postgres://app:hunter2@db/mail'}
subjects:
  - {name: Messages, resource_type: message, table: a.b.c, tenant: t, instant: i, id: [], floor: 1, zone: UTC}
  - {name: notes, resource_type: note, table: notes, tenant: t, instant: i, id: [n, n], instant_zone: Europe/Bern,
     dependents: [{table: marks, resource_type: note, columns: [a]}, nothing]}
  - {name: notes, resource_type: note, table: public.notes, tenant: t, instant: i, id: n}
`;
  const problems = problemsOf(text);
  for (const expected of [
    'databse is unknown; the keys are database, subjects',
    'database.url_from must be the name of an environment variable that holds the URL, never the URL',
    'subjects[0].zone is unknown; the keys are name, resource_type, table, tenant, instant, instant_zone, id, floor, dependents',
    'subjects[0].name must be 1 to 63 of a-z, 0-9 and _, beginning with a letter',
    'subjects[0].table must be `table` or `schema.table`',
    'subjects[0].id must be a column or a list of columns',
    'subjects[0].floor must be true or false',
    'subjects[1].id must be a column or a list of columns',
    'subjects[1].instant_zone can only be UTC',
    'subjects[1].dependents[0].columns must name the columns and what they refer to, as `message_id: id`',
    'subjects[1].dependents[1] must be a mapping of keys to values',
    'subjects[1].dependents have the resource_type note twice',
    'subjects have the name notes twice',
    'subjects have the table public.notes twice',
  ]) {
    t.true(problems.includes(expected), `${expected}\n${problems.join('\n')}`);
  }
  t.is(problems.length, 14);
  t.false(problems.join().includes('hunter2'));
});

test('what is missing is named, and what is no YAML is told by its line', (t) => {
  t.deepEqual(problemsOf('{}'), ['database is required', 'subjects must be a list of 1 to 200 entries']);
  t.deepEqual(
    problemsOf(''),
    [
      'the file must be a mapping of keys to values',
      'database is required',
      'subjects must be a list of 1 to 200 entries',
    ].slice(0, 1),
  );
  t.regex(problemsOf('a: [1\nb: 2').join(), /line \d/);
  t.regex(problemsOf('a: 1\na: 2').join(), /unique.* line 2/);
});

test('a file that cannot be read is named', async (t) => {
  const error = await t.throwsAsync(readOwnerFile('/nowhere/mail.yaml'), { instanceOf: OwnerBoxError });
  t.is(error?.message, '/nowhere/mail.yaml: it cannot be read: ENOENT');
});
