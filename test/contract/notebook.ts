import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient, createRouterTransport, type HandlerContext } from '@connectrpc/connect';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { Progress, type ResourceCountSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type OperationKey, OperationKeySchema } from '#gen/lethe/participant/v1/participant_pb.ts';
import { ParticipantService, type VerifyRequest } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import type { CalleeToken } from '#test/support/callee-token.ts';
import { clientWithTokens, PARTICIPANT_SCOPES } from '#test/support/participant-clients.ts';
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
  'repeats-its-cursor',
  'goes-back-to-an-earlier-part',
  'skips-a-part',
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
  'counts-a-call-alone',
  'purges-only-what-is-seen',
  'acts-while-hidden',
  'acts-in-an-empty-run-while-it-is-hidden',
  'acts-after-a-purge',
  'believes-anybody',
  'believes-any-issuer',
  'believes-any-audience',
  'believes-old-tokens',
  'believes-long-tokens',
  'ignores-the-role',
  'ignores-the-scope',
  'ignores-the-acting-service',
  'ignores-the-run-of-the-token',
  'ignores-the-operation-of-the-token',
  'ignores-the-step-of-the-token',
  'needs-no-tenant',
  'needs-no-reason',
  'names-one-bad-field',
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

interface Call {
  readonly method: keyof Participant;
  readonly runId: string;
  readonly key: OperationKey | undefined;
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
  const hidden = new Map<string, string>();
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
  /** One note a call where the caller has set a time, and all of them otherwise. */
  const partOf = (found: readonly Note[], { timeBudget, cursor }: Pick<VerifyRequest, 'timeBudget' | 'cursor'>) => {
    const at = Number(new TextDecoder().decode(cursor));
    if (timeBudget === undefined) return { part: found.slice(at), cursor: new Uint8Array() };
    const next = at + (is('skips-a-part') ? 2 : 1);
    const place = is('repeats-its-cursor') ? Math.min(next, 1) : is('goes-back-to-an-earlier-part') ? next % 2 : next;
    return {
      part: found.slice(at, at + 1),
      cursor: next < found.length ? new TextEncoder().encode(`${place}`) : new Uint8Array(),
    };
  };
  const answer = (
    { found, deleted }: Pick<Served, 'found' | 'deleted'>,
    progress: 'PARTIAL' | 'COMPLETE' = 'COMPLETE',
  ) => ({
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

  /** Throws unless the token was made for this call; the tenant in it. */
  const admit = (context: HandlerContext, call: Call): string => {
    const token = JSON.parse(context.requestHeader.get('x-token') ?? 'null') as CalleeToken | null;
    if (is('believes-anybody')) return token?.tenantId ?? 'acme';
    const expired = token && token.issuedSecondsAgo >= token.lifetimeSeconds;
    const isGenuine =
      token?.signature === 'good' &&
      (token.issuer === undefined || token.issuer === 'lethe' || is('believes-any-issuer')) &&
      (token.audience === 'own' || is('believes-any-audience')) &&
      (!expired || is('believes-old-tokens')) &&
      (token.lifetimeSeconds <= 60 || is('believes-long-tokens'));
    if (!token || !isGenuine) throw refusal(Code.Unauthenticated, 'TOKEN_INVALID');
    const denied = (reason: string) => refusal(Code.PermissionDenied, reason);
    if (token.scope !== PARTICIPANT_SCOPES[call.method] && !is('ignores-the-scope')) throw denied('SCOPE_MISSING');
    if (token.role !== 'service' && !is('ignores-the-role')) throw denied('ROLE_TOO_LOW');
    if (token.actingService !== 'service:run' && !is('ignores-the-acting-service')) throw denied('ROLE_TOO_LOW');
    if (token.tenantId === undefined && !is('needs-no-tenant')) throw denied('TENANT_MISSING');
    const differs =
      (call.runId && token.runId !== call.runId && !is('ignores-the-run-of-the-token')) ||
      (call.key?.operationId &&
        token.operationId !== call.key.operationId &&
        !is('ignores-the-operation-of-the-token')) ||
      (call.key?.step && token.step !== call.key.step && !is('ignores-the-step-of-the-token'));
    if (differs) throw denied('TOKEN_MISMATCH');
    return token.tenantId ?? 'acme';
  };

  /** The tenant in the token, once token and fields are checked. */
  const tenantOf = (
    context: HandlerContext,
    method: Call['method'],
    fields: Readonly<Record<string, string | undefined>>,
    key?: OperationKey,
    more: readonly (string | false)[] = [],
  ): string => {
    const tenantId = admit(context, { method, runId: fields['run_id'] ?? '', key });
    if (is('checks-nothing')) return tenantId;
    const ids = key ? { ...fields, 'key.operation_id': key.operationId } : fields;
    const bad = Object.entries(ids).flatMap(([name, value = '']) => (UUID.test(value) ? [] : [name]));
    if (key && (key.step === '' || key.step.length > 100)) bad.push('key.step');
    bad.push(...more.filter((name) => name !== false));
    const named = is('names-one-bad-field') ? bad.slice(0, 1) : bad;
    if (bad.length > 0) throw refusal(Code.InvalidArgument, 'FIELD_INVALID', { fields: named.join(',') });
    return tenantId;
  };

  const transport = createRouterTransport(({ service }) => {
    service(ParticipantService, {
      preview({ runId, ...look }, context) {
        const found = ofRun(tenantOf(context, 'preview', { run_id: runId }), runId);
        const taken = is('previews-only-what-is-seen') ? found.filter(({ hiddenBy }) => !hiddenBy) : found;
        const { part, cursor } = partOf(taken, look);
        return {
          cursor,
          resourceCounts: counts(part.length, 0),
          blockers: found.filter(({ working }) => working).map(() => ({ reason: 'NOTE_IN_USE', resourceType: TYPE })),
          samples: found.map(({ step }) => ({ resourceType: TYPE, resourceId: step })),
        };
      },
      softDelete({ key = noKey, runId }, context) {
        const tenantId = tenantOf(context, 'softDelete', { run_id: runId }, key);
        if (restored.has(key.operationId)) return answer({ found: 0, deleted: 0 });
        assertNoPurge(tenantId, runId);
        const found = ofRun(tenantId, runId).filter(({ hiddenBy }) => !hiddenBy);
        assertFinished(found);
        const isEmpty = ofRun(tenantId, runId).length === 0;
        if (!(isEmpty && is('acts-in-an-empty-run-while-it-is-hidden')))
          hidden.set(`${tenantId}/${runId}`, key.operationId);
        for (const note of is('hides-nothing') ? [] : found) note.hiddenBy = key.operationId;
        const now = remember(tenantId, 'hide', key);
        now.found += found.length;
        now.deleted += found.length;
        return answer(now);
      },
      restore({ key = noKey, runId, softDeleteOperationId: hiding }, context) {
        const tenantId = tenantOf(context, 'restore', { run_id: runId, soft_delete_operation_id: hiding }, key);
        assertNoPurge(tenantId, runId);
        const found = ofRun(tenantId, runId).filter(
          ({ hiddenBy }) => hiddenBy === hiding || (is('restores-everything') && hiddenBy),
        );
        for (const note of is('hides-for-ever') ? [] : found) note.hiddenBy = undefined;
        if (!is('restores-without-a-tombstone')) restored.add(hiding);
        if (hidden.get(`${tenantId}/${runId}`) === hiding) hidden.delete(`${tenantId}/${runId}`);
        const now = remember(tenantId, 'restore', key);
        now.found += found.length;
        now.deleted += found.length;
        return answer(now);
      },
      purge({ key = noKey, runId, limit, reason }, context) {
        const badLimit = (limit < 0 || limit > 100_000) && 'limit';
        const tenantId = tenantOf(context, 'purge', { run_id: runId }, key, [badLimit]);
        if (reason === '' && !is('checks-nothing') && !is('needs-no-reason'))
          throw refusal(Code.InvalidArgument, 'REASON_REQUIRED');
        const all = ofRun(tenantId, runId);
        const found = is('purges-only-what-is-seen') ? all.filter(({ hiddenBy }) => !hiddenBy) : all;
        if (!is('purges-what-works')) assertFinished(found);
        purged.set(`${tenantId}/${runId}`, key.operationId);
        const gone = found.slice(0, is('ignores-the-limit') ? undefined : limit || 10_000);
        remove(gone);
        const now = remember(tenantId, 'purge', key);
        now.found = Math.max(now.found, now.deleted + found.length);
        now.deleted += gone.length;
        const told = is('counts-a-call-alone') ? { found: gone.length, deleted: gone.length } : now;
        return answer(told, gone.length < found.length ? 'PARTIAL' : 'COMPLETE');
      },
      verify({ runId, step, ...look }, context) {
        const left = ofRun(tenantOf(context, 'verify', { run_id: runId }), runId, step);
        const { part, cursor } = partOf(left, look);
        return { cursor, resourceCounts: counts(is('verifies-from-memory') ? 0 : part.length, 0) };
      },
      execute({ key = noKey, runId, action, input = {} }, context) {
        const tenantId = tenantOf(context, 'execute', { run_id: runId }, key);
        if (action !== 'take-note') throw refusal(Code.InvalidArgument, 'FIELD_INVALID', { fields: 'action' });
        const id = `${tenantId}/${runId}/${key.step}`;
        const isPurged = purged.has(`${tenantId}/${runId}`) && !is('acts-after-a-purge');
        if (compensated.has(id) || isPurged) throw refusal(Code.FailedPrecondition, 'STEP_COMPENSATED');
        if (hidden.has(`${tenantId}/${runId}`) && !is('acts-while-hidden'))
          throw refusal(Code.FailedPrecondition, 'RUN_DELETED');
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
        const tenantId = tenantOf(context, 'compensate', { run_id: runId }, key);
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

  const clientWith = (token: CalleeToken | undefined): Participant =>
    createClient(ParticipantService, {
      unary: (method, signal, timeoutMs, header, ...rest) =>
        transport.unary(
          method,
          signal,
          timeoutMs,
          { ...Object.fromEntries(new Headers(header)), ...(token ? { 'x-token': JSON.stringify(token) } : {}) },
          ...rest,
        ),
      stream: transport.stream.bind(transport),
    });
  const write = (tenantId: string, runId: string, steps: readonly string[], working: boolean): void => {
    for (const step of steps) notes.push({ tenantId, runId, step, working, hiddenBy: undefined });
  };
  return {
    participant: (tenantId, changes) => clientWithTokens(clientWith, tenantId, changes),
    forger: () => clientWith(undefined),
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
