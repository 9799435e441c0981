import { mkdir, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { type SweepSummary, type TenantSweep, UploadArtifactRequestSchema } from '#gen/lethe/job/v1/job_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { openDatabase } from '#libs/postgres/open-database.ts';
import { makeArtifactIndex } from '#services/job/adapters/postgres/artifact-index.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { filesBelow, storedFiles } from '#test/support/stored-files.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.beforeEach(async (t) => {
  t.context.stack = await startTestStack({ services: ['job'] });
});
test.afterEach.always((t) => t.context.stack.dispose());

const DAY_MS = 86_400_000;

const pathOf = (stack: TestStack, tenantId: string, jobId: string, name: string): string =>
  join(stack.objectFolder, 'objects/tenants', tenantId, 'jobs', jobId, 'input', name);

/** The one object of a job. */
async function objectOf(stack: TestStack, tenantId: string, jobId: string): Promise<string> {
  const [path] = await storedFiles(stack, { tenantId, jobId, areas: ['objects'] });
  if (path === undefined) throw new Error('the job has no object');
  return path;
}

/** Puts a file where an object would be, as old as told. */
async function putFile(path: string, ageDays: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, 'orphan');
  const at = new Date(Date.now() - ageDays * DAY_MS);
  await utimes(path, at, at);
}

async function jobWithInput(stack: TestStack, tenantId: string): Promise<string> {
  const { jobs } = stack.clients({ tenantId, role: 'member' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  await uploadArtifact(jobs, jobId, {
    kind: ArtifactKind.INPUT,
    name: 'a',
    contentType: 'a/b',
    content: Buffer.from('a'),
  });
  return jobId;
}

async function sweep(
  stack: TestStack,
  request: { validateOnly?: boolean; tenantIds?: string[]; reason?: string },
): Promise<{ tenants: Map<string, TenantSweep>; summary: SweepSummary | undefined }> {
  const tenants = new Map<string, TenantSweep>();
  let summary: SweepSummary | undefined;
  const { jobs } = stack.clients({ role: 'platform' });
  const all = { allTenants: request.tenantIds === undefined, reason: 'monthly' };
  for await (const { event } of jobs.sweepOrphans({ ...all, ...request })) {
    if (event.case === 'tenant') tenants.set(event.value.tenantId, event.value);
    if (event.case === 'summary') summary = event.value;
  }
  return { tenants, summary };
}

const files = (stack: TestStack): Promise<string[]> => filesBelow(join(stack.objectFolder, 'objects/tenants'));

test('a dry run finds old objects without a job in every tenant, and removes nothing', async (t) => {
  const { stack } = t.context;
  await jobWithInput(stack, 'acme');
  const [orphan, young] = [newId(), newId()];
  await putFile(pathOf(stack, 'acme', orphan, 'a'), 2);
  await putFile(pathOf(stack, 'acme', orphan, 'b'), 3);
  await putFile(pathOf(stack, 'acme', young, 'a'), 0);
  await putFile(pathOf(stack, 'forgotten', newId(), 'a'), 400);
  const before = await files(stack);
  const { tenants, summary } = await sweep(stack, { validateOnly: true });
  t.deepEqual([...tenants.keys()], ['acme', 'forgotten']);
  t.like(tenants.get('acme')?.orphans[0], { resourceType: 'object_version', found: 2n, deleted: 0n, left: 2n });
  t.true(tenants.get('acme')?.samples[0]?.resourceId.includes(orphan));
  t.is(summary?.orphans[0]?.found, 3n);
  t.deepEqual(await files(stack), before);
});

test('a sweep removes what the dry run found, keeps what is young or has a job, and is audited', async (t) => {
  const { stack } = t.context;
  const kept = await jobWithInput(stack, 'acme');
  const [orphan, young] = [newId(), newId()];
  await putFile(pathOf(stack, 'acme', orphan, 'a'), 2);
  await putFile(pathOf(stack, 'acme', young, 'a'), 0);
  const { summary } = await sweep(stack, {});
  t.is(summary?.progress, Progress.COMPLETE);
  t.like(summary?.orphans[0], { found: 1n, deleted: 1n, left: 0n });
  t.deepEqual(await files(stack), [await objectOf(stack, 'acme', kept), pathOf(stack, 'acme', young, 'a')].toSorted());
  const audit = await queryOnce<{ actor: string; reason: string; outcome: string; counts: object }>(
    stack.superuserUrl('job'),
    "select actor, reason, outcome, counts from audit_entries where action = 'sweep-orphans' order by at",
  );
  const told = { actor: 'platform@platform', reason: 'monthly' };
  const one = { objects: 1, markers: 0, uploads: 0, bytes: 6 };
  const none = { objects: 0, markers: 0, uploads: 0, bytes: 0 };
  t.deepEqual(audit, [
    { ...told, outcome: 'STARTED', counts: { found: one } },
    { ...told, outcome: 'COMPLETE', counts: { deleted: one, left: none } },
  ]);
});

test('a job whose objects are missing is reported and stays', async (t) => {
  const { stack } = t.context;
  const [whole, hollow] = [await jobWithInput(stack, 'acme'), await jobWithInput(stack, 'acme')];
  await queryOnce(stack.superuserUrl('job'), "update artifacts set stored_at = now() - interval '3 days'");
  await rm(await objectOf(stack, 'acme', hollow));
  const { tenants } = await sweep(stack, { tenantIds: ['acme'] });
  t.is(tenants.get('acme')?.jobsWithoutObjects, 1n);
  t.deepEqual(
    tenants.get('acme')?.samples.map(({ resourceId }) => resourceId),
    [hollow],
  );
  const { jobs } = stack.clients({ tenantId: 'acme', role: 'viewer' });
  await t.notThrowsAsync(Promise.all([whole, hollow].map((jobId) => jobs.getJob({ jobId }))));
});

test('a row that is read again tells which objects are still wanted: not of a job being removed, nor one replaced', async (t) => {
  const { stack } = t.context;
  const database = openDatabase({
    url: stack.environment('job')['LETHE_DATABASE_URL'] ?? '',
    poolSize: 1,
    applicationName: 'test',
    statementTimeoutMs: 10_000,
    lockTimeoutMs: 10_000,
  });
  t.teardown(() => database.close());
  const index = makeArtifactIndex(database);
  const kept = await jobWithInput(stack, 'acme');
  const [replaced, removed] = [await jobWithInput(stack, 'acme'), await jobWithInput(stack, 'acme')];
  await queryOnce(stack.superuserUrl('job'), "update artifacts set stored_at = now() - interval '3 days'");
  const { items: before } = await index.listStored('acme', DAY_MS, { limit: 10, after: undefined });
  t.is(before.length, 3);
  t.deepEqual(await index.findStored('acme', []), []);
  t.is((await index.findStored('acme', before)).length, 3);
  t.deepEqual(await index.findStored('globex', before), []);
  await uploadArtifact(stack.clients({ tenantId: 'acme', role: 'member' }).jobs, replaced, {
    kind: ArtifactKind.INPUT,
    name: 'a',
    contentType: 'a/b',
    content: Buffer.from('b'),
  });
  await queryOnce(stack.superuserUrl('job'), 'update jobs set deletion_id = gen_random_uuid() where id = $1', [
    removed,
  ]);
  t.deepEqual(
    (await index.findStored('acme', before)).map(({ jobId }) => jobId),
    [kept],
  );
});

test('a tenant for which a look-up fails loses nothing, and the others are done', async (t) => {
  const { stack } = t.context;
  await stack.clients({ tenantId: 'fine', role: 'member' }).jobs.createJob({});
  const orphan = newId();
  await putFile(pathOf(stack, 'broken', orphan, 'a'), 2);
  await putFile(pathOf(stack, 'fine', newId(), 'a'), 2);
  // A link to itself: the file system refuses to tell what it is, in the middle of the listing.
  await symlink('z', pathOf(stack, 'broken', orphan, 'z'));
  const { tenants, summary } = await sweep(stack, { tenantIds: ['broken', 'fine'] });
  t.is(summary?.progress, Progress.PARTIAL);
  t.is(summary?.failedTenantCount, 1);
  t.regex(tenants.get('broken')?.error ?? '', /^DEPENDENCY_UNAVAILABLE/);
  t.deepEqual(await files(stack), [pathOf(stack, 'broken', orphan, 'a')]);
});

test('a stray file among the uploads of a job is named, and costs no upload that is under way', async (t) => {
  const { stack } = t.context;
  const { jobs } = stack.clients({ tenantId: 'acme', role: 'member' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  const uploads = join(stack.objectFolder, 'uploads/tenants/acme/jobs', jobId);
  const gate = Promise.withResolvers<void>();
  const header = { jobId, kind: ArtifactKind.INPUT, name: 'a', contentType: 'a/b' };
  const upload = jobs.uploadArtifact(
    (async function* () {
      yield create(UploadArtifactRequestSchema, { part: { case: 'header', value: header as never } });
      yield create(UploadArtifactRequestSchema, { part: { case: 'chunk', value: Buffer.from('sound') } });
      await gate.promise;
    })(),
  );
  await until('the upload is under way', async () => (await filesBelow(uploads)).length > 0);
  const strays = [join(uploads, 'stray'), join(uploads, 'input', 'stray')];
  for (const path of strays) await putFile(path, 2);
  const { tenants, summary } = await sweep(stack, { tenantIds: ['acme'] });
  t.is(summary?.progress, Progress.PARTIAL);
  t.is(summary?.failedTenantCount, 0);
  t.like(tenants.get('acme')?.orphans[0], { resourceType: 'open_upload', found: 2n, deleted: 0n, left: 2n });
  t.deepEqual(
    tenants
      .get('acme')
      ?.failedItems.map(({ key, code }) => [key.split('/').slice(4).join('/'), code])
      .toSorted(),
    [
      ['', 'FOREIGN_KEY'],
      ['input', 'FOREIGN_KEY'],
    ],
  );
  gate.resolve();
  t.is((await upload).artifact?.name, 'a');
});

test('only the platform sweeps, with a reason, and not below an hour of age', async (t) => {
  const { stack } = t.context;
  const run = (jobs: ReturnType<TestStack['clients']>['jobs'], request: object) =>
    refusalOf(Array.fromAsync(jobs.sweepOrphans(request)));
  const owner = stack.clients({ tenantId: 'acme', role: 'owner' }).jobs;
  t.is((await run(owner, { allTenants: true, reason: 'x' })).code, Code.PermissionDenied);
  const platform = stack.clients({ role: 'platform' }).jobs;
  t.is((await run(platform, { allTenants: true })).reason, 'REASON_REQUIRED');
  for (const request of [
    { reason: 'x' },
    { reason: 'x', allTenants: true, tenantIds: ['acme'] },
    { reason: 'x', allTenants: true, minAge: { seconds: 1n, nanos: 0 } },
    { reason: 'x', tenantIds: ['../etc'] },
    { reason: 'x', allTenants: true, tenantsWithoutJobs: true },
    { reason: 'x', allTenants: true, maxSharePercent: 101 },
  ]) {
    t.is((await run(platform, request)).reason, 'FIELD_INVALID');
  }
});

test('with an empty database nothing is swept, of no tenant', async (t) => {
  const { stack } = t.context;
  for (const tenantId of ['acme', 'globex']) {
    for (let n = 0; n < 20; n += 1) await putFile(pathOf(stack, tenantId, newId(), 'a'), 30);
  }
  const before = await files(stack);
  const { tenants, summary } = await sweep(stack, {});
  t.is(summary?.progress, Progress.PARTIAL);
  for (const tenantId of ['acme', 'globex']) t.regex(tenants.get(tenantId)?.error ?? '', /^TENANT_WITHOUT_JOBS: /);
  t.deepEqual(await files(stack), before);
});

test('what old versions of JobService left in the file store is found on jobs that are there, and swept', async (t) => {
  const { stack } = t.context;
  const jobId = await jobWithInput(stack, 'acme');
  const kept = await storedFiles(stack, { tenantId: 'acme' });
  const below = (area: string, name: string) =>
    join(stack.objectFolder, area, 'tenants/acme/jobs', jobId, 'input', name);
  await putFile(below('meta', `.${newId()}`), 2);
  await putFile(below('uploads', join('a', newId())), 2);
  await putFile(below('objects', `${newId()}-a`), 2);
  const found = (await sweep(stack, { validateOnly: true })).tenants.get('acme')?.orphans;
  t.deepEqual(
    found?.map(({ resourceType, found: count }) => [resourceType, count]),
    [
      ['object_version', 1n],
      ['open_upload', 2n],
    ],
  );
  const { summary } = await sweep(stack, {});
  t.is(summary?.progress, Progress.COMPLETE);
  t.deepEqual(
    summary?.orphans.map(({ resourceType, deleted, left }) => [resourceType, deleted, left]),
    [
      ['object_version', 1n, 0n],
      ['open_upload', 2n, 0n],
    ],
  );
  t.deepEqual(await storedFiles(stack, { tenantId: 'acme' }), kept);
  const metrics = await (await fetch(`http://${stack.environment('job')['LETHE_METRICS_ADDRESS']}/metrics`)).text();
  t.regex(metrics, /lethe_orphaned_objects\{[^}]*\} 0/);
  t.regex(metrics, /lethe_orphan_report_age_seconds\{[^}]*\} [0-9.]+/);
});
