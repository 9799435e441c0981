import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import fc from 'fast-check';
import { queryOnce } from '#test/support/postgres.ts';
import { makeRunGraph } from '#test/support/run-graph.ts';
import { type Refusal, refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

const BATCHES = 50;
const RUNS_PER_BATCH = 20;
const TENANT = 'interleaved';

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['run', 'job'],
    envOf: { run: { LETHE_DELETION_BACKOFF_MS: '20', LETHE_POLL_MS: '50' } },
  });
});
test.after.always((t) => t.context.stack.dispose());

type Operation = 'delete' | 'undelete' | 'purge';

/** Who calls what, and how many milliseconds after the gate has opened. */
const call = fc.record({
  operation: fc.constantFrom<Operation>('delete', 'undelete', 'purge'),
  afterMs: fc.nat({ max: 40 }),
});
const interleaving = fc.record({
  beginsHidden: fc.boolean(),
  jobs: fc.nat({ max: 2 }),
  calls: fc.array(call, { minLength: 2, maxLength: 5 }),
});
type Interleaving = typeof interleaving extends fc.Arbitrary<infer T> ? T : never;

interface Played {
  readonly runId: string;
  readonly jobs: number;
  readonly refusals: readonly Refusal[];
}

async function play(stack: TestStack, { beginsHidden, jobs, calls }: Interleaving): Promise<Played> {
  const { runs } = stack.clients({ tenantId: TENANT, role: 'admin' });
  const { runId } = await makeRunGraph(stack, TENANT, { steps: 1, jobs, objectsPerJob: 0 });
  if (beginsHidden) await runs.deleteRun({ runId });
  const gate = performance.now() + 20;
  const outcomes = await Promise.all(
    calls.map(async ({ operation, afterMs }) => {
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, gate + afterMs - performance.now())));
      const ordered =
        operation === 'delete'
          ? runs.deleteRun({ runId })
          : operation === 'undelete'
            ? runs.undeleteRun({ runId })
            : runs.purgeRun({ runId, reason: 'interleaved' });
      return ordered.then(
        () => undefined,
        (error) => refusalOf(Promise.reject(error)),
      );
    }),
  );
  return { runId, jobs, refusals: outcomes.filter((refusal) => refusal !== undefined) };
}

interface EndState {
  readonly run_id: string;
  readonly runs: number;
  readonly hidden_runs: number;
  readonly steps: number;
  readonly hidden_steps: number;
  readonly is_purged: boolean;
  /** What the last deletion that was not taken back did. */
  readonly last_mode: string | null;
}

const RUN_END = `
  select r.id as run_id,
    (select count(*)::int from workflow_runs w where w.id = r.id) as runs,
    (select count(*)::int from workflow_runs w where w.id = r.id and deleted_at is not null) as hidden_runs,
    (select count(*)::int from workflow_run_steps s where s.run_id = r.id) as steps,
    (select count(*)::int from workflow_run_steps s where s.run_id = r.id and deleted_at is not null) as hidden_steps,
    exists (select from deletions d where d.run_id = r.id and mode = 'PURGE') as is_purged,
    (select mode from deletions d where d.run_id = r.id and state <> 'CANCELLED' order by created_at desc limit 1) as last_mode
  from unnest($1::uuid[]) r(id)`;

const JOB_END = `
  select r.id as run_id,
    (select count(*)::int from jobs j where j.run_id = r.id) as jobs,
    (select count(*)::int from jobs j where j.run_id = r.id and deleted_at is not null) as hidden
  from unnest($1::uuid[]) r(id)`;

test(`${BATCHES * RUNS_PER_BATCH} interleavings of delete, undelete and purge each end in one state, in every service`, async (t) => {
  const { stack } = t.context;
  // For a batch.
  t.timeout(600_000);
  let played = 0;
  const ends = new Map<string, number>();
  await fc.assert(
    fc.asyncProperty(
      fc.array(interleaving, { minLength: RUNS_PER_BATCH, maxLength: RUNS_PER_BATCH }),
      async (batch) => {
        const runs = await Promise.all(batch.map((one) => play(stack, one)));
        const ids = runs.map(({ runId }) => runId);
        await until('everything has settled', async () => {
          const open = await queryOnce(
            stack.superuserUrl('run'),
            "select 1 from deletions where run_id = any($1) and state not in ('COMPLETE', 'CANCELLED') limit 1",
            [ids],
          );
          return open.length === 0;
        });
        const ofRuns = await queryOnce<EndState>(stack.superuserUrl('run'), RUN_END, [ids]);
        const ofJobs = await queryOnce<{ run_id: string; jobs: number; hidden: number }>(
          stack.superuserUrl('job'),
          JOB_END,
          [ids],
        );
        for (const { runId, jobs, refusals } of runs) {
          const run = ofRuns.find(({ run_id }) => run_id === runId);
          const job = ofJobs.find(({ run_id }) => run_id === runId);
          const end = run?.is_purged ? 'gone' : run?.last_mode === 'SOFT_DELETE' ? 'hidden' : 'visible';
          const whole = end === 'gone' ? 0 : 1;
          const hidden = end === 'hidden' ? 1 : 0;
          const seen = {
            run: [run?.runs, run?.hidden_runs],
            steps: [run?.steps, run?.hidden_steps],
            jobs: [job?.jobs, job?.hidden],
          };
          const wanted = {
            run: [whole, hidden],
            steps: [whole, hidden],
            jobs: [whole * jobs, hidden * jobs],
          };
          if (JSON.stringify(seen) !== JSON.stringify(wanted)) {
            throw new Error(`run ${runId} should be ${end} whole, but is ${JSON.stringify(seen)}`);
          }
          for (const { code, reason } of refusals) {
            const isLost = code === Code.Aborted && reason === 'OPERATION_IN_PROGRESS';
            const isLate = end === 'gone' && code === Code.NotFound && reason === 'RUN_NOT_FOUND';
            if (!isLost && !isLate) throw new Error(`a loser got ${Code[code]}/${reason}`);
          }
          ends.set(end, (ends.get(end) ?? 0) + 1);
        }
        played += runs.length;
        t.pass('a batch was played');
      },
    ),
    { numRuns: BATCHES, endOnFailure: true },
  );
  t.log(Object.fromEntries(ends));
  t.is(played, BATCHES * RUNS_PER_BATCH);
  t.true([...ends.keys()].length === 3, 'every end was reached');
});
