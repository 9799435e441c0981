import { Code } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import {
  type BulkDeletion,
  type BulkDeletionItem,
  BulkDeletionItemState,
  BulkDeletionState,
} from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DeletionMode, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { createLethe, hasReason } from '#libs/client/lethe.ts';
import { newId } from '#libs/kernel/id.ts';
import { type ForeignParticipant, startForeignParticipant } from '#test/support/foreign-participant.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { settled } from '#test/support/run-graph.ts';
import { startRunReplica } from '#test/support/run-replica.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  readonly stack: TestStack;
  readonly foreign: ForeignParticipant;
}
const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

const UNDER_WAY = 4;

test.before(async (t) => {
  const foreign = await startForeignParticipant(1_000);
  const stack = await startTestStack({
    services: ['run', 'job'],
    foreignParticipants: { notes: foreign.address },
    envOf: {
      run: {
        WORKFLOW_MIN_PURGE_AGE_HOURS: '24',
        LETHE_BULK_UNDER_WAY: String(UNDER_WAY),
        LETHE_BULK_CHUNK: '7',
        LETHE_DELETION_ATTEMPTS: '3',
        LETHE_DELETION_BACKOFF_MS: '50',
        LETHE_DELETION_BACKOFF_MAX_MS: '200',
      },
      job: {
        LETHE_BULK_CHUNK: '7',
        LETHE_DELETION_ATTEMPTS: '3',
        LETHE_DELETION_BACKOFF_MS: '50',
        LETHE_DELETION_BACKOFF_MAX_MS: '200',
      },
    },
  });
  Object.assign(t.context, { stack, foreign });
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await t.context.foreign?.close();
});

const runsOf = ({ context: { stack } }: T, tenantId: string) => stack.clients({ tenantId, role: 'admin' }).runs;
const jobsOf = ({ context: { stack } }: T, tenantId: string) => stack.clients({ tenantId, role: 'admin' }).jobs;

/** Makes runs by hand-written SQL, by default completed two days ago; answers their ids, the oldest first. */
async function seedRuns(
  { context: { stack } }: T,
  tenantId: string,
  count: number,
  { workflow = 'sync', state = 'COMPLETED', age = '2 days' } = {},
): Promise<string[]> {
  const rows = await queryOnce<{ id: string }>(
    stack.superuserUrl('run'),
    `insert into workflow_runs (tenant_id, id, workflow, display_name, state, created_at, finished_at)
     select $1, gen_random_uuid(), $2, '', $3, at, case when $3 <> 'RUNNING' then at end
     from generate_series(1, $4) n, lateral (select now() - $5::interval + n * interval '1 ms' as at) a returning id`,
    [tenantId, workflow, state, count, age],
  );
  return rows.map(({ id }) => id);
}

/** As seedRuns, for jobs. */
async function seedJobs(
  { context: { stack } }: T,
  tenantId: string,
  count: number,
  { state = 'COMPLETED' } = {},
): Promise<string[]> {
  const rows = await queryOnce<{ id: string }>(
    stack.superuserUrl('job'),
    `insert into jobs (tenant_id, id, display_name, state, created_at)
     select $1, gen_random_uuid(), '', $2, now() - interval '2 days' + n * interval '1 ms'
     from generate_series(1, $3) n returning id`,
    [tenantId, state, count],
  );
  return rows.map(({ id }) => id);
}

/** The runs of a tenant that are there, hidden or not, by hand-written SQL. */
const runsLeft = async ({ context: { stack } }: T, tenantId: string): Promise<string[]> => {
  const sql = 'select id from workflow_runs where tenant_id = $1 order by created_at, id';
  return (await queryOnce<{ id: string }>(stack.superuserUrl('run'), sql, [tenantId])).map(({ id }) => id);
};

/** What the clients of both services have. */
interface Bulks {
  getBulkDeletion(request: { bulkDeletionId: string }): Promise<{ bulkDeletion?: BulkDeletion | undefined }>;
  listBulkDeletionItems(request: {
    bulkDeletionId: string;
    pageSize: number;
    pageToken: string;
  }): Promise<{ items: BulkDeletionItem[]; nextPageToken: string }>;
}

const ENDED: ReadonlySet<BulkDeletionState> = new Set([
  BulkDeletionState.COMPLETE,
  BulkDeletionState.STUCK,
  BulkDeletionState.CANCELLED,
]);

/** The bulk deletion once it has ended; at every look its counts add up. */
async function ended(t: T, bulks: Bulks, bulk: BulkDeletion | undefined, deadlineMs = 60_000): Promise<BulkDeletion> {
  let last: BulkDeletion | undefined;
  await until(
    'the bulk deletion ends',
    async () => {
      last = (await bulks.getBulkDeletion({ bulkDeletionId: bulk?.id ?? '' })).bulkDeletion;
      if (last) assertSum(t, last);
      return last !== undefined && ENDED.has(last.state);
    },
    deadlineMs,
  );
  if (!last) throw new Error('no bulk deletion was read');
  return last;
}

function assertSum(t: T, { counts }: BulkDeletion): void {
  if (!counts) return void t.fail('there are no counts');
  const { matched, pending, underWay, completed, skipped, stuck, cancelled } = counts;
  if (matched === pending + completed + skipped + stuck + cancelled && underWay <= pending) return;
  t.fail(`the counts do not add up: ${Object.values(counts).join(' ')}`);
}

const countsOf = (bulk: BulkDeletion | undefined) => {
  const { $typeName: _, ...counts } = bulk?.counts ?? { $typeName: '' };
  return Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, Number(count)]));
};

const skipsOf = (told: Pick<BulkDeletion, 'skipCounts'> | undefined) =>
  Object.fromEntries((told?.skipCounts ?? []).map(({ reason, count }) => [reason, Number(count)]));

/** All items, page by page. */
async function itemsOf(bulks: Bulks, bulk: BulkDeletion | undefined): Promise<BulkDeletionItem[]> {
  const items: BulkDeletionItem[] = [];
  for (let pageToken = '', first = true; first || pageToken !== ''; first = false) {
    const page = await bulks.listBulkDeletionItems({ bulkDeletionId: bulk?.id ?? '', pageSize: 3, pageToken });
    items.push(...page.items);
    pageToken = page.nextPageToken;
  }
  return items;
}

test('a filter without a condition is refused', async (t) => {
  const runs = runsOf(t, 'empty');
  const [runId] = await seedRuns(t, 'empty', 1);
  for (const filter of [undefined, {}, { showDeleted: true }]) {
    for (const validateOnly of [true, false]) {
      const refusal = await refusalOf(runs.purgeRuns({ ...(filter ? { filter } : {}), reason: 'all', validateOnly }));
      t.like(refusal, { code: Code.InvalidArgument, reason: 'FILTER_REQUIRED' });
    }
  }
  const jobs = jobsOf(t, 'empty');
  t.is((await refusalOf(jobs.deleteJobs({ filter: {}, reason: 'all' }))).reason, 'FILTER_REQUIRED');
  t.deepEqual(await runsLeft(t, 'empty'), [runId]);
});

test('every wrong field of an order is named', async (t) => {
  const filter = { states: [99 as RunState], workflow: 'no good', showDeleted: true };
  const mode = DeletionMode.SOFT_DELETE;
  const order = { filter, mode, requestId: 'x', expectedCount: -1n, force: true };
  const refusal = await refusalOf(runsOf(t, 'wrong').purgeRuns(order));
  t.is(refusal.reason, 'FIELD_INVALID');
  const wrong = 'filter.states,filter.workflow,force,filter.show_deleted,request_id,expected_count,reason';
  t.is(refusal.metadata['fields'], wrong);
  const states = [RunState.COMPLETED];
  const hidden = { filter: { states, showDeleted: true }, mode, reason: 'x' };
  t.is((await refusalOf(runsOf(t, 'wrong').purgeRuns(hidden))).metadata['fields'], 'filter.show_deleted');
  t.is((await refusalOf(runsOf(t, 'wrong').purgeRuns({ filter: { states } }))).reason, 'REASON_REQUIRED');
});

test('what the preview of a purge counts is what happens, run by run, and each has a receipt', async (t) => {
  const runs = runsOf(t, 'exact');
  const done = await seedRuns(t, 'exact', 17);
  const working = await seedRuns(t, 'exact', 3, { state: 'RUNNING' });
  const young = await seedRuns(t, 'exact', 2, { age: '1 hour' });
  const others = await seedRuns(t, 'exact', 2, { workflow: 'other' });
  const strangers = await seedRuns(t, 'exact-2', 2);
  const filter = { workflow: 'sync' };
  const { preview, ...rest } = await runs.purgeRuns({ filter, validateOnly: true });
  t.is(rest.bulkDeletion, undefined);
  t.is(preview?.matched, 22n);
  t.false(preview?.exceedsCeiling);
  t.deepEqual(skipsOf(preview), { RUN_NOT_TERMINAL: 3, RETENTION_GUARD: 2 });
  t.deepEqual(
    preview?.samples.map(({ resourceId }) => resourceId),
    [...young.toReversed(), ...working.toReversed(), ...done.toReversed()].slice(0, 10),
  );

  const { bulkDeletion } = await runs.purgeRuns({ filter, reason: 'contract ended', expectedCount: 22n });
  const bulk = await ended(t, runs, bulkDeletion);
  t.like(bulk, { state: BulkDeletionState.COMPLETE, reason: 'contract ended', actor: 'admin@exact', lastError: '' });
  t.deepEqual(bulk.filter, { workflow: 'sync' });
  t.deepEqual(countsOf(bulk), {
    matched: 22,
    pending: 0,
    underWay: 0,
    completed: 17,
    skipped: 5,
    stuck: 0,
    cancelled: 0,
  });
  t.deepEqual(skipsOf(bulk), skipsOf(preview));
  t.deepEqual((await runsLeft(t, 'exact')).toSorted(), [...working, ...others, ...young].toSorted());
  t.deepEqual((await runsLeft(t, 'exact-2')).toSorted(), strangers.toSorted());

  const items = await itemsOf(runs, bulk);
  t.is(items.length, 22);
  for (const { targetId, deletionId, state, skipReason } of items) {
    if (state === BulkDeletionItemState.SKIPPED) {
      t.is(skipReason, working.includes(targetId) ? 'RUN_NOT_TERMINAL' : 'RETENTION_GUARD');
      t.is(deletionId, '');
      continue;
    }
    t.is(state, BulkDeletionItemState.COMPLETE);
    const { deletion } = await runs.getDeletion({ deletionId });
    t.like(deletion, { state: DeletionState.COMPLETE, targetId, bulkDeletionId: bulk.id, reason: 'contract ended' });
  }
  const { items: skipped } = await runs.listBulkDeletionItems({
    bulkDeletionId: bulk.id,
    state: BulkDeletionItemState.SKIPPED,
  });
  t.is(skipped.length, 5);
  const told: BulkDeletion[] = [];
  for await (const { bulkDeletion: seen } of runs.watchBulkDeletion({ bulkDeletionId: bulk.id }))
    if (seen) told.push(seen);
  t.deepEqual(told, [bulk]);
});

test('what the preview of a deletion of jobs counts is what happens, with a receipt for each', async (t) => {
  const jobs = jobsOf(t, 'jobs');
  const done = await seedJobs(t, 'jobs', 9);
  const failed = await seedJobs(t, 'jobs', 2, { state: 'FAILED' });
  const waiting = await seedJobs(t, 'jobs', 3, { state: 'PENDING' });
  const filter = { states: [JobState.COMPLETED, JobState.PENDING] };
  const { preview } = await jobs.deleteJobs({ filter, validateOnly: true });
  t.is(preview?.matched, 12n);
  t.deepEqual(skipsOf(preview), { JOB_NOT_TERMINAL: 3 });
  const { bulkDeletion } = await jobs.deleteJobs({ filter, reason: 'asked for', expectedCount: 12n });
  const bulk = await ended(t, jobs, bulkDeletion);
  t.like(bulk, { state: BulkDeletionState.COMPLETE, targetType: 'job', mode: DeletionMode.PURGE });
  t.like(countsOf(bulk), { matched: 12, completed: 9, skipped: 3 });
  t.deepEqual(skipsOf(bulk), { JOB_NOT_TERMINAL: 3 });
  const { jobs: left } = await jobs.listJobs({});
  t.deepEqual(left.map(({ id }) => id).toSorted(), [...failed, ...waiting].toSorted());
  const items = await itemsOf(jobs, bulk);
  const complete = items.filter(({ state }) => state === BulkDeletionItemState.COMPLETE);
  t.deepEqual(complete.map(({ targetId }) => targetId).toSorted(), done.toSorted());
  for (const { targetId, deletionId } of complete) {
    const { deletion } = await jobs.getDeletion({ deletionId });
    t.like(deletion, { state: DeletionState.COMPLETE, targetId, bulkDeletionId: bulk.id });
  }
});

test('a soft delete of all that match hides them and leaves what is hidden already', async (t) => {
  const runs = runsOf(t, 'hides');
  const ids = await seedRuns(t, 'hides', 9, { age: '1 hour' });
  await settled(t.context.stack, 'hides', (await runs.deleteRun({ runId: ids[0] ?? '' })).deletion?.id);
  const order = { filter: { workflow: 'sync' }, mode: DeletionMode.SOFT_DELETE, reason: 'by mistake' };
  const bulk = await ended(t, runs, (await runs.purgeRuns(order)).bulkDeletion);
  t.like(countsOf(bulk), { matched: 8, completed: 8 });
  t.is((await runs.listRuns({})).runs.length, 0);
  t.deepEqual(await runsLeft(t, 'hides'), ids);
  for (const { deletionId } of await itemsOf(runs, bulk))
    t.is((await runs.getDeletion({ deletionId })).deletion?.mode, DeletionMode.SOFT_DELETE);
  await settled(t.context.stack, 'hides', (await runs.undeleteRun({ runId: ids[1] ?? '' })).deletion?.id);
  t.is((await runs.listRuns({})).runs.length, 1);
});

test('hidden runs are purged only where the filter says so', async (t) => {
  const runs = runsOf(t, 'hidden');
  const ids = await seedRuns(t, 'hidden', 3);
  await settled(t.context.stack, 'hidden', (await runs.deleteRun({ runId: ids[0] ?? '' })).deletion?.id);
  const filter = { states: [RunState.COMPLETED] };
  const first = await ended(t, runs, (await runs.purgeRuns({ filter, reason: 'a' })).bulkDeletion);
  t.is(countsOf(first)['completed'], 2);
  t.deepEqual(await runsLeft(t, 'hidden'), [ids[0]]);
  const all = { ...filter, showDeleted: true };
  const second = await ended(t, runs, (await runs.purgeRuns({ filter: all, reason: 'b' })).bulkDeletion);
  t.is(countsOf(second)['completed'], 1);
  t.deepEqual(await runsLeft(t, 'hidden'), []);
});

test('an order is refused when more match than its caller saw, and forgets nothing of that', async (t) => {
  const runs = runsOf(t, 'changed');
  await seedRuns(t, 'changed', 3);
  const order = { filter: { workflow: 'sync' }, reason: 'all three' };
  const refusal = await refusalOf(runs.purgeRuns({ ...order, expectedCount: 2n }));
  t.like(refusal, { code: Code.FailedPrecondition, reason: 'COUNT_CHANGED' });
  t.deepEqual(refusal.metadata, { matched: '3', expected: '2' });
  t.is((await runsLeft(t, 'changed')).length, 3);
  const { entries } = await runs.listAuditEntries({ filter: { action: 'bulk-purge-runs' } });
  t.deepEqual(
    entries.map(({ outcome, reason }) => [outcome, reason]),
    [['COUNT_CHANGED', 'all three']],
  );
  const fewer = await ended(t, runs, (await runs.purgeRuns({ ...order, expectedCount: 4n })).bulkDeletion);
  t.is(countsOf(fewer)['completed'], 3);
});

test('a repeated request_id is answered with the same bulk deletion, and with no other body', async (t) => {
  const runs = runsOf(t, 'repeats');
  await seedRuns(t, 'repeats', 5);
  const order = { filter: { workflow: 'sync' }, reason: 'once', requestId: newId(), expectedCount: 5n };
  const answers = await Promise.all(Array.from({ length: 4 }, () => runs.purgeRuns(order)));
  const ids = new Set(answers.map(({ bulkDeletion }) => bulkDeletion?.id));
  t.is(ids.size, 1);
  const bulk = await ended(t, runs, answers[0]?.bulkDeletion);
  t.like(countsOf(bulk), { matched: 5, completed: 5 });
  await seedRuns(t, 'repeats', 2);
  t.deepEqual((await runs.purgeRuns(order)).bulkDeletion, bulk);
  t.is((await runsLeft(t, 'repeats')).length, 2, 'what came later is left');
  t.is((await refusalOf(runs.purgeRuns({ ...order, reason: 'twice' }))).reason, 'REQUEST_ID_REUSED');
  t.is((await runs.listBulkDeletions({})).bulkDeletions.length, 1);
});

test("another tenant's bulk deletion looks like an unknown one", async (t) => {
  const runs = runsOf(t, 'mine');
  await seedRuns(t, 'mine', 1);
  const { bulkDeletion } = await runs.purgeRuns({ filter: { workflow: 'sync' }, reason: 'x' });
  const others = runsOf(t, 'theirs');
  const refused = async (bulkDeletionId: string) => [
    await refusalOf(others.getBulkDeletion({ bulkDeletionId })),
    await refusalOf(others.listBulkDeletionItems({ bulkDeletionId })),
    await refusalOf(others.cancelBulkDeletion({ bulkDeletionId })),
    await refusalOf(others.watchBulkDeletion({ bulkDeletionId })[Symbol.asyncIterator]().next()),
  ];
  const known = await refused(bulkDeletion?.id ?? '');
  t.deepEqual(known, await refused(newId()));
  for (const refusal of known) t.like(refusal, { code: Code.NotFound, reason: 'BULK_DELETION_NOT_FOUND' });
  t.is((await others.listBulkDeletions({})).bulkDeletions.length, 0);
  t.is((await ended(t, runs, bulkDeletion)).state, BulkDeletionState.COMPLETE);
});

test('viewers and members are refused, as is force without the role owner, and the audit has it', async (t) => {
  const { stack } = t.context;
  const [young] = await seedRuns(t, 'roles', 1, { age: '1 hour' });
  const filter = { workflow: 'sync' };
  for (const role of ['viewer', 'member'] as const) {
    const { runs, jobs } = stack.clients({ tenantId: 'roles', role });
    for (const call of [
      runs.purgeRuns({ filter, reason: 'x' }),
      runs.purgeRuns({ filter, validateOnly: true }),
      runs.cancelBulkDeletion({ bulkDeletionId: newId() }),
      jobs.deleteJobs({ filter: { states: [JobState.FAILED] }, reason: 'x' }),
    ])
      t.like(await refusalOf(call), { code: Code.PermissionDenied, reason: 'ROLE_TOO_LOW' });
  }
  const scoped = stack.clients({ tenantId: 'roles', role: 'owner', scopes: ['workflows:read'] });
  t.is((await refusalOf(scoped.runs.purgeRuns({ filter, reason: 'x' }))).reason, 'SCOPE_MISSING');
  const runs = runsOf(t, 'roles');
  const forced = { filter, reason: 'now', force: true };
  t.like(await refusalOf(runs.purgeRuns(forced)), { code: Code.PermissionDenied, reason: 'ROLE_TOO_LOW' });
  await until('the audit has it', async () => {
    const { entries } = await runs.listAuditEntries({ pageSize: 200 });
    const told = entries.map(({ actor, action, targetId, outcome }) => `${actor} ${action} ${targetId} ${outcome}`);
    return [
      'viewer@roles call lethe.run.v1.RunService/PurgeRuns ROLE_TOO_LOW',
      'member@roles call lethe.run.v1.RunService/PurgeRuns ROLE_TOO_LOW',
      'admin@roles bulk-purge-runs  ROLE_TOO_LOW',
    ].every((line) => told.includes(line));
  });
  t.deepEqual(await runsLeft(t, 'roles'), [young]);
  const { runs: owner } = stack.clients({ tenantId: 'roles', role: 'owner' });
  const bulk = await ended(t, runs, (await owner.purgeRuns(forced)).bulkDeletion);
  t.like(bulk, { state: BulkDeletionState.COMPLETE, force: true, actor: 'owner@roles' });
  t.deepEqual(await runsLeft(t, 'roles'), []);
});

const begunIn = (items: readonly BulkDeletionItem[]): string[] =>
  items.filter(({ deletionId }) => deletionId !== '').map(({ targetId }) => targetId);

test('after a cancel nothing further is begun, what is under way ends, and the counts say so', async (t) => {
  const { foreign } = t.context;
  const runs = runsOf(t, 'aborts');
  const ids = await seedRuns(t, 'aborts', 40);
  for (const runId of ids) {
    foreign.put(runId, 1);
    foreign.treat(runId, 'late');
  }
  const order = { filter: { workflow: 'sync' }, reason: 'too hasty' };
  const { bulkDeletion } = await runs.purgeRuns(order);
  const bulkDeletionId = bulkDeletion?.id ?? '';
  const look = async () => (await runs.getBulkDeletion({ bulkDeletionId })).bulkDeletion;
  await until('some are gone and some under way', async () => {
    const { completed = 0, underWay = 0 } = countsOf(await look());
    t.true(underWay <= UNDER_WAY);
    return completed >= 2 && underWay > 0;
  });
  const cancelled = (await runs.cancelBulkDeletion({ bulkDeletionId, reason: 'wrong filter' })).bulkDeletion;
  const begun = begunIn(await itemsOf(runs, cancelled));
  t.true(cancelled?.state === BulkDeletionState.CANCELLING, 'something was under way');
  const bulk = await ended(t, runs, cancelled);
  t.like(bulk, { state: BulkDeletionState.CANCELLED, cancelledBy: 'admin@aborts' });
  t.like(countsOf(bulk), {
    matched: 40,
    pending: 0,
    completed: begun.length,
    cancelled: 40 - begun.length,
    skipped: 0,
  });
  t.deepEqual(begunIn(await itemsOf(runs, bulk)), begun, 'nothing was begun after the cancel');
  t.deepEqual(
    await runsLeft(t, 'aborts'),
    ids.filter((id) => !begun.includes(id)),
  );
  t.deepEqual(
    (await runs.cancelBulkDeletion({ bulkDeletionId })).bulkDeletion,
    bulk,
    'a second cancel changes nothing',
  );
  const { entries } = await runs.listAuditEntries({ filter: { targetId: bulkDeletionId } });
  t.deepEqual(
    entries.map(({ action, outcome, reason }) => [action, outcome, reason]),
    [
      ['bulk-purge-runs', 'CANCELLED', 'too hasty'],
      ['cancel-bulk-purge-runs', 'CANCELLING', 'wrong filter'],
      ['bulk-purge-runs', 'PENDING', 'too hasty'],
    ],
  );
  // Those that were left match again.
  for (const runId of ids) foreign.treat(runId, 'well');
  const rest = await ended(t, runs, (await runs.purgeRuns(order)).bulkDeletion);
  t.like(countsOf(rest), { matched: 40 - begun.length, completed: 40 - begun.length });
  t.is((await refusalOf(runs.cancelBulkDeletion({ bulkDeletionId: rest.id }))).reason, 'BULK_DELETION_FINISHED');
});

test('single deletions that are ordered during a bulk deletion end long before it, and what is created then stays', async (t) => {
  const { foreign, stack } = t.context;
  const runs = runsOf(t, 'busy');
  const ids = await seedRuns(t, 'busy', 24);
  const [single = ''] = await seedRuns(t, 'busy', 1, { workflow: 'other' });
  const [stranger = ''] = await seedRuns(t, 'calm', 1);
  for (const runId of ids) {
    foreign.put(runId, 1);
    foreign.treat(runId, 'late');
  }
  const { runs: owner } = stack.clients({ tenantId: 'busy', role: 'owner' });
  const order = { filter: { workflow: 'sync' }, reason: 'all', force: true };
  const { bulkDeletion } = await owner.purgeRuns(order);
  const created = await seedRuns(t, 'busy', 2, { age: '0 s' });
  const look = async () => (await runs.getBulkDeletion({ bulkDeletionId: bulkDeletion?.id ?? '' })).bulkDeletion;
  await until('it is busy', async () => countsOf(await look())['underWay'] === UNDER_WAY);
  const own = await runs.purgeRun({ runId: single, reason: 'just this' });
  const theirs = await runsOf(t, 'calm').purgeRun({ runId: stranger, reason: 'just this' });
  t.is((await settled(stack, 'busy', own.deletion?.id)).state, DeletionState.COMPLETE);
  t.is((await settled(stack, 'calm', theirs.deletion?.id)).state, DeletionState.COMPLETE);
  const { pending = 0 } = countsOf(await look());
  t.true(pending > UNDER_WAY, `${pending} of 24 are pending`);
  for (const runId of ids) foreign.treat(runId, 'well');
  t.like(countsOf(await ended(t, runs, bulkDeletion)), { matched: 24, completed: 24 });
  t.deepEqual((await runsLeft(t, 'busy')).toSorted(), created.toSorted());
});

test("a tenant's bulk deletions fix their items at once and delete them one after another", async (t) => {
  const runs = runsOf(t, 'queue');
  const ids = await seedRuns(t, 'queue', 6, { workflow: 'slow' });
  await seedRuns(t, 'queue', 3, { workflow: 'quick' });
  for (const runId of ids) {
    t.context.foreign.put(runId, 1);
    t.context.foreign.treat(runId, 'late');
  }
  const first = await runs.purgeRuns({ filter: { workflow: 'slow' }, reason: 'a' });
  const bulkDeletionId = first.bulkDeletion?.id ?? '';
  await until('it runs', async () => {
    return (await runs.getBulkDeletion({ bulkDeletionId })).bulkDeletion?.state === BulkDeletionState.RUNNING;
  });
  const second = await runs.purgeRuns({ filter: { workflow: 'quick' }, reason: 'b' });
  const done = await ended(t, runs, second.bulkDeletion);
  const before = await ended(t, runs, first.bulkDeletion);
  t.true(
    Number(done.startTime?.seconds ?? 0n) <= Number(before.finishTime?.seconds ?? 0n),
    'its items were fixed at once',
  );
  const firstBegun = async (bulk: BulkDeletion) => {
    const rows = await queryOnce<{ at: string }>(
      t.context.stack.superuserUrl('run'),
      'select min(created_at)::text as at from deletions where tenant_id = $1 and bulk_deletion_id = $2',
      ['queue', bulk.id],
    );
    return rows[0]?.at ?? '';
  };
  const { finished } = (
    await queryOnce<{ finished: string }>(
      t.context.stack.superuserUrl('run'),
      'select finished_at::text as finished from bulk_deletions where tenant_id = $1 and id = $2',
      ['queue', before.id],
    )
  )[0] ?? { finished: '' };
  t.true(finished <= (await firstBegun(done)), 'and deleted after those before it');
});

test('STUCK items are counted, and once redriven the bulk deletion ends with them', async (t) => {
  const { foreign } = t.context;
  const runs = runsOf(t, 'stuck');
  const ids = await seedRuns(t, 'stuck', 5);
  const bad = ids[2] ?? '';
  foreign.put(bad, 1);
  foreign.treat(bad, 'fails');
  const order = { filter: { workflow: 'sync' }, reason: 'x' };
  const bulk = await ended(t, runs, (await runs.purgeRuns(order)).bulkDeletion);
  t.is(bulk.state, BulkDeletionState.STUCK);
  t.like(countsOf(bulk), { matched: 5, pending: 0, completed: 4, stuck: 1 });
  const item = (await itemsOf(runs, bulk)).find(({ targetId }) => targetId === bad);
  t.is(item?.state, BulkDeletionItemState.STUCK);
  t.regex(item?.lastError ?? '', /^DEPENDENCY_UNAVAILABLE: /);
  t.is((await refusalOf(runs.cancelBulkDeletion({ bulkDeletionId: bulk.id }))).reason, 'BULK_DELETION_FINISHED');
  // Redriven in vain, then with success: each time the bulk deletion says how it stands.
  for (const [temper, state] of [
    ['fails', BulkDeletionState.STUCK],
    ['well', BulkDeletionState.COMPLETE],
  ] as const) {
    foreign.treat(bad, temper);
    await runs.redriveDeletion({ deletionId: item?.deletionId ?? '' });
    const going = (await runs.getBulkDeletion({ bulkDeletionId: bulk.id })).bulkDeletion;
    t.true(going?.state === BulkDeletionState.RUNNING || going?.state === state);
    t.is((await ended(t, runs, bulk)).state, state);
  }
  const end = await ended(t, runs, bulk);
  t.like(countsOf(end), { matched: 5, completed: 5, stuck: 0 });
  t.deepEqual(await runsLeft(t, 'stuck'), []);
});

test('a job whose deletion is STUCK is counted, and ends with the bulk deletion once it is redriven', async (t) => {
  const { stack } = t.context;
  const jobs = jobsOf(t, 'stuck-jobs');
  await seedJobs(t, 'stuck-jobs', 3);
  const [bad = ''] = await seedJobs(t, 'stuck-jobs', 1, { state: 'FAILED' });
  // The index knows an object that the store does not have.
  await queryOnce(
    stack.superuserUrl('job'),
    `insert into artifacts (tenant_id, job_id, kind, name, content_type, bytes, stored_at)
     values ('stuck-jobs', $1, 'INPUT', 'a', 'a/b', 1, now())`,
    [bad],
  );
  const filter = { states: [JobState.COMPLETED, JobState.FAILED] };
  const bulk = await ended(t, jobs, (await jobs.deleteJobs({ filter, reason: 'x' })).bulkDeletion);
  t.is(bulk.state, BulkDeletionState.STUCK);
  t.like(countsOf(bulk), { matched: 4, completed: 3, stuck: 1 });
  const item = (await itemsOf(jobs, bulk)).find(({ targetId }) => targetId === bad);
  t.regex(item?.lastError ?? '', /^OBJECTS_MISSING: /);
  await jobs.redriveDeletion({ deletionId: item?.deletionId ?? '', reason: 'they are lost' });
  const end = await ended(t, jobs, bulk);
  t.is(end.state, BulkDeletionState.COMPLETE);
  t.like(countsOf(end), { matched: 4, completed: 4, stuck: 0 });
});

test('what became undeletable, changed or went away after it was written down is skipped with the reason', async (t) => {
  const { foreign, stack } = t.context;
  const runs = runsOf(t, 'changes');
  const first = await seedRuns(t, 'changes', UNDER_WAY);
  const [changed = '', gone = '', blocked = ''] = await seedRuns(t, 'changes', 3, { age: '1 day 1 hour' });
  await stack.clients({ tenantId: 'changes', role: 'admin' }).jobs.createJob({ runId: blocked });
  for (const runId of first) {
    foreign.put(runId, 1);
    foreign.treat(runId, 'late');
  }
  const { bulkDeletion } = await runs.purgeRuns({ filter: { workflow: 'sync' }, reason: 'x' });
  const look = async () => (await runs.getBulkDeletion({ bulkDeletionId: bulkDeletion?.id ?? '' })).bulkDeletion;
  await until('the first are under way', async () => countsOf(await look())['underWay'] === UNDER_WAY);
  const sql = stack.superuserUrl('run');
  await queryOnce(sql, 'update workflow_runs set version = version + 1 where id = $1', [changed]);
  await queryOnce(sql, 'delete from workflow_runs where id = $1', [gone]);
  for (const runId of first) foreign.treat(runId, 'well');
  const bulk = await ended(t, runs, bulkDeletion);
  t.like(countsOf(bulk), { matched: UNDER_WAY + 3, completed: UNDER_WAY, skipped: 3 });
  const reasons = new Map((await itemsOf(runs, bulk)).map(({ targetId, skipReason }) => [targetId, skipReason]));
  t.is(reasons.get(changed), 'ETAG_MISMATCH');
  t.is(reasons.get(gone), 'RUN_NOT_FOUND');
  t.is(reasons.get(blocked), 'JOB_NOT_TERMINAL');
  t.deepEqual(await runsLeft(t, 'changes'), [changed, blocked]);
});

test.serial(
  'while a participant is down nothing is deleted, and items are skipped once their attempts are used up',
  async (t) => {
    const { foreign } = t.context;
    const runs = runsOf(t, 'down');
    const ids = await seedRuns(t, 'down', 5);
    await foreign.down();
    const order = { filter: { workflow: 'sync' }, reason: 'x' };
    const { bulkDeletion } = await runs.purgeRuns(order);
    const bulkDeletionId = bulkDeletion?.id ?? '';
    const errors = new Set<string>();
    await until('it has given up', async () => {
      const { bulkDeletion: bulk } = await runs.getBulkDeletion({ bulkDeletionId });
      if (bulk?.lastError) errors.add(bulk.lastError.split(':')[0] ?? '');
      return bulk?.state === BulkDeletionState.COMPLETE;
    });
    t.deepEqual([...errors], ['DEPENDENCY_UNAVAILABLE']);
    const bulk = await ended(t, runs, bulkDeletion);
    t.deepEqual(skipsOf(bulk), { DEPENDENCY_UNAVAILABLE: 5 });
    t.deepEqual(await runsLeft(t, 'down'), ids);
    await foreign.up();
    await until('it is up', () => runs.previewPurgeRun({ runId: ids[0] ?? '' }).then(() => true));
    t.is(countsOf(await ended(t, runs, (await runs.purgeRuns(order)).bulkDeletion))['completed'], 5);
  },
);

test('two replicas delete each item once', async (t) => {
  const { stack } = t.context;
  const replica = await startRunReplica(stack, 'second-run');
  t.teardown(() => replica.stop());
  const tenants = ['replicas-1', 'replicas-2', 'replicas-3'];
  const bulks = await Promise.all(
    tenants.map(async (tenantId, index) => {
      await seedRuns(t, tenantId, 20);
      const runs = index === 0 ? runsOf(t, tenantId) : replica.runs({ tenantId, role: 'admin' });
      return (await runs.purgeRuns({ filter: { workflow: 'sync' }, reason: 'x' })).bulkDeletion;
    }),
  );
  for (const [index, tenantId] of tenants.entries()) {
    const bulk = await ended(t, runsOf(t, tenantId), bulks[index]);
    t.like(countsOf(bulk), { matched: 20, completed: 20 });
    const [counted] = await queryOnce<{ all: number; runs: number }>(
      stack.superuserUrl('run'),
      'select count(*)::int as all, count(distinct run_id)::int as runs from deletions where tenant_id = $1',
      [tenantId],
    );
    t.deepEqual(counted, { all: 20, runs: 20 });
    t.deepEqual(await runsLeft(t, tenantId), []);
  }
});

test('the client previews, orders and waits', async (t) => {
  const { stack } = t.context;
  await seedRuns(t, 'client', 3);
  await seedJobs(t, 'client', 2);
  const token = await stack.token({ tenantId: 'client', role: 'admin' });
  const lethe = createLethe({ token, run: stack.addresses.run, job: stack.addresses.job });
  t.teardown(() => lethe.close());
  const filter = { workflow: 'sync' };
  const preview = await lethe.runs.previewPurgeAll(filter);
  t.is(preview.matched, 3n);
  const purged = await lethe.runs.purgeAll(filter, { reason: 'x', expectedCount: preview.matched, wait: true });
  t.like(countsOf(purged), { completed: 3 });
  t.is((await Array.fromAsync(lethe.bulkDeletions.items(purged.id))).length, 3);
  t.is((await Array.fromAsync(lethe.bulkDeletions.list())).length, 1);
  const jobs = { states: [JobState.COMPLETED] };
  t.is((await lethe.jobs.previewDeleteAll(jobs)).matched, 2n);
  const deleted = await lethe.jobs.deleteAll(jobs, { reason: 'x', wait: true });
  t.like(countsOf(deleted), { completed: 2 });
  t.deepEqual(await lethe.bulkDeletions.get(deleted.id, { of: 'job' }), deleted);
  const error = await t.throwsAsync(lethe.bulkDeletions.cancel(deleted.id, { of: 'job' }));
  t.true(hasReason(error, 'BULK_DELETION_FINISHED'));
});
