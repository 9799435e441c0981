import anyTest, { type TestFn } from 'ava';
import knexOf from 'knex';
import { newId } from '#libs/kernel/id.ts';
import { migrateDown, migrateUp } from '#libs/postgres/migrate.ts';
import { makeArtifactIndex } from '#services/job/adapters/postgres/artifact-index.ts';
import { makeDiscardedObjects } from '#services/job/adapters/postgres/discarded-objects.ts';
import { objectsByUpload } from '#services/job/adapters/postgres/migrations/004-objects-by-upload.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { objectKey } from '#services/job/domain/artifact.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

const BEFORE = jobMigrations.slice(0, jobMigrations.indexOf(objectsByUpload));
const UP_TO = jobMigrations.slice(0, jobMigrations.indexOf(objectsByUpload) + 1);
const [JOB, TENANT] = [newId(), 'acme'];

/** Brings the schema up with what is there, and 004 alone back down. */
const moves = (database: TestDatabase) => {
  const { ownerUrl, appRole } = database;
  return {
    up: () => migrateUp({ ownerUrl, appRole, migrations: UP_TO }),
    async down() {
      const knex = knexOf({ client: 'pg', connection: ownerUrl });
      try {
        await knex.transaction(async (trx) => {
          await objectsByUpload.down(trx, appRole);
          await trx('lethe_migrations').where({ name: objectsByUpload.name }).delete();
        });
      } finally {
        await knex.destroy();
      }
    },
  };
};

async function databaseOfBefore(t: { context: { postgres: TestPostgres } }): Promise<TestDatabase> {
  const database = await t.context.postgres.createDatabase(BEFORE);
  await database.query("insert into jobs (tenant_id, id, display_name, state) values ($1, $2, '', 'PENDING')", [
    TENANT,
    JOB,
  ]);
  const insert = `insert into artifacts
    (tenant_id, job_id, kind, name, content_type, bytes, sha256, stored_at, upload_id, upload_expires_at)
    values ($1, $2, 'INPUT', $3, 'a/b', 3, $4, $5, $6, $7)`;
  const long = '2026-01-01T00:00:00Z';
  await database.query(insert, [TENANT, JOB, 'stored', 'abc', long, null, null]);
  await database.query(insert, [TENANT, JOB, 'no-digest', null, long, null, null]);
  await database.query(insert, [TENANT, JOB, 'being-replaced', 'abc', long, newId(), long]);
  await database.query(insert, [TENANT, JOB, 'never-stored', null, null, newId(), long]);
  return database;
}

const keysOf = async (database: TestDatabase): Promise<string[]> => {
  const opened = database.open();
  try {
    const { items } = await makeArtifactIndex(opened).list(TENANT, JOB, undefined, { limit: 100, after: undefined });
    return items.map((artifact) => objectKey(TENANT, artifact));
  } finally {
    await opened.close();
  }
};

const keyOf = (name: string): string => `tenants/${TENANT}/jobs/${JOB}/input/${name}`;

test('artifacts from before keep the keys of their objects, and what was never stored is removed', async (t) => {
  const database = await databaseOfBefore(t);
  await moves(database).up();
  t.deepEqual(await keysOf(database), ['being-replaced', 'no-digest', 'stored'].map(keyOf));
  const opened = database.open();
  t.teardown(() => opened.close());
  const discarded = makeDiscardedObjects(opened);
  const [due, ...others] = await discarded.findDue(10);
  t.deepEqual(others, []);
  if (!due) return t.fail('nothing is due');
  const claim = await discarded.claim(due, 60_000);
  t.is(claim && objectKey(TENANT, claim.object), keyOf('never-stored'));
});

test('up, down and up again with data loses no pointer and nothing that is to be removed', async (t) => {
  const database = await databaseOfBefore(t);
  const { up, down } = moves(database);
  await up();
  const opened = database.open();
  const index = makeArtifactIndex(opened);
  const upload = (name: string) => ({
    tenantId: TENANT,
    jobId: JOB,
    uploadId: newId(),
    kind: 'INPUT' as const,
    name,
    contentType: 'a/b',
    leaseToken: undefined,
    leaseMs: 60_000,
    ifAbsent: false,
  });
  const [fresh, failed] = [upload('fresh'), upload('failed')];
  for (const each of [fresh, failed]) await index.begin(each, () => undefined);
  await index.finish(fresh, 3, 'abc');
  await index.abandon(failed);
  const keys = [keyOf('being-replaced'), `${keyOf('')}${fresh.uploadId}-fresh`, keyOf('no-digest'), keyOf('stored')];
  t.deepEqual(await keysOf(database), keys);
  const toRemove = async () => {
    const rows = await database.query<{ name: string }>(
      "select coalesce(object_id || '-', '') || name as name from artifact_uploads order by 1",
    );
    return rows.map(({ name }) => name);
  };
  const before = await toRemove();
  t.deepEqual(before, [`${failed.uploadId}-failed`, 'never-stored'].toSorted());
  await opened.close();
  await down();
  await up();
  t.deepEqual(await keysOf(database), keys);
  t.deepEqual(await toRemove(), before);
});

test('a replaced object that is keyed by name holds the way down up until it is removed', async (t) => {
  const database = await databaseOfBefore(t);
  const { up, down } = moves(database);
  await up();
  await database.query(
    `insert into artifact_uploads (tenant_id, job_id, id, kind, name, state, due_at)
     values ($1, $2, $3, 'INPUT', 'stored', 'REPLACED', now())`,
    [TENANT, JOB, newId()],
  );
  await t.throwsAsync(down(), { message: /still being removed/ });
});

test('down to nothing', async (t) => {
  const database = await databaseOfBefore(t);
  await moves(database).up();
  const { ownerUrl, appRole } = database;
  await migrateDown({ ownerUrl, appRole, migrations: UP_TO });
  t.pass();
});
