import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient, createRouterTransport } from '@connectrpc/connect';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { Progress, type ResourceCountSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type OperationKey, OperationKeySchema } from '#gen/lethe/participant/v1/participant_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import type { Participant, ParticipantUnderTest } from './participant.ts';

/** What a participant can get wrong; each is a promise of the contract that a service has broken somewhere before. */
export const FAULTS = [
  'forgets-keys',
  'keeps-one',
  'verifies-from-memory',
  'ignores-the-tenant',
  'ignores-the-run',
  'ignores-the-limit',
  'never-completes',
  'previews-only-what-is-seen',
  'hides-nothing',
  'hides-for-ever',
  'restores-everything',
  'restores-without-a-tombstone',
  'hides-while-purging',
  'purges-what-works',
  'acts-twice',
  'acts-on-any-input',
  'compensates-the-whole-run',
  'compensates-without-a-tombstone',
  'compensates-only-what-is-seen',
  'believes-anybody',
  'checks-nothing',
] as const;

/** One of FAULTS. */
export type Fault = (typeof FAULTS)[number];

interface Note {
  readonly tenantId: string;
  readonly runId: string;
  readonly step: string;
  readonly working: boolean;
  hiddenBy: string | undefined;
}

interface Served {
  readonly kind: string;
  found: number;
  deleted: number;
}

const UUID = /^[0-9a-f-]{36}$/;
const TYPE = 'note';

/** A service that keeps notes on the steps of runs, in memory: right, or with one fault. */
export function makeNotebook(fault?: Fault): ParticipantUnderTest {
  const is = (name: Fault): boolean => fault === name;
  let notes: Note[] = [];
  const served = new Map<string, Served>();
  const restored = new Set<string>();
  const purged = new Map<string, string>();
  const compensated = new Set<string>();
  const acted = new Map<string, string>();

  const ofRun = (tenantId: string, runId: string, step = ''): Note[] =>
    notes.filter(
      (note) =>
        (is('ignores-the-tenant') || note.tenantId === tenantId) &&
        (is('ignores-the-run') ? note.tenantId === tenantId : note.runId === runId) &&
        (step === '' || note.step === step),
    );
  const remove = (gone: readonly Note[]): void => {
    const kept = is('keeps-one') ? gone.slice(1) : gone;
    notes = notes.filter((note) => !kept.includes(note));
  };
  const remember = (tenantId: string, kind: string, key: OperationKey): Served => {
    const id = [tenantId, kind, key.operationId, key.step].join('/');
    const known = is('forgets-keys') ? undefined : served.get(id);
    const now = known ?? { kind, found: 0, deleted: 0 };
    served.set(id, now);
    return now;
  };
  const counts = (found: number, deleted: number): MessageInitShape<typeof ResourceCountSchema>[] =>
    found === 0
      ? []
      : [{ resourceType: TYPE, found: BigInt(found), deleted: BigInt(deleted), left: BigInt(found - deleted) }];
  const answer = ({ found, deleted }: Served, progress: 'PARTIAL' | 'COMPLETE' = 'COMPLETE') => ({
    progress: Progress[is('never-completes') ? 'PARTIAL' : progress],
    resourceCounts: counts(found, deleted),
  });
  const assertNoPurge = (tenantId: string, runId: string): void => {
    const purge = purged.get(`${tenantId}/${runId}`);
    if (purge !== undefined && !is('hides-while-purging')) throw refusal(Code.Aborted, 'OPERATION_IN_PROGRESS');
  };
  const assertFinished = (found: readonly Note[]): void => {
    if (found.some(({ working }) => working)) throw refusal(Code.FailedPrecondition, 'NOTE_IN_USE');
  };

  /** The tenant in the credential, with the fields checked. */
  const tenantOf = (
    context: { readonly requestHeader: Headers },
    fields: Readonly<Record<string, string | undefined>>,
    key?: OperationKey,
  ): string => {
    const tenantId = context.requestHeader.get('x-tenant') ?? '';
    if (!is('believes-anybody')) {
      if (context.requestHeader.get('x-signed') === null) throw refusal(Code.Unauthenticated, 'TOKEN_INVALID');
      if (tenantId === '') throw refusal(Code.PermissionDenied, 'TENANT_MISSING');
    }
    if (is('checks-nothing')) return tenantId;
    const ids = key ? { ...fields, 'key.operation_id': key.operationId } : fields;
    const bad = Object.entries(ids).flatMap(([name, value = '']) => (UUID.test(value) ? [] : [name]));
    if (key && (key.step === '' || key.step.length > 100)) bad.push('key.step');
    if (bad.length > 0) throw refusal(Code.InvalidArgument, 'FIELD_INVALID', { fields: bad.join(',') });
    return tenantId;
  };

  const transport = createRouterTransport(({ service }) => {
    service(ParticipantService, {
      preview({ runId }, context) {
        const found = ofRun(tenantOf(context, { run_id: runId }), runId);
        const taken = is('previews-only-what-is-seen') ? found.filter(({ hiddenBy }) => !hiddenBy) : found;
        return {
          resourceCounts: counts(taken.length, 0),
          blockers: found.filter(({ working }) => working).map(() => ({ reason: 'NOTE_IN_USE', resourceType: TYPE })),
          samples: found.map(({ step }) => ({ resourceType: TYPE, resourceId: step })),
        };
      },
      softDelete({ key = noKey, runId }, context) {
        const tenantId = tenantOf(context, { run_id: runId }, key);
        if (restored.has(key.operationId)) return answer({ kind: '', found: 0, deleted: 0 });
        assertNoPurge(tenantId, runId);
        const found = ofRun(tenantId, runId).filter(({ hiddenBy }) => !hiddenBy);
        assertFinished(found);
        for (const note of is('hides-nothing') ? [] : found) note.hiddenBy = key.operationId;
        const now = remember(tenantId, 'hide', key);
        now.found += found.length;
        now.deleted += found.length;
        return answer(now);
      },
      restore({ key = noKey, runId, softDeleteOperationId: hiding }, context) {
        const tenantId = tenantOf(context, { run_id: runId, soft_delete_operation_id: hiding }, key);
        assertNoPurge(tenantId, runId);
        const found = ofRun(tenantId, runId).filter(
          ({ hiddenBy }) => hiddenBy === hiding || (is('restores-everything') && hiddenBy),
        );
        for (const note of is('hides-for-ever') ? [] : found) note.hiddenBy = undefined;
        if (!is('restores-without-a-tombstone')) restored.add(hiding);
        const now = remember(tenantId, 'restore', key);
        now.found += found.length;
        now.deleted += found.length;
        return answer(now);
      },
      purge({ key = noKey, runId, limit, reason }, context) {
        const tenantId = tenantOf(context, { run_id: runId }, key);
        if (!is('checks-nothing')) {
          if (limit < 0 || limit > 100_000) throw refusal(Code.InvalidArgument, 'FIELD_INVALID', { fields: 'limit' });
          if (reason === '') throw refusal(Code.InvalidArgument, 'REASON_REQUIRED');
        }
        const found = ofRun(tenantId, runId);
        if (!is('purges-what-works')) assertFinished(found);
        purged.set(`${tenantId}/${runId}`, key.operationId);
        const gone = found.slice(0, is('ignores-the-limit') ? undefined : limit || 10_000);
        remove(gone);
        const now = remember(tenantId, 'purge', key);
        now.found = Math.max(now.found, now.deleted + found.length);
        now.deleted += gone.length;
        return answer(now, gone.length < found.length ? 'PARTIAL' : 'COMPLETE');
      },
      verify({ runId, step }, context) {
        const left = ofRun(tenantOf(context, { run_id: runId }), runId, step);
        return { resourceCounts: counts(is('verifies-from-memory') ? 0 : left.length, 0) };
      },
      execute({ key = noKey, runId, action, input = {} }, context) {
        const tenantId = tenantOf(context, { run_id: runId }, key);
        if (action !== 'take-note') throw refusal(Code.InvalidArgument, 'FIELD_INVALID', { fields: 'action' });
        const id = `${tenantId}/${runId}/${key.step}`;
        if (compensated.has(id)) throw refusal(Code.FailedPrecondition, 'STEP_COMPENSATED');
        const asked = JSON.stringify(input);
        const known = acted.get(id);
        if (known !== undefined && known !== asked && !is('acts-on-any-input'))
          throw refusal(Code.InvalidArgument, 'REQUEST_ID_REUSED');
        acted.set(id, asked);
        if (known === undefined || is('acts-twice'))
          notes.push({ tenantId, runId, step: key.step, working: false, hiddenBy: undefined });
        return { progress: Progress.COMPLETE, output: { step: key.step }, resourceCounts: counts(1, 0) };
      },
      compensate({ key = noKey, runId }, context) {
        const tenantId = tenantOf(context, { run_id: runId }, key);
        if (!is('compensates-without-a-tombstone')) compensated.add(`${tenantId}/${runId}/${key.step}`);
        const found = ofRun(tenantId, runId, is('compensates-the-whole-run') ? '' : key.step);
        const gone = is('compensates-only-what-is-seen') ? found.filter(({ hiddenBy }) => !hiddenBy) : found;
        remove(gone);
        const now = remember(tenantId, 'compensate', key);
        now.found += gone.length;
        now.deleted += gone.length;
        return answer(now);
      },
    });
  });

  const clientWith = (headers: Readonly<Record<string, string>>): Participant =>
    createClient(ParticipantService, {
      unary: (method, signal, timeoutMs, header, ...rest) =>
        transport.unary(method, signal, timeoutMs, { ...Object.fromEntries(new Headers(header)), ...headers }, ...rest),
      stream: transport.stream.bind(transport),
    });
  const write = (tenantId: string, runId: string, steps: readonly string[], working: boolean): void => {
    for (const step of steps) notes.push({ tenantId, runId, step, working, hiddenBy: undefined });
  };
  return {
    participant: (tenantId) => clientWith({ 'x-signed': 'yes', ...(tenantId ? { 'x-tenant': tenantId } : {}) }),
    forger: () => clientWith({ 'x-tenant': 'acme' }),
    hasEffects: true,
    seed: async (tenantId, runId, steps) => write(tenantId, runId, steps, false),
    seedUnfinished: async (tenantId, runId, steps) => write(tenantId, runId, steps, true),
    read: async (tenantId, runId) =>
      notes
        .filter((note) => note.tenantId === tenantId && note.runId === runId && !note.hiddenBy)
        .map(({ step }) => step),
    action: { name: 'take-note', input: { text: 'a' }, otherInput: { text: 'b' } },
  };
}

const noKey = create(OperationKeySchema);

const refusal = (code: Code, reason: string, metadata: Record<string, string> = {}): ConnectError =>
  new ConnectError(reason, code, undefined, [
    { desc: ErrorInfoSchema, value: { reason, domain: 'notebook', metadata } },
  ]);
