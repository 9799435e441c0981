import { randomUUID } from 'node:crypto';
import type { JsonObject } from '@bufbuild/protobuf';
import { type Client, Code } from '@connectrpc/connect';
import type { ExecutionContext } from 'ava';
import { type FailedItem, Progress, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import type { CalleeToken } from '#test/support/callee-token.ts';
import { PARTICIPANT_SCOPES } from '#test/support/participant-clients.ts';
import { refusalOf } from '#test/support/test-stack.ts';

/** Declares a test, under its title. */
export type Declare = (title: string, body: (t: ExecutionContext<unknown>) => Promise<void>) => void;

/** A client of one participant. */
export type Participant = Client<typeof ParticipantService>;

/** How the suite reaches a participant, and how it makes something to delete. */
export interface ParticipantUnderTest {
  /**
   * A client whose calls carry the tokens that RunService would make for them, with this tenant or without one; `changes`
   * are what the tokens say instead.
   */
  participant(tenantId: string | undefined, changes?: Partial<CalleeToken>): Participant;
  /** A client with a credential that nobody signed. */
  forger(): Participant;
  /** Makes something of each of these steps of a new run, finished, so that nothing forbids its purge. */
  seed(tenantId: string, runId: string, steps: readonly string[]): Promise<void>;
  /** As `seed`, with something that still works, so that SoftDelete and Purge refuse. Absent: nothing of it works. */
  readonly seedUnfinished?: (tenantId: string, runId: string, steps: readonly string[]) => Promise<void>;
  /** Whether what it holds is the effects of steps, which Compensate removes. */
  readonly hasEffects: boolean;
  /** Whether it also holds what no step has made, as RunService the run itself. Absent: it does not. */
  readonly holdsMore?: boolean;
  /** What its ordinary readers see of the run, in an order that stays the same. Absent: not compared. */
  readonly read?: (tenantId: string, runId: string) => Promise<readonly unknown[]>;
  /** What is left of the run in its stores, read without the participant's own code. Absent: Verify is believed. */
  readonly remains?: (tenantId: string, runId: string) => Promise<readonly unknown[]>;
  /** One of its actions, whose effects are finished, with two inputs that differ. Absent: it has no action. */
  readonly action?: { readonly name: string; readonly input: JsonObject; readonly otherInput: JsonObject };
}

const STEPS = ['first', 'second', 'third'];
const MAX_CALLS = 500;
const RACES = 5;

type Counts = Readonly<
  Record<string, { found: bigint; deleted: bigint; left: bigint; bytes: bigint; passedOn: bigint }>
>;

interface Answer {
  readonly progress: Progress;
  readonly resourceCounts: readonly ResourceCount[];
  readonly failedItems?: readonly FailedItem[];
}

const byType = (counts: readonly ResourceCount[]): Counts =>
  Object.fromEntries(
    counts.map(({ resourceType, found, deleted, left, bytes, passedOn }) => [
      resourceType,
      { found, deleted, left, bytes, passedOn },
    ]),
  );

const deletedOf = (counts: readonly ResourceCount[]): bigint => counts.reduce((sum, { deleted }) => sum + deleted, 0n);

/** Repeats a call until it says COMPLETE, and checks on the way that its counts are sums. */
async function untilComplete(t: ExecutionContext<unknown>, call: () => Promise<Answer>): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (let calls = 0; calls < MAX_CALLS; calls += 1) {
    const answer = await call();
    const before = byType(answers.at(-1)?.resourceCounts ?? []);
    const now = byType(answer.resourceCounts);
    for (const [type, { deleted }] of Object.entries(before)) {
      t.true((now[type]?.deleted ?? -1n) >= deleted, `${type}: counts are sums over all calls with one key`);
    }
    answers.push(answer);
    if (answer.progress === Progress.COMPLETE) return answers;
    t.is(answer.progress, Progress.PARTIAL);
  }
  throw new Error(`no COMPLETE in ${MAX_CALLS} calls`);
}

const step = 'lethe';

/** What is wrong with a token, how every RPC refuses it, and what it says instead; undefined where an RPC is not concerned. */
const WRONG_TOKENS: readonly (readonly [
  string,
  Code,
  (method: keyof Participant) => Partial<CalleeToken> | undefined,
])[] = [
  ['that nobody signed', Code.Unauthenticated, () => ({ signature: 'none' })],
  ['that another key signed', Code.Unauthenticated, () => ({ signature: 'of another key' })],
  ['of another issuer', Code.Unauthenticated, () => ({ issuer: 'https://elsewhere.example' })],
  ['for another participant', Code.Unauthenticated, () => ({ audience: 'lethe-participant:another' })],
  ['for no participant', Code.Unauthenticated, () => ({ audience: 'lethe' })],
  ['that has expired', Code.Unauthenticated, () => ({ issuedSecondsAgo: 3_600 })],
  ['that lives too long', Code.Unauthenticated, () => ({ lifetimeSeconds: 3_600 })],
  ['of a person', Code.PermissionDenied, () => ({ role: 'owner' })],
  ['of another service', Code.PermissionDenied, () => ({ actingService: 'service:retention' })],
  [
    'for another RPC',
    Code.PermissionDenied,
    (method) => ({ scope: PARTICIPANT_SCOPES[method === 'preview' ? 'purge' : 'preview'] }),
  ],
  ['for another run', Code.PermissionDenied, () => ({ runId: randomUUID() })],
  ['for another operation', Code.PermissionDenied, (method) => onlyKeyed(method, { operationId: randomUUID() })],
  ['for no operation', Code.PermissionDenied, (method) => onlyKeyed(method, { operationId: undefined })],
  ['for another step', Code.PermissionDenied, (method) => onlyKeyed(method, { step: 'other' })],
];

const onlyKeyed = (method: keyof Participant, changes: Partial<CalleeToken>): Partial<CalleeToken> | undefined =>
  ['preview', 'checkAction', 'verify'].includes(method) ? undefined : changes;

/** What every participant must do, in the words of the contract. */
export function participantContract(declare: Declare, name: string, open: () => ParticipantUnderTest): void {
  const test: Declare = (title, body) => declare(`${name}: ${title}`, body);
  const newTenant = (): string => `t-${randomUUID()}`;

  /** A tenant with one run that has something of three steps. */
  const seeded = async (seed: 'seed' | 'seedUnfinished' = 'seed') => {
    const subject = open();
    const [tenantId, runId] = [newTenant(), randomUUID()];
    await subject[seed]?.(tenantId, runId, STEPS);
    const participant = subject.participant(tenantId);
    return {
      subject,
      tenantId,
      runId,
      participant,
      found: async () => byType((await participant.preview({ runId })).resourceCounts),
      read: async () => subject.read?.(tenantId, runId),
      softDelete: (operationId: string) => participant.softDelete({ key: { operationId, step }, runId, reason: 'r' }),
      restore: (operationId: string, softDeleteOperationId: string) =>
        participant.restore({ key: { operationId, step }, runId, softDeleteOperationId }),
      purge: (operationId: string, limit = 0) =>
        participant.purge({ key: { operationId, step }, runId, limit, reason: 'asked for' }),
      compensate: (ofStep: string) => participant.compensate({ key: { operationId: runId, step: ofStep }, runId }),
    };
  };
  type Seeded = Awaited<ReturnType<typeof seeded>>;

  const assertGone = async (t: ExecutionContext<unknown>, { participant, subject, tenantId, runId }: Seeded) => {
    const { resourceCounts, samples } = await participant.verify({ runId });
    t.deepEqual(resourceCounts, [], 'Verify finds nothing');
    t.deepEqual(samples, []);
    t.deepEqual((await subject.remains?.(tenantId, runId)) ?? [], [], 'the stores hold nothing');
  };

  /** Compensates steps, after which nothing of them is left. */
  const compensateAll = async (t: ExecutionContext<unknown>, run: Seeded, steps: readonly string[]) => {
    for (const each of steps) {
      await untilComplete(t, () => run.compensate(each));
      t.deepEqual((await run.participant.verify({ runId: run.runId, step: each })).resourceCounts, []);
    }
    if (!run.subject.holdsMore) await assertGone(t, run);
  };

  test('a run that it has nothing of is empty and COMPLETE in every RPC, and no error', async (t) => {
    const participant = open().participant(newTenant());
    const key = () => ({ operationId: randomUUID(), step });
    const runId = randomUUID();
    const preview = await participant.preview({ runId });
    t.deepEqual([preview.resourceCounts, preview.blockers, preview.samples], [[], [], []]);
    t.deepEqual((await participant.verify({ runId })).resourceCounts, []);
    for (const answer of [
      await participant.softDelete({ key: key(), runId: randomUUID() }),
      await participant.restore({ key: key(), runId: randomUUID(), softDeleteOperationId: randomUUID() }),
      await participant.compensate({ key: { operationId: runId, step }, runId }),
      await participant.purge({ key: key(), runId: randomUUID(), reason: 'asked for' }),
    ]) {
      t.is(answer.progress, Progress.COMPLETE);
      t.is(deletedOf(answer.resourceCounts), 0n);
    }
  });

  test('preview tells what is there and changes nothing', async (t) => {
    const run = await seeded();
    const before = await run.read();
    const first = await run.participant.preview({ runId: run.runId });
    t.true(first.resourceCounts.length > 0);
    for (const { found, deleted, left, passedOn } of first.resourceCounts)
      t.deepEqual([deleted, left], [0n, found - passedOn]);
    t.deepEqual(first.blockers, []);
    t.true(first.samples.length > 0 && first.samples.length <= 100);
    t.deepEqual(await run.participant.preview({ runId: run.runId }), first);
    t.deepEqual(await run.read(), before);
  });

  test('a preview and a read-back in parts, each as short as can be, add up to the whole', async (t) => {
    const { participant, runId } = await seeded();
    const timeBudget = { seconds: 0n, nanos: 1_000_000 };
    const looks = {
      preview: (look: object) => participant.preview({ runId, ...look }),
      verify: (look: object) => participant.verify({ runId, ...look }),
    };
    for (const [name, look] of Object.entries(looks)) {
      const whole = await look({});
      t.is(whole.cursor.length, 0, `${name} without a budget is whole`);
      const sums = new Map<string, bigint>();
      const cursors: string[] = [];
      for (let cursor = new Uint8Array(), isFirst = true; isFirst || cursor.length > 0; isFirst = false) {
        const part = await look({ timeBudget, cursor });
        for (const { resourceType, found } of part.resourceCounts)
          sums.set(resourceType, (sums.get(resourceType) ?? 0n) + found);
        cursor = new Uint8Array(part.cursor);
        const place = Buffer.from(cursor).toString('hex');
        if (cursor.length > 0) t.false(cursors.includes(place), `${name} goes on`);
        cursors.push(place);
      }
      t.deepEqual(
        [...sums].toSorted(),
        whole.resourceCounts.map(({ resourceType, found }) => [resourceType, found] as const).toSorted(),
        name,
      );
    }
  });

  test('a preview of the blockers alone tells the same blockers', async (t) => {
    const { participant, runId } = await seeded();
    const { blockers } = await participant.preview({ runId });
    t.deepEqual((await participant.preview({ runId, blockersOnly: true })).blockers, blockers);
  });

  test('a soft delete hides the run from readers, removes nothing, and counts the same when it is repeated', async (t) => {
    const run = await seeded();
    const found = await run.found();
    const id = randomUUID();
    const answers = await untilComplete(t, () => run.softDelete(id));
    const counts = answers.at(-1)?.resourceCounts ?? [];
    t.true(deletedOf(counts) > 0n);
    t.deepEqual((await run.read()) ?? [], []);
    t.deepEqual(await run.found(), found, 'a purge takes what is hidden too');
    t.deepEqual((await run.softDelete(id)).resourceCounts, counts);
    t.is(deletedOf((await run.softDelete(randomUUID())).resourceCounts), 0n, 'another one has nothing left to hide');
  });

  test('a restore brings back exactly what its soft delete hid', async (t) => {
    const run = await seeded();
    const before = await run.read();
    const [hiding, later, taking, back] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
    const hidden = (await untilComplete(t, () => run.softDelete(hiding))).at(-1)?.resourceCounts;
    await untilComplete(t, () => run.softDelete(later));
    const none = (await untilComplete(t, () => run.restore(taking, later))).at(-1)?.resourceCounts ?? [];
    t.is(deletedOf(none), 0n, 'the later one hid nothing, so nothing comes back with it');
    t.deepEqual((await run.read()) ?? [], []);
    const restored = (await untilComplete(t, () => run.restore(back, hiding))).at(-1)?.resourceCounts;
    t.deepEqual(
      restored?.map(({ resourceType, deleted }) => [resourceType, deleted]),
      hidden?.map(({ resourceType, deleted }) => [resourceType, deleted]),
    );
    t.deepEqual(await run.read(), before);
    t.deepEqual((await run.restore(back, hiding)).resourceCounts, restored, 'a repeated key counts the same');
    await untilComplete(t, () => run.softDelete(hiding));
    t.deepEqual(await run.read(), before, 'a soft delete that was taken back stays taken back');
    const again = randomUUID();
    await untilComplete(t, () => run.softDelete(again));
    t.deepEqual((await run.restore(back, hiding)).resourceCounts, restored, 'also after another one has hidden it');
    t.deepEqual((await run.read()) ?? [], [], 'and the repeated restore brings back nothing of the other');
  });

  test('a restore that comes before its soft delete leaves a tombstone that refuses the late one', async (t) => {
    const run = await seeded();
    const before = await run.read();
    const late = randomUUID();
    const restored = (await untilComplete(t, () => run.restore(randomUUID(), late))).at(-1)?.resourceCounts ?? [];
    t.is(deletedOf(restored), 0n);
    const hidden = (await untilComplete(t, () => run.softDelete(late))).at(-1)?.resourceCounts ?? [];
    t.is(deletedOf(hidden), 0n);
    t.deepEqual(await run.read(), before);
  });

  test('a purge takes what the preview told, is read back as gone, and counts the same when it is repeated', async (t) => {
    const run = await seeded();
    const found = await run.found();
    const id = randomUUID();
    const counts = (await untilComplete(t, () => run.purge(id))).at(-1)?.resourceCounts ?? [];
    t.deepEqual(
      byType(counts),
      Object.fromEntries(
        Object.entries(found).map(([type, count]) => [type, { ...count, deleted: count.left, left: 0n }]),
      ),
    );
    await assertGone(t, run);
    t.deepEqual(await run.found(), {});
    const again = await run.purge(id);
    t.deepEqual([again.progress, again.resourceCounts], [Progress.COMPLETE, counts]);
    const other = (await untilComplete(t, () => run.purge(randomUUID()))).at(-1)?.resourceCounts ?? [];
    t.is(deletedOf(other), 0n, 'another purge has nothing left to take');
  });

  test('a purge takes what is hidden, as much as the preview told', async (t) => {
    const run = await seeded();
    await untilComplete(t, () => run.softDelete(randomUUID()));
    const found = await run.found();
    const counts = byType((await untilComplete(t, () => run.purge(randomUUID()))).at(-1)?.resourceCounts ?? []);
    for (const [type, count] of Object.entries(found)) t.is(counts[type]?.deleted, count.found, type);
    await assertGone(t, run);
  });

  test('a purge with a small limit is PARTIAL until it is COMPLETE, and nothing hides or comes back meanwhile', async (t) => {
    const run = await seeded();
    const found = await run.found();
    const [id, hiding] = [randomUUID(), randomUUID()];
    await untilComplete(t, () => run.softDelete(hiding));
    const first = await run.purge(id, 1);
    t.is(first.progress, Progress.PARTIAL);
    for (const call of [() => run.softDelete(randomUUID()), () => run.restore(randomUUID(), hiding)]) {
      t.like(await refusalOf(call()), { code: Code.Aborted, reason: 'OPERATION_IN_PROGRESS' });
    }
    const answers = await untilComplete(t, () => run.purge(id, 1));
    const counts = byType(answers.at(-1)?.resourceCounts ?? []);
    for (const [type, count] of Object.entries(found)) t.is(counts[type]?.deleted, count.found, type);
    await assertGone(t, run);
  });

  test("whatever is done to a run, a neighbour's and another tenant's of the same id are as they were", async (t) => {
    const run = await seeded();
    const { subject, tenantId, runId } = run;
    const others = [
      { tenantId, runId: randomUUID() },
      { tenantId: newTenant(), runId },
    ];
    for (const other of others) await subject.seed(other.tenantId, other.runId, ['first']);
    const look = () =>
      Promise.all(
        others.map(async (other) => ({
          preview: await subject.participant(other.tenantId).preview({ runId: other.runId }),
          verify: await subject.participant(other.tenantId).verify({ runId: other.runId }),
          seen: await subject.read?.(other.tenantId, other.runId),
          stored: await subject.remains?.(other.tenantId, other.runId),
        })),
      );
    const before = await look();
    const hiding = randomUUID();
    await untilComplete(t, () => run.softDelete(hiding));
    t.deepEqual(await look(), before, 'after a soft delete');
    await untilComplete(t, () => run.restore(randomUUID(), hiding));
    t.deepEqual(await look(), before, 'after a restore');
    await untilComplete(t, () => run.compensate('first'));
    t.deepEqual(await look(), before, 'after a compensation');
    await untilComplete(t, () => run.purge(randomUUID()));
    await assertGone(t, run);
    t.deepEqual(await look(), before, 'after a purge');
  });

  test('a malformed request gets FIELD_INVALID with every bad field, and a purge without a reason REASON_REQUIRED', async (t) => {
    const participant = open().participant(newTenant());
    const [runId, key] = [randomUUID(), { operationId: randomUUID(), step }];
    const cases: [string, () => Promise<unknown>][] = [
      ['run_id', () => participant.preview({ runId: 'x' })],
      ['run_id', () => participant.verify({ runId: '' })],
      ['key.operation_id', () => participant.softDelete({ runId, key: { operationId: 'x', step } })],
      ['key.operation_id', () => participant.compensate({ runId })],
      ['key.step', () => participant.compensate({ runId, key: { operationId: runId, step: '' } })],
      ['key.step', () => participant.purge({ runId, reason: 'r', key: { operationId: runId, step: 's'.repeat(101) } })],
      ['soft_delete_operation_id', () => participant.restore({ runId, key, softDeleteOperationId: 'x' })],
      ['limit', () => participant.purge({ runId, key, reason: 'r', limit: -1 })],
      ['limit', () => participant.purge({ runId, key, reason: 'r', limit: 100_001 })],
    ];
    for (const [field, call] of cases) {
      const refusal = await refusalOf(call());
      t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID' }, field);
      t.true(refusal.metadata['fields']?.split(',').includes(field), `${field} in ${refusal.metadata['fields']}`);
    }
    const twice = await refusalOf(
      participant.restore({ runId, key: { ...key, step: '' }, softDeleteOperationId: 'x' }),
    );
    t.deepEqual(twice.metadata['fields']?.split(',').toSorted(), ['key.step', 'soft_delete_operation_id']);
    t.is((await refusalOf(participant.purge({ runId, key }))).reason, 'REASON_REQUIRED');
  });

  test('a credential that nobody signed, and one without a tenant, are refused', async (t) => {
    const subject = open();
    const request = { runId: randomUUID() };
    t.is((await refusalOf(subject.forger().preview(request))).code, Code.Unauthenticated);
    const refusal = await refusalOf(subject.participant(undefined).preview(request));
    t.like(refusal, { code: Code.PermissionDenied, reason: 'TENANT_MISSING' });
  });

  for (const [what, code, changesOf] of WRONG_TOKENS) {
    test(`a token ${what} is refused in every RPC, and nothing changes`, async (t) => {
      const run = await seeded();
      const { subject, tenantId, runId } = run;
      const [before, found] = [await run.read(), await run.found()];
      const key = { operationId: randomUUID(), step: 'first' };
      const { action } = subject;
      const calls: Readonly<Record<keyof Participant, ((client: Participant) => Promise<unknown>) | undefined>> = {
        preview: (client) => client.preview({ runId }),
        // Nobody has to serve it.
        checkAction: undefined,
        execute: action && ((client) => client.execute({ key, runId, action: action.name, input: action.input })),
        compensate: (client) => client.compensate({ key: { ...key, operationId: runId }, runId }),
        softDelete: (client) => client.softDelete({ key, runId, reason: 'r' }),
        restore: (client) => client.restore({ key, runId, softDeleteOperationId: randomUUID() }),
        purge: (client) => client.purge({ key, runId, reason: 'r' }),
        verify: (client) => client.verify({ runId }),
      };
      for (const [method, call] of Object.entries(calls)) {
        const changes = changesOf(method as keyof Participant);
        if (!call || !changes) continue;
        const refusal = await refusalOf(call(subject.participant(tenantId, changes)));
        t.deepEqual([method, refusal.code], [method, code]);
      }
      t.deepEqual(await run.found(), found);
      t.deepEqual(await run.read(), before);
    });
  }

  if (open().hasEffects) {
    test('a compensation removes the effects of its step alone, hidden or not, and counts the same when it is repeated', async (t) => {
      const run = await seeded();
      const leftOf = async (ofStep: string) =>
        byType((await run.participant.verify({ runId: run.runId, step: ofStep })).resourceCounts);
      const second = await leftOf('second');
      t.true(Object.keys(second).length > 0);
      const counts = (await untilComplete(t, () => run.compensate('first'))).at(-1)?.resourceCounts ?? [];
      t.true(deletedOf(counts) > 0n);
      t.deepEqual(await leftOf('first'), {});
      t.deepEqual(await leftOf('second'), second);
      const again = await run.compensate('first');
      t.deepEqual([again.progress, again.resourceCounts], [Progress.COMPLETE, counts]);
      await untilComplete(t, () => run.softDelete(randomUUID()));
      await compensateAll(t, run, ['second', 'third']);
    });
  }

  const unfinishedTitle =
    'what still works forbids a soft delete and a purge before anything goes, and is compensated all the same';
  if (open().seedUnfinished) {
    test(unfinishedTitle, async (t) => {
      const run = await seeded('seedUnfinished');
      const [before, found] = [await run.read(), await run.found()];
      const { blockers } = await run.participant.preview({ runId: run.runId });
      t.true(blockers.length > 0 && blockers.length <= 100);
      for (const call of [() => run.softDelete(randomUUID()), () => run.purge(randomUUID())]) {
        t.like(await refusalOf(call()), { code: Code.FailedPrecondition, reason: blockers[0]?.reason });
      }
      t.deepEqual(await run.read(), before);
      t.deepEqual(await run.found(), found);
      if (run.subject.hasEffects) await compensateAll(t, run, STEPS);
    });
  }

  if (open().action) actionContract(test, open, newTenant);
}

/** The half of the contract that is for participants whose steps act. */
function actionContract(test: Declare, open: () => ParticipantUnderTest, newTenant: () => string): void {
  const acting = () => {
    const subject = open();
    const { action } = subject;
    if (!action) throw new Error('the participant has no action');
    const [tenantId, runId] = [newTenant(), randomUUID()];
    const participant = subject.participant(tenantId);
    const once = (ofStep: string, input = action.input) =>
      participant.execute({ key: { operationId: runId, step: ofStep }, runId, action: action.name, input });
    return {
      action,
      participant,
      once,
      runId,
      /** Repeats the call until it says COMPLETE. */
      async execute(ofStep: string, input = action.input) {
        for (let calls = 0; calls < MAX_CALLS; calls += 1) {
          const answer = await once(ofStep, input);
          if (answer.progress === Progress.COMPLETE) return answer;
        }
        throw new Error(`no COMPLETE in ${MAX_CALLS} calls`);
      },
      compensate: (ofStep: string) => participant.compensate({ key: { operationId: runId, step: ofStep }, runId }),
      softDelete: (operationId: string) => participant.softDelete({ key: { operationId, step }, runId, reason: 'r' }),
      restore: (operationId: string, softDeleteOperationId: string) =>
        participant.restore({ key: { operationId, step }, runId, softDeleteOperationId }),
      purge: (operationId: string) => participant.purge({ key: { operationId, step }, runId, reason: 'asked for' }),
      left: async (ofStep = '') => byType((await participant.verify({ runId, step: ofStep })).resourceCounts),
      remains: async () => (await subject.remains?.(tenantId, runId)) ?? [],
    };
  };

  test('an action is done once, however often and however many at once ask for it', async (t) => {
    const run = acting();
    const answers = await Promise.all(Array.from({ length: RACES }, () => run.execute('act')));
    const [first] = answers;
    t.true((first?.resourceCounts.length ?? 0) > 0);
    for (const { found } of first?.resourceCounts ?? []) t.true(found > 0n);
    for (const answer of answers) t.deepEqual(answer, first);
    const left = await run.left('act');
    t.true(Object.keys(left).length > 0, 'its effects carry the run and the step');
    const stored = await run.remains();
    t.deepEqual(await run.execute('act'), first);
    t.deepEqual(await run.left('act'), left);
    t.deepEqual(await run.left(), left);
    t.deepEqual(await run.remains(), stored);
  });

  test('a key that was used with another action or input is refused, and changes nothing', async (t) => {
    const run = acting();
    await run.execute('act');
    const left = await run.left();
    const refusal = await refusalOf(run.once('act', run.action.otherInput));
    t.like(refusal, { code: Code.InvalidArgument, reason: 'REQUEST_ID_REUSED' });
    const request = { key: { operationId: run.runId, step: 'other' }, runId: run.runId };
    t.is((await refusalOf(run.participant.execute({ ...request, action: 'no-such-action' }))).reason, 'FIELD_INVALID');
    t.deepEqual(await run.left(), left);
  });

  test('a compensation that comes first leaves a tombstone that refuses its action, and no other', async (t) => {
    const run = acting();
    const answers = await untilComplete(t, () => run.compensate('act'));
    t.is(deletedOf(answers.at(-1)?.resourceCounts ?? []), 0n);
    for (const input of [run.action.input, run.action.otherInput]) {
      const refusal = await refusalOf(run.once('act', input));
      t.like(refusal, { code: Code.FailedPrecondition, reason: 'STEP_COMPENSATED' });
    }
    t.deepEqual(await run.left(), {});
    await run.execute('another');
    t.true(Object.keys(await run.left('another')).length > 0);
  });

  test('no action is done while the run is hidden, also where nothing was there to hide; it is done once it is back', async (t) => {
    for (const isEmpty of [false, true]) {
      const run = acting();
      if (!isEmpty) await run.execute('act');
      const [left, stored] = [await run.left(), await run.remains()];
      const hiding = randomUUID();
      await untilComplete(t, () => run.softDelete(hiding));
      t.like(await refusalOf(run.once('late')), { code: Code.FailedPrecondition, reason: 'RUN_DELETED' });
      t.deepEqual([await run.left(), (await run.remains()).length], [left, stored.length]);
      await untilComplete(t, () => run.restore(randomUUID(), hiding));
      await run.execute('late');
      t.true(Object.keys(await run.left('late')).length > 0);
    }
  });

  test('once the run is purged no action is done any more, of a step that acted, of another, and of an empty run', async (t) => {
    for (const isEmpty of [false, true]) {
      const run = acting();
      if (!isEmpty) await run.execute('act');
      await untilComplete(t, () => run.purge(randomUUID()));
      for (const step of ['act', 'late']) {
        const refusal = await refusalOf(run.once(step));
        t.like(refusal, { code: Code.FailedPrecondition, reason: 'STEP_COMPENSATED' });
      }
      t.deepEqual(await run.left(), {});
      t.deepEqual(await run.remains(), []);
    }
  });

  // E acts, C compensates.
  for (const order of ['EECC', 'ECEC', 'ECCE', 'CECE', 'CEEC', 'CCEE']) {
    test(`action and compensation, both twice, in the order ${order}, leave nothing`, async (t) => {
      const run = acting();
      let compensated = false;
      for (const turn of order) {
        if (turn === 'C') {
          await untilComplete(t, () => run.compensate('act'));
          compensated = true;
        } else if (compensated) t.is((await refusalOf(run.once('act'))).reason, 'STEP_COMPENSATED');
        else await run.execute('act');
      }
      t.deepEqual(await run.left(), {});
      t.deepEqual(await run.remains(), []);
    });
  }

  test('an action and its compensation at once leave nothing, whoever is faster', async (t) => {
    const outcomes = await Promise.all(
      Array.from({ length: RACES }, async () => {
        const run = acting();
        await Promise.allSettled([run.execute('act'), run.execute('act'), run.compensate('act')]);
        await untilComplete(t, () => run.compensate('act'));
        const refusal = await refusalOf(run.once('act'));
        return [refusal.reason, await run.left(), await run.remains()];
      }),
    );
    t.deepEqual(outcomes, Array(RACES).fill(['STEP_COMPENSATED', {}, []]));
  });
}
