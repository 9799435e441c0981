import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import pg from 'pg';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { makeKeyPair, readSigningKey } from '#libs/auth/keys.ts';
import { makeOwnerCredential, type OwnerCall } from '#libs/auth/sign-token.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { type OwnerBox, startOwnerBox } from '#test/support/owner-box.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';

const NAME = 'mail';

interface Context {
  folder: string;
  postgres: TestPostgres;
  database: TestDatabase;
  box: OwnerBox;
  connection: Connection;
  client(call: Omit<OwnerCall, 'owner' | 'actor'>): ReturnType<typeof clientOf>;
}

const test = anyTest as TestFn<Context>;
const clientOf = (connection: Connection, token: () => Promise<string>) =>
  connection.client(RetentionOwnerService, token);

const SCHEMA = `
  create schema mail;
  create table mail.messages (
    tenant_id text not null, id uuid not null, sent_at timestamptz, body text, primary key (tenant_id, id)
  );
  create index on mail.messages (tenant_id, sent_at, id);
  create table mail.attachments (
    tenant_id text not null, message_id uuid not null, name text not null,
    primary key (tenant_id, message_id, name),
    foreign key (tenant_id, message_id) references mail.messages
  );
  create table mail.visits (
    org text not null, page text not null, n integer not null, at timestamp, primary key (org, page, n)
  );
  create index on mail.visits (org, at, page, n);
  grant usage on schema mail to "app_role";
  grant select, delete on all tables in schema mail to "app_role";
`;

const SUBJECTS = [
  {
    name: 'messages',
    resource_type: 'message',
    table: 'mail.messages',
    tenant: 'tenant_id',
    instant: 'sent_at',
    id: 'id',
    floor: true,
    dependents: [
      { table: 'mail.attachments', resource_type: 'attachment', columns: { tenant_id: 'tenant_id', message_id: 'id' } },
    ],
  },
  {
    name: 'visits',
    resource_type: 'visit',
    table: 'mail.visits',
    tenant: 'org',
    instant: 'at',
    instant_zone: 'UTC',
    id: ['page', 'n'],
    floor: true,
  },
];

test.before(async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-owner-box-'));
  const postgres = await startTestPostgres();
  Object.assign(t.context, { folder, postgres });
  const { privateJwk, publicJwk } = await makeKeyPair();
  const jwks = join(folder, 'jwks.json');
  await writeFile(jwks, JSON.stringify({ keys: [publicJwk] }));
  await writeFile(join(folder, 'key.json'), JSON.stringify(privateJwk));
  const database = await postgres.createDatabase([]);
  await database.query(SCHEMA.replaceAll('app_role', database.appRole));
  const box = await startOwnerBox({ database, subjects: SUBJECTS, name: NAME, jwks });
  const connection = connect({ address: box.address, token: async () => 'no token' });
  const issuer = { key: await readSigningKey(join(folder, 'key.json')), issuer: 'lethe', audience: 'lethe' };
  const credential = makeOwnerCredential(issuer, 'retention');
  const client: Context['client'] = (call) =>
    clientOf(connection, () => credential({ owner: NAME, actor: 'system:retention', ...call }));
  Object.assign(t.context, { database, box, connection, client });
});

test.after.always(async (t) => {
  const { folder, postgres, box, connection } = t.context;
  connection?.close();
  await box?.stop();
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
});

test('killed between batches, its sums are those of what is gone', async (t) => {
  const { database, box, client } = t.context;
  const [tenantId, subject, operationId] = ['acme', 'messages', randomUUID()];
  await database.query(`
    insert into mail.messages select org, gen_random_uuid(), now() - interval '40 days' - n * interval '1 microsecond'
      from generate_series(1, 5000) n, (values ('acme'), ('zeta')) o (org);
    insert into mail.messages values ('acme', gen_random_uuid(), null), ('acme', gen_random_uuid(), '-infinity'),
      ('acme', gen_random_uuid(), 'infinity'), ('acme', gen_random_uuid(), now());
    insert into mail.attachments select tenant_id, id, 'a' from mail.messages where tenant_id in ('acme', 'zeta')`);
  const rule = { subject, retentionDays: 30, latestCutoffTime: toTimestamp(Temporal.Now.instant()), minToKeep: 12n };
  const counted = await client({ scope: 'owner:count', tenantId, subject }).count({ rule, upTo: 100_000n });
  t.like(counted, { expiredCount: 4_990n, undatedCount: 1n, progress: Progress.COMPLETE });

  const purging = client({ scope: 'owner:purge', tenantId, subject, operationId });
  const request = { operationId, rule, limit: 100_000 };
  await box.crashAt('owner.purge.after-batch');
  const pid = box.pid();
  await t.throwsAsync(purging.purge(request), { message: /unavailable/ });
  await until('COMPLETE', async () => (await purging.purge(request)).progress === Progress.COMPLETE);
  t.not(box.pid(), pid);
  const sums = [
    { resourceType: 'message', found: 4_990n, deleted: 4_990n, left: 0n },
    { resourceType: 'attachment', found: 4_990n, deleted: 4_990n, left: 0n },
  ];
  t.like((await purging.end({ operationId, subject })).resourceCounts, sums);
  const left = await database.query(`select tenant_id, count(*)::int as n from mail.messages
    where tenant_id in ('acme', 'zeta') group by 1 order by 1`);
  t.deepEqual(left, [
    { tenant_id: 'acme', n: 14 },
    { tenant_id: 'zeta', n: 5_000 },
  ]);
});

test('what is hung on a row while it goes is counted as well', async (t) => {
  const { database, client } = t.context;
  const [tenantId, subject, operationId] = ['hung', 'messages', randomUUID()];
  await database.query(`
    insert into mail.messages select 'hung', gen_random_uuid(), now() - interval '40 days' from generate_series(1, 10)`);
  const rule = { subject, retentionDays: 30, latestCutoffTime: toTimestamp(Temporal.Now.instant()) };
  const writer = new pg.Client({ connectionString: database.superuserUrl });
  await writer.connect();
  t.teardown(() => writer.end());
  await writer.query(
    `begin; insert into mail.attachments select tenant_id, id, 'late' from mail.messages where tenant_id = 'hung'`,
  );
  const purged = client({ scope: 'owner:purge', tenantId, subject, operationId }).purge({ operationId, rule });
  await until('the batch waits for the writer', async () => {
    const waiting = await database.query(`select from pg_locks where not granted`);
    return waiting.length > 0;
  });
  await writer.query('commit');
  const { progress, resourceCounts } = await purged;
  t.is(progress, Progress.COMPLETE);
  t.deepEqual(
    resourceCounts.map(({ deleted }) => deleted),
    [10n, 10n],
  );
  t.deepEqual(await database.query(`select from mail.attachments where name = 'late'`), []);
});

test('it shows its figures, and ends when it is told to', async (t) => {
  const { database, folder, box } = t.context;
  const figures = await (await fetch(`http://${box.metricsAddress}/metrics`)).text();
  t.regex(figures, /lethe_rpc_duration_seconds/);
  const second = await startOwnerBox({ database, subjects: SUBJECTS, name: 'other', jwks: join(folder, 'jwks.json') });
  await t.notThrowsAsync(second.stop());
});
