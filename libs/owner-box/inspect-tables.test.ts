import test from 'ava';
import pg from 'pg';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { inspectTables, type Query } from './inspect-tables.ts';
import { parseOwnerFile } from './parse-file.ts';

let postgres: TestPostgres;
test.before(async () => {
  postgres = await startTestPostgres();
});
test.after.always(() => postgres.stop());

const SCHEMA = `
  create schema mail;
  create table mail.messages (
    tenant_id text not null, id uuid not null, sent_at timestamptz, kept_at timestamp, body text,
    primary key (tenant_id, id)
  );
  create index on mail.messages (tenant_id, sent_at, id);
  create table mail.attachments (
    tenant_id text not null, message_id uuid not null, name text,
    foreign key (tenant_id, message_id) references mail.messages (tenant_id, id)
  );
  create index on mail.attachments (tenant_id, message_id);
  create role mail_app login password 'app';
`;
const GRANTS = `
  grant usage on schema mail to mail_app;
  grant select, delete on all tables in schema mail to mail_app;
`;
const FILE = {
  database: { url_from: 'MAIL_URL' },
  subjects: [
    {
      name: 'messages',
      resource_type: 'message',
      table: 'mail.messages',
      tenant: 'tenant_id',
      instant: 'sent_at',
      id: 'id',
      floor: true,
      dependents: [
        {
          table: 'mail.attachments',
          resource_type: 'attachment',
          columns: { tenant_id: 'tenant_id', message_id: 'id' },
        },
      ],
    },
  ],
} as const;

/** The problems with the file after these statements, as the role that would purge sees them. */
async function inspect({
  sql = '',
  grants = GRANTS,
  subject = {},
}: {
  sql?: string;
  grants?: string;
  subject?: object;
}) {
  const database = await postgres.createDatabase([]);
  const role = `mail_${database.name}`;
  const statements = `${SCHEMA}${sql};${grants}`.replaceAll('mail_app', role);
  await database.query(statements);
  const url = new URL(database.superuserUrl);
  url.username = role;
  url.password = 'app';
  await database.query(`grant connect on database ${database.name} to ${role}`);
  const client = new pg.Client({ connectionString: url.toString() });
  await client.connect();
  try {
    const query: Query = async (text, values) => (await client.query(text, [...values])).rows;
    const file = { ...FILE, subjects: [{ ...FILE.subjects[0], ...subject }] };
    const inspection = await inspectTables(query, parseOwnerFile('mail.yaml', JSON.stringify(file)));
    return { ...inspection, problems: inspection.problems.map((problem) => problem.replaceAll(role, 'mail_app')) };
  } finally {
    await client.end();
  }
}

test('a table with what its batches need is served', async (t) => {
  const { problems, remarks, tables } = await inspect({});
  t.deepEqual([problems, remarks], [[], []]);
  t.like(tables[0], {
    table: 'mail.messages',
    tenant: { name: '"tenant_id"', type: 'text' },
    instant: { name: '"sent_at"', type: 'timestamp with time zone' },
    dependents: [
      {
        table: 'mail.attachments',
        columns: [
          ['"tenant_id"', '"tenant_id"'],
          ['"message_id"', '"id"'],
        ],
      },
    ],
  });
});

/** Links between two messages, of which the file lists those by `source_id`. */
const links = (onDelete: string) => `
  create table mail.links (
    tenant_id text not null, source_id uuid not null, target_id uuid not null,
    foreign key (tenant_id, source_id) references mail.messages (tenant_id, id),
    foreign key (tenant_id, target_id) references mail.messages (tenant_id, id) ${onDelete}
  );
  create index on mail.links (tenant_id, source_id)`;
const linksBy = (column: string, resourceType: string) => ({
  table: 'mail.links',
  resource_type: resourceType,
  columns: { tenant_id: 'tenant_id', [column]: 'id' },
});
const LINKED = { dependents: [...FILE.subjects[0].dependents, linksBy('source_id', 'link')] };

const REFUSED: Readonly<Record<string, readonly [Parameters<typeof inspect>[0], readonly string[]]>> = {
  'a table that is not there': [{ subject: { table: 'mail.letters' } }, ['messages: there is no table mail.letters']],
  'a view': [
    { sql: 'create view mail.sent as select * from mail.messages', subject: { table: 'mail.sent' } },
    ['messages: mail.sent is not a table'],
  ],
  'columns that are not there, all of them': [
    { subject: { tenant: 'org', instant: 'at', id: ['key'] } },
    [
      'messages: mail.messages has no column org',
      'messages: mail.messages has no column at',
      'messages: mail.messages has no column key',
    ],
  ],
  'types that do not fit': [
    {
      sql: 'alter table mail.messages add at date, add weight numeric not null default 0, add org bytea not null',
      subject: { tenant: 'org', instant: 'at', id: 'weight' },
    },
    [
      'messages: mail.messages.org is bytea; a tenant can be text, character varying, uuid, smallint, integer, bigint',
      'messages: mail.messages.at is date; an instant can be timestamp with time zone, timestamp without time zone',
      'messages: mail.messages.weight is numeric; an id can be text, character varying, uuid, smallint, integer, bigint',
    ],
  ],
  'an instant without a time zone of which nobody says that it is UTC': [
    { subject: { instant: 'kept_at' } },
    ['messages: mail.messages.kept_at has no time zone; say instant_zone: UTC if it is written in UTC'],
  ],
  'a tenant or an id that can be null': [
    {
      sql: 'alter table mail.messages add org text, add number int; create index on mail.messages (org, sent_at, number); create unique index on mail.messages (org, number)',
      subject: { tenant: 'org', id: 'number' },
    },
    [
      'messages: mail.messages.org can be null; make it not null',
      'messages: mail.messages.number can be null; make it not null',
    ],
  ],
  'a table without the index that batches need, whatever others it has': [
    {
      sql: `drop index mail.messages_tenant_id_sent_at_id_idx;
        create index on mail.messages (tenant_id, sent_at);
        create index on mail.messages (tenant_id, sent_at desc, id);
        create index on mail.messages (tenant_id, sent_at, id) where body is null;
        create index on mail.messages (tenant_id) include (sent_at, id)`,
    },
    [
      'messages: mail.messages has no index on (tenant_id, sent_at, id), which batches need; create index concurrently on mail.messages ("tenant_id", "sent_at", "id")',
    ],
  ],
  'rows that their id does not tell apart': [
    {
      sql: 'alter table mail.messages add number int not null; create index on mail.messages (tenant_id, sent_at, number)',
      subject: { id: 'number' },
    },
    [
      'messages: mail.messages may have two rows with one (tenant_id, number), which could not be told apart; name all columns of a unique key as id',
    ],
  ],
  'missing rights': [
    { grants: 'grant usage on schema mail to mail_app; grant select on mail.messages to mail_app' },
    [
      'messages: mail_app may not delete in mail.messages; grant delete on mail.messages to "mail_app"',
      'messages: mail_app may not select and delete in mail.attachments; grant select, delete on mail.attachments to "mail_app"',
    ],
  ],
  'row-level security that hides rows': [
    { sql: 'alter table mail.messages enable row level security' },
    [
      'messages: row-level security hides rows of mail.messages from mail_app; use a role that sees all, as with bypassrls',
    ],
  ],
  'a dependent table without an index on its foreign key': [
    { sql: 'drop index mail.attachments_tenant_id_message_id_idx; create index on mail.attachments (tenant_id)' },
    [
      'messages: mail.attachments has no index on (tenant_id, message_id), so that each batch would read it whole; create index concurrently on mail.attachments ("tenant_id", "message_id")',
    ],
  ],
  'dependents that hang on more than the row': [
    {
      subject: {
        dependents: [{ table: 'mail.attachments', resource_type: 'attachment', columns: { tenant_id: 'tenant_id' } }],
      },
    },
    [
      "messages: the columns of mail.attachments refer to (tenant_id), which is no unique key of mail.messages; a row's end would take what hangs on others",
    ],
  ],
  'a foreign key without cascade that is not listed': [
    { subject: { dependents: [] } },
    [
      'messages: mail.attachments (tenant_id, message_id) refers to mail.messages without on delete cascade; list it as a dependent',
    ],
  ],
  'a second foreign key of a dependent that is listed by another one': [
    { sql: links(''), subject: LINKED },
    [
      'messages: mail.links (tenant_id, target_id) refers to mail.messages without on delete cascade; list it as a dependent by these columns too',
    ],
  ],
  'a second foreign key of a dependent, whose rows go by cascade and are found by no index': [
    { sql: links('on delete cascade'), subject: LINKED },
    [
      'messages: mail.links (tenant_id, target_id) refers to mail.messages and has no index, so that each batch would read it whole; create index concurrently on mail.links ("tenant_id", "target_id")',
    ],
  ],
  'a foreign key that refers to a dependent': [
    {
      sql: 'alter table mail.attachments add id int primary key; create table mail.scans (attachment_id int references mail.attachments)',
    },
    [
      'messages: mail.scans (attachment_id) refers to mail.attachments without on delete cascade, and rows of mail.attachments go with mail.messages',
    ],
  ],
  'rows that take younger rows of their own table with them': [
    {
      sql: `alter table mail.messages add reply_to uuid, add foreign key (tenant_id, reply_to) references mail.messages on delete cascade`,
    },
    [
      "messages: mail.messages (tenant_id, reply_to) refers to mail.messages, so that a row's end would take younger rows; use on delete set null",
    ],
  ],
  'a table that is its own dependent': [
    {
      subject: {
        dependents: [
          ...FILE.subjects[0].dependents,
          { table: 'mail.messages', resource_type: 'reply', columns: { tenant_id: 'tenant_id', id: 'id' } },
        ],
      },
    },
    ["messages: mail.messages cannot be a dependent of itself; a row's end would take younger rows"],
  ],
  'an id whose column has a name that is taken': [
    {
      sql: 'alter table mail.messages add age int not null; create unique index on mail.messages (tenant_id, age)',
      subject: { id: 'age' },
    },
    ['messages: mail.messages.age cannot be part of an id under that name'],
  ],
  'a cascade without an index': [
    {
      sql: 'create table mail.marks (tenant_id text, message_id uuid, foreign key (tenant_id, message_id) references mail.messages on delete cascade)',
    },
    [
      'messages: mail.marks (tenant_id, message_id) refers to mail.messages and has no index, so that each batch would read it whole; create index concurrently on mail.marks ("tenant_id", "message_id")',
    ],
  ],
};

for (const [what, [given, expected]] of Object.entries(REFUSED)) {
  test(`refused: ${what}`, async (t) => {
    const { problems, tables } = await inspect(given);
    t.deepEqual(problems, expected);
    t.deepEqual(tables, []);
  });
}

test('rows that refer to others of their table and lose them are served', async (t) => {
  const { problems, remarks } = await inspect({
    sql: `alter table mail.messages add reply_to uuid,
        add foreign key (tenant_id, reply_to) references mail.messages on delete set null (reply_to);
      create index on mail.messages (tenant_id, reply_to)`,
  });
  t.deepEqual(problems, []);
  t.deepEqual(remarks, [
    'messages: rows of mail.messages (tenant_id, reply_to) lose what refers to mail.messages (on delete set null)',
  ]);
});

test('a cascade that is not listed is served, and it is said that its rows are not counted', async (t) => {
  const { problems, remarks } = await inspect({
    sql: `create table mail.marks (tenant_id text, message_id uuid, foreign key (tenant_id, message_id) references mail.messages on delete cascade);
      create index on mail.marks (message_id, tenant_id)`,
  });
  t.deepEqual(problems, []);
  t.deepEqual(remarks, [
    'messages: rows of mail.marks (tenant_id, message_id) go by cascade and are not counted; list it as a dependent',
  ]);
});

test('a dependent that is listed by each of its foreign keys is served, whether these name the tenant or not', async (t) => {
  const both = { dependents: [...LINKED.dependents, linksBy('target_id', 'back_link')] };
  const index = 'create index on mail.links (tenant_id, target_id)';
  const listed = await inspect({ sql: `${links('')}; ${index}`, subject: both });
  t.deepEqual([listed.problems, listed.remarks], [[], []]);
  const alone = await inspect({
    sql: `alter table mail.messages add unique (id);
      alter table mail.attachments add foreign key (message_id) references mail.messages (id)`,
  });
  t.deepEqual([alone.problems, alone.remarks], [[], []]);
});

test('rows of a listed dependent that go by the cascade of another foreign key are not counted, and it is said', async (t) => {
  const sql = `${links('on delete cascade')}; create index on mail.links (tenant_id, target_id)`;
  const { problems, remarks } = await inspect({ sql, subject: LINKED });
  t.deepEqual(problems, []);
  t.deepEqual(remarks, [
    'messages: rows of mail.links (tenant_id, target_id) go by cascade and are not counted; list it as a dependent by these columns too',
  ]);
});
