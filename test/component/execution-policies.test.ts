import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { WindowKind, WindowSource } from '#gen/lethe/retention/v1/retention_pb.ts';
import { migrateDown, migrateUp } from '#libs/postgres/migrate.ts';
import { makeExecutionPolicyRepository } from '#services/retention/adapters/postgres/execution-policy-repository.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { queryOnce, startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['retention'] });
  t.context.postgres = await startTestPostgres();
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await t.context.postgres?.stop();
});

const TENANT = '550e8400-e29b-41d4-a716-446655440000';

// Statements of the seed "Execution Retention Policy", as they stand there.
const SEED_INSERT = `INSERT INTO execution_retention_policies (tenant_id, retention_days, is_enabled, min_executions_to_keep)
VALUES ('550e8400-e29b-41d4-a716-446655440000', 90, TRUE, 100);`;
const SEED_SELECT = `SELECT
    tenant_id,
    retention_days,
    is_enabled,
    min_executions_to_keep,
    last_cleanup_at,
    last_cleanup_deleted_count
FROM execution_retention_policies;`;
const SEED_ROLLBACK = `
DROP TRIGGER IF EXISTS trigger_update_execution_retention_policies_updated_at ON execution_retention_policies;
DROP FUNCTION IF EXISTS update_execution_retention_policies_updated_at();
DROP FUNCTION IF EXISTS cleanup_old_executions(UUID, INTEGER, INTEGER, INTEGER);
DROP INDEX IF EXISTS idx_executions_null_started_at;
DROP INDEX IF EXISTS idx_executions_retention_cleanup;
DROP INDEX IF EXISTS idx_retention_policies_tenant;
DROP TABLE IF EXISTS execution_retention_policies;`;

test('the table has the columns, defaults and constraint of the seed', async (t) => {
  const database = await t.context.postgres.createDatabase(retentionMigrations);
  const columns = await database.query<{ name: string; default: string | null }>(
    `select column_name as name, column_default as default from information_schema.columns
     where table_name = 'execution_retention_policies' order by column_name`,
  );
  const defaults = Object.fromEntries(columns.map(({ name, default: value }) => [name, value]));
  t.is(defaults['retention_days'], '90');
  t.is(defaults['is_enabled'], 'true');
  t.is(defaults['min_executions_to_keep'], '100');
  t.is(defaults['stale_after_days'], '30');
  for (const name of ['tenant_id', 'last_cleanup_at', 'last_cleanup_deleted_count', 'created_at', 'updated_at']) {
    t.true(name in defaults, name);
  }
  await queryOnce(database.ownerUrl, `insert into execution_retention_policies (tenant_id) values ('only')`);
  await t.throwsAsync(
    queryOnce(database.ownerUrl, `insert into execution_retention_policies (tenant_id) values ('only')`),
    { message: /duplicate key value violates unique constraint/ },
    'one policy per tenant',
  );
});

test('statements of the seed work pasted into psql, and an edit moves updated_at', async (t) => {
  const database = await t.context.postgres.createDatabase(retentionMigrations);
  await queryOnce(database.ownerUrl, SEED_INSERT);
  t.deepEqual(await queryOnce(database.ownerUrl, SEED_SELECT), [
    {
      tenant_id: TENANT,
      retention_days: 90,
      is_enabled: true,
      min_executions_to_keep: '100',
      last_cleanup_at: null,
      last_cleanup_deleted_count: '0',
    },
  ]);
  const stamps = async () => {
    const [row] = await database.query<{ updated: string; version: string }>(
      'select updated_at::text as updated, version from execution_retention_policies',
    );
    return row;
  };
  const first = await stamps();
  await queryOnce(database.ownerUrl, 'UPDATE execution_retention_policies SET retention_days = 30;');
  const second = await stamps();
  t.not(second?.updated, first?.updated);
  t.not(second?.version, first?.version);
  await queryOnce(
    database.ownerUrl,
    'UPDATE execution_retention_policies SET last_cleanup_at = now(), last_cleanup_deleted_count = 5;',
  );
  t.deepEqual(await stamps(), second, 'a cleanup is no edit');
});

test('the rollback of the seed works pasted, and migrations still go down and up after it', async (t) => {
  const database = await t.context.postgres.createDatabase(retentionMigrations);
  const options = { ownerUrl: database.ownerUrl, appRole: database.appRole, migrations: retentionMigrations };
  await queryOnce(database.ownerUrl, SEED_INSERT);
  await queryOnce(database.ownerUrl, SEED_ROLLBACK);
  await queryOnce(database.ownerUrl, SEED_ROLLBACK);
  await migrateDown(options);
  await migrateUp(options);
  await queryOnce(database.ownerUrl, SEED_INSERT);
  t.is((await queryOnce(database.ownerUrl, SEED_SELECT)).length, 1);
});

test('the lookup of an enabled tenant by the app role uses an index', async (t) => {
  const database = await t.context.postgres.createDatabase(retentionMigrations);
  await database.query(
    `insert into execution_retention_policies (tenant_id, is_enabled)
     select 'tenant-' || n, n % 10 = 0 from generate_series(1, 5000) n`,
  );
  await database.query('analyze execution_retention_policies');
  const [row] = await queryOnce<{ 'QUERY PLAN': { Plan: unknown }[] }>(
    `${database.appUrl}?options=${encodeURIComponent('-c lethe.tenant=tenant-500')}`,
    `explain (format json) select * from execution_retention_policies where tenant_id = 'tenant-500' and is_enabled`,
  );
  t.regex(
    JSON.stringify(row),
    /"(Index|Bitmap Index) Scan".*"(idx_retention_policies_tenant|execution_retention_policies_pkey)"/,
  );
  const indexes = await database.query<{ name: string }>(
    `select indexname as name from pg_indexes where tablename = 'execution_retention_policies' order by 1`,
  );
  t.deepEqual(
    indexes.map(({ name }) => name),
    ['execution_retention_policies_pkey', 'idx_retention_policies_tenant'],
  );
});

test('what a cleanup removed is noted once it is known, and the newest cleanup stands', async (t) => {
  const created = await t.context.postgres.createDatabase(retentionMigrations);
  const database = created.open();
  try {
    const policies = makeExecutionPolicyRepository(database);
    await created.query(`insert into execution_retention_policies (tenant_id) values ('acme')`);
    const before = await policies.get('acme');
    const night = Temporal.Instant.from('2026-06-01T03:00:00.123456Z');
    await policies.recordCleanup('acme', night, 10);
    // A call that was cut off had removed two more.
    await policies.recordCleanup('acme', night, 12);
    await policies.recordCleanup('acme', night.subtract({ hours: 24 }), 99);
    const after = await policies.get('acme');
    t.is(after?.lastCleanupAt?.toString(), night.toString());
    t.is(after?.lastCleanupDeleted, 12);
    t.is(after?.version, before?.version);
    t.is(after?.updatedAt.toString(), before?.updatedAt.toString());
    await t.notThrowsAsync(policies.recordCleanup('nobody', night, 1));
  } finally {
    await database.close();
  }
});

test('of many that create a policy at once one does, and the others find it', async (t) => {
  const created = await t.context.postgres.createDatabase(retentionMigrations);
  const database = created.open();
  try {
    const policies = makeExecutionPolicyRepository(database);
    const policy = { tenantId: 'raced', retentionDays: 30, isEnabled: true, minToKeep: 5, staleAfterDays: 30 };
    const all = await Promise.all(
      Array.from({ length: 8 }, () => policies.upsert({ ...policy, actor: 'ada', subject: 'ada', etag: '' })),
    );
    t.is(new Set(all.map(({ version }) => version)).size, 1);
    t.is((await created.query('select from audit_entries')).length, 1);
  } finally {
    await database.close();
  }
});

test.serial('a policy is created with the defaults, replaced as a whole, and read by its tenant alone', async (t) => {
  const { stack } = t.context;
  const admin = stack.clients({ tenantId: 'policy', role: 'admin' }).retention;
  t.is((await refusalOf(admin.getExecutionPolicy({}))).reason, 'EXECUTION_POLICY_NOT_FOUND');
  const { executionPolicy: first } = await admin.upsertExecutionPolicy({});
  t.like(first, { retentionDays: 90, isEnabled: true, minExecutionsToKeep: 100n, staleAfterDays: 30 });
  t.deepEqual((await admin.upsertExecutionPolicy({ retentionDays: 90 })).executionPolicy, first, 'the same again');
  const etag = first?.etag ?? '';
  const { executionPolicy: second } = await admin.upsertExecutionPolicy({ retentionDays: 30, etag });
  t.like(second, { retentionDays: 30, minExecutionsToKeep: 100n });
  t.not(second?.etag, etag);
  t.is((await refusalOf(admin.upsertExecutionPolicy({ retentionDays: 1, etag }))).reason, 'ETAG_MISMATCH');
  t.deepEqual((await admin.getExecutionPolicy({})).executionPolicy, second);
  const stranger = stack.clients({ tenantId: 'stranger', role: 'admin' }).retention;
  const unknown = await refusalOf(stranger.getExecutionPolicy({ tenantId: 'nobody' }));
  t.deepEqual(await refusalOf(stranger.getExecutionPolicy({ tenantId: 'policy' })), unknown);
  const member = stack.clients({ tenantId: 'policy', role: 'member' }).retention;
  for (const call of [member.upsertExecutionPolicy({}), member.deleteExecutionPolicy({})]) {
    t.is((await refusalOf(call)).reason, 'ROLE_TOO_LOW');
  }
  const audit = await queryOnce<{ outcome: string }>(
    stack.superuserUrl('retention'),
    "select outcome from audit_entries where tenant_id = 'policy' and action <> 'call' order by at",
  );
  t.deepEqual(audit, [{ outcome: '90 days' }, { outcome: '30 days' }]);
});

test.serial('a policy of odd numbers is refused, and nothing changes', async (t) => {
  const admin = t.context.stack.clients({ tenantId: 'odd-policy', role: 'admin' }).retention;
  for (const policy of [
    { retentionDays: 0 },
    { retentionDays: -1 },
    { retentionDays: 36_501 },
    { retentionDays: 1_000_000_000 },
    { minExecutionsToKeep: -1n },
    { minExecutionsToKeep: 1_000_000_001n },
    { staleAfterDays: -1 },
    { staleAfterDays: 36_501 },
  ]) {
    t.is((await refusalOf(admin.upsertExecutionPolicy(policy))).reason, 'FIELD_INVALID');
  }
  t.is((await refusalOf(admin.getExecutionPolicy({}))).reason, 'EXECUTION_POLICY_NOT_FOUND');
});

test.serial('an edit in psql leaves no etag that still fits, nor does a policy that was made anew', async (t) => {
  const { stack } = t.context;
  const admin = stack.clients({ tenantId: 'edited', role: 'admin' }).retention;
  const etagOf = async () => (await admin.getExecutionPolicy({})).executionPolicy?.etag ?? '';
  await admin.upsertExecutionPolicy({});
  const first = await etagOf();
  await queryOnce(
    stack.superuserUrl('retention'),
    "update execution_retention_policies set is_enabled = false where tenant_id = 'edited'",
  );
  t.is((await refusalOf(admin.upsertExecutionPolicy({ retentionDays: 9, etag: first }))).reason, 'ETAG_MISMATCH');
  const second = await etagOf();
  await admin.deleteExecutionPolicy({ etag: second });
  await admin.upsertExecutionPolicy({});
  t.false([first, second].includes(await etagOf()));
});

test.serial(
  'a policy is deleted once, by its etag, with a row of the audit, and everything is kept then',
  async (t) => {
    const { stack } = t.context;
    const admin = stack.clients({ tenantId: 'deleted', role: 'admin' }).retention;
    const { executionPolicy } = await admin.upsertExecutionPolicy({ retentionDays: 5 });
    const etag = executionPolicy?.etag ?? '';
    const { executionPolicy: changed } = await admin.upsertExecutionPolicy({ retentionDays: 6 });
    t.is((await refusalOf(admin.deleteExecutionPolicy({ etag }))).reason, 'ETAG_MISMATCH');
    const stranger = stack.clients({ tenantId: 'stranger', role: 'admin' }).retention;
    await stranger.deleteExecutionPolicy({ tenantId: 'deleted' });
    t.is((await admin.getExecutionPolicy({})).executionPolicy?.retentionDays, 6, 'a stranger deletes nothing');
    await admin.deleteExecutionPolicy({ etag: changed?.etag ?? '' });
    await admin.deleteExecutionPolicy({ etag: changed?.etag ?? '' });
    t.is((await refusalOf(admin.getExecutionPolicy({}))).reason, 'EXECUTION_POLICY_NOT_FOUND');
    const { windows } = await admin.resolveRetention({});
    t.like(
      windows.find(({ subjectName }) => subjectName === 'executions'),
      { kind: WindowKind.KEEP_ALL },
    );
    const audit = await queryOnce<{ action: string }>(
      stack.superuserUrl('retention'),
      "select action from audit_entries where tenant_id = 'deleted' and action like 'delete%'",
    );
    t.deepEqual(audit, [{ action: 'delete-execution-policy' }]);
  },
);

test.serial('platform lists all policies by tenant and page, and a tenant its own', async (t) => {
  const { stack } = t.context;
  for (const tenantId of ['paged-a', 'paged-b', 'paged-c']) {
    await stack.clients({ tenantId, role: 'admin' }).retention.upsertExecutionPolicy({});
  }
  const told: string[] = [];
  for (let pageToken = ''; ; ) {
    const page = await stack.clients({ role: 'platform' }).retention.listExecutionPolicies({ pageSize: 2, pageToken });
    told.push(...page.executionPolicies.map(({ tenantId }) => tenantId));
    pageToken = page.nextPageToken;
    if (pageToken === '') break;
  }
  t.deepEqual(told, told.toSorted());
  t.deepEqual(
    told.filter((tenantId) => tenantId.startsWith('paged-')),
    ['paged-a', 'paged-b', 'paged-c'],
  );
  const own = await stack.clients({ tenantId: 'paged-b', role: 'viewer' }).retention.listExecutionPolicies({});
  t.deepEqual(
    own.executionPolicies.map(({ tenantId }) => tenantId),
    ['paged-b'],
  );
  const none = await stack.clients({ tenantId: 'paged-z', role: 'viewer' }).retention.listExecutionPolicies({});
  t.deepEqual(none.executionPolicies, []);
});

test.serial('a policy that is only tried changes nothing, and says what it would come to', async (t) => {
  const admin = t.context.stack.clients({ tenantId: 'tried', role: 'admin' }).retention;
  const { executionPolicy, forecast } = await admin.upsertExecutionPolicy({ retentionDays: 3, validateOnly: true });
  t.like(executionPolicy, { tenantId: 'tried', retentionDays: 3, minExecutionsToKeep: 100n });
  t.like(forecast, { subject: 'executions', effectTime: undefined });
  t.is(forecast && forecast.tenantCount + forecast.uncountedTenantCount, 1);
  t.is((await refusalOf(admin.getExecutionPolicy({}))).reason, 'EXECUTION_POLICY_NOT_FOUND');
  const stale = await refusalOf(admin.upsertExecutionPolicy({ validateOnly: true, etag: '"1"' }));
  t.deepEqual([stale.code, stale.reason], [Code.Aborted, 'ETAG_MISMATCH']);
});

test.serial('executions are kept unless a policy that is switched on says otherwise', async (t) => {
  const admin = t.context.stack.clients({ tenantId: 'executions', role: 'admin' }).retention;
  const executions = async () =>
    (await admin.resolveRetention({})).windows.find(({ subjectName }) => subjectName === 'executions');
  t.like(await executions(), { kind: WindowKind.KEEP_ALL, source: WindowSource.NONE, retentionDays: undefined });
  await admin.upsertExecutionPolicy({ isEnabled: false, retentionDays: 5 });
  t.like(await executions(), { kind: WindowKind.KEEP_ALL, source: WindowSource.NONE, retentionDays: undefined });
  await admin.upsertExecutionPolicy({ retentionDays: 5, minExecutionsToKeep: 7n });
  t.like(await executions(), {
    kind: WindowKind.DAYS,
    source: WindowSource.POLICY,
    retentionDays: 5,
    minExecutionsToKeep: 7n,
  });
});
