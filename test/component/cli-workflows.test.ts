import anyTest, { type TestFn } from 'ava';
import { RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { type CommandLine, makeCommandLine, type Outcome, parsedLine } from '#test/support/command-line.ts';
import { type ForeignParticipant, startForeignParticipant } from '#test/support/foreign-participant.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { inputOf } from '#test/support/saga-harness.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine; foreign: ForeignParticipant }>;

test.before(async (t) => {
  t.context.foreign = await startForeignParticipant(1_000);
  t.context.stack = await startTestStack({
    services: ['run', 'job', 'incident'],
    foreignParticipants: { notes: t.context.foreign.address },
    envOf: { run: { LETHE_RUN_ATTEMPTS: '2', LETHE_RUN_BACKOFF_MS: '50' } },
  });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await t.context.foreign.close();
});

async function inputIn(stack: TestStack, tenantId: string, more: Parameters<typeof inputOf>[0] = {}): Promise<string> {
  const { incidents } = stack.clients({ tenantId, role: 'member' });
  const { environment } = await incidents.createEnvironment({ displayName: 'production' });
  return JSON.stringify(inputOf({ environment_id: environment?.id ?? '', ...more }));
}

test('a workflow is begun, watched to its end and told step by step', async (t) => {
  const { lethe, stack } = t.context;
  const as = ['--tenant', 'does'];
  const start = [...as, 'runs', 'start', 'client_to_delivery', '--input', await inputIn(stack, 'does')];
  const done = await lethe.with({ typing: [] })(...start, '--name', 'night bus', '--wait');
  t.is(done.code, 0, done.out + done.err);
  t.regex(done.out, /COMPLETED +client_to_delivery +night bus/);
  t.regex(done.screen, /5\/5 COMPLETED/);
  const [id = ''] = /[0-9a-f-]{36}/.exec(done.out) ?? [];
  const steps = await lethe(...as, 'runs', 'steps', id);
  t.is(steps.code, 0);
  t.is(steps.out.match(/COMPLETED/g)?.length, 5);
  t.is((await lethe(...as, 'runs', 'watch', id)).code, 0);
  const begun = parsedLine((await lethe('--json', ...start)).out);
  t.is(begun.state, 'RUN_STATE_RUNNING');
  t.is(parsedLine((await lethe('--json', ...as, 'runs', 'watch', begun.id)).out).state, 'RUN_STATE_COMPLETED');
  const unknown = await lethe(...as, 'runs', 'start', 'no_such');
  t.deepEqual([unknown.code, /WORKFLOW_NOT_FOUND/.test(unknown.err)], [1, true]);
});

test('what the help of `runs start` shows as an example begins a run, once its environment is one that exists', async (t) => {
  const { lethe, stack } = t.context;
  const { out } = await lethe('runs', 'start', '--help');
  const [, workflow = '', input = ''] = /runs start (\w+) --input '([^']+)' --wait/.exec(out) ?? [];
  const { environment_id } = JSON.parse(await inputIn(stack, 'learns'));
  const own = JSON.stringify({ ...JSON.parse(input), environment_id });
  t.deepEqual(Object.keys(JSON.parse(own)), Object.keys(JSON.parse(input)), 'it tells of the environment');
  const begun = await lethe('--tenant', 'learns', 'runs', 'start', workflow, '--input', own, '--wait');
  t.is(begun.code, 0, begun.out + begun.err);
});

test('a run that fails is undone, and is 1; its steps and its receipt tell what was removed', async (t) => {
  const { lethe, stack } = t.context;
  const input = await inputIn(stack, 'fails', { force_qc_fail: true });
  const failed = await lethe('--tenant', 'fails', 'runs', 'start', 'client_to_delivery', '--input', input, '--wait');
  t.is(failed.code, 1, failed.err);
  t.regex(failed.out, /COMPENSATED +client_to_delivery .*QC_FAILED/);
  const [id = ''] = /[0-9a-f-]{36}/.exec(failed.out) ?? [];
  const steps = await lethe('--tenant', 'fails', 'runs', 'steps', id);
  t.regex(steps.out, /brief +COMPENSATED .*onboarding_brief 1, onboarding_intake 1/);
  t.regex(steps.out, /draft +COMPENSATED +job .*job 1/);
  const receipts = await lethe('--tenant', 'fails', 'deletions', 'list', '--target', id);
  t.regex(receipts.out, /COMPENSATION +COMPLETE +run/);
  const [, receipt = ''] = /^([0-9a-f-]{36}) +COMPENSATION/m.exec(receipts.out) ?? [];
  const told = await lethe('--tenant', 'fails', 'deletions', 'get', receipt);
  t.regex(told.out, /^job +job +1 +1 +0/m);
  t.regex(told.out, /^run +strategy_document +1 +1 +0/m);
  t.regex(told.out, /^job +COMPLETE +\d{4}-/m, 'a participant was read back');
  t.regex(told.out, /^run +COMPLETE *$/m, 'rows that went with the receipt are not said to be read back later');
});

test('a run is cancelled, and one whose undoing is parked is 3, however often it is tried', async (t) => {
  const { lethe, stack } = t.context;
  const as = ['--tenant', 'parks'];
  const { runs } = stack.clients({ tenantId: 'parks', role: 'admin' });
  const runWith = async (participants: string[]): Promise<string> => {
    const { out: runId } = await lethe(...as, 'runs', 'create', 'elsewhere');
    await runs.recordStep({ runId, name: 'render', state: StepState.COMPLETED, participants });
    return runId;
  };
  const fine = await runWith(['job']);
  const cancelled = await lethe(...as, 'runs', 'cancel', fine, '--reason', 'enough', '--wait');
  t.is(cancelled.code, 0, cancelled.out + cancelled.err);
  t.regex(cancelled.out, /CANCELLED/);
  const unparked = await lethe(...as, 'runs', 'retry', fine);
  t.deepEqual([unparked.code, /RUN_NOT_PARKED/.test(unparked.err)], [1, true]);
  // The foreign service does not know how to compensate.
  const stuck = await runWith(['notes']);
  const parked = await lethe(...as, 'runs', 'cancel', stuck, '--wait');
  t.is(parked.code, 3, parked.out + parked.err);
  t.regex(parked.out, /FAILED/);
  t.is((await lethe(...as, 'runs', 'watch', stuck)).code, 3);
  const again = await lethe(...as, '--json', 'runs', 'retry', stuck, '--reason', 'mended', '--wait');
  t.is(again.code, 3);
  t.truthy(parsedLine(again.out).parkedReason);
});

test.serial(
  'Ctrl-C ends the wait for a run that is begun, cancelled or retried, with 130, and the run goes on',
  async (t) => {
    const { lethe, stack } = t.context;
    const as = ['--tenant', 'interrupts'];
    const input = await inputIn(stack, 'interrupts');
    const { runs } = stack.clients({ tenantId: 'interrupts', role: 'admin' });
    const waitFor = (shown: RegExp, ...args: string[]) =>
      lethe.with({ typing: [], interruptOn: shown })(...as, 'runs', ...args, '--wait');
    const assertInterrupted = ({ code, err, screen }: Outcome, runId: string): void => {
      t.deepEqual([code, err.includes('interrupted'), err.includes(runId)], [130, true, true], err);
      t.true(screen.lastIndexOf('\x1b[?25l') <= screen.lastIndexOf('\x1b[?25h'), 'the cursor is shown');
    };
    await queryOnce(
      stack.superuserUrl('job'),
      `create function hold() returns trigger language plpgsql as $$ begin perform pg_sleep(3); return new; end $$;
     create trigger hold before insert on jobs for each row when (new.tenant_id = 'interrupts') execute function hold()`,
    );
    const begun = await waitFor(/RUNNING/, 'start', 'client_to_delivery', '--input', input);
    const [run] = (await runs.listRuns({})).runs;
    assertInterrupted(begun, run?.id ?? '?');
    t.is((await lethe(...as, 'runs', 'watch', run?.id ?? '')).code, 0);
    t.is((await runs.getRun({ runId: run?.id ?? '' })).run?.state, RunState.COMPLETED);

    // The foreign service does not answer, and when it does it does not know how to compensate.
    const { out: parked } = await lethe(...as, 'runs', 'create', 'elsewhere');
    await runs.recordStep({ runId: parked, name: 'render', state: StepState.COMPLETED, participants: ['notes'] });
    await t.context.foreign.down();
    try {
      assertInterrupted(await waitFor(/COMPENSATING/, 'cancel', parked), parked);
    } finally {
      await t.context.foreign.up();
    }
    t.is((await lethe(...as, 'runs', 'watch', parked)).code, 3);
    await t.context.foreign.down();
    try {
      assertInterrupted(await waitFor(/COMPENSATING/, 'retry', parked), parked);
    } finally {
      await t.context.foreign.up();
    }
  },
);
