import { createServer, type Http2Session } from 'node:http2';
import { create } from '@bufbuild/protobuf';
import type { Duration } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type HandlerContext } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { freePort } from '#deploy/local/free-port.ts';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { Rule } from '#gen/lethe/owner/v1/owner_pb.ts';
import { type PurgeResponse, RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { parseDurationMs, parseTimestamp, toDuration, toTimestamp } from '#libs/grpc/timestamp.ts';

/** One row that ages; null has no instant. */
interface AgingRow {
  readonly id: number;
  readonly at: Temporal.Instant | null;
}

/** What a subject of a memory owner looks like. */
export interface MemorySubject {
  readonly name: string;
  readonly resourceType: string;
  readonly hasFloor?: boolean;
  /** Absent: `NAME.at`. */
  readonly ageOf?: string;
  readonly dependentTypes?: readonly string[];
}

/** One call that the owner was sent, as its token and request say. */
export interface OwnerCallSeen {
  readonly rpc: 'listSubjects' | 'listTenants' | 'count' | 'purge' | 'end';
  readonly tenantId: string;
  readonly subject: string;
  readonly operationId: string;
  readonly days: number;
  readonly maxRows: number | undefined;
  /** How long the call may work. */
  readonly budgetMs: number;
  readonly pageToken: string;
  readonly claims: Readonly<Record<string, unknown>>;
}

type Extra = Partial<Pick<PurgeResponse, 'retryDelay' | 'waits' | 'blockers' | 'progress' | 'resourceCounts'>> & {
  readonly nextPageToken?: string;
};

/** An owner of aging data in memory, over real gRPC and with none of Lethe's code behind it. */
export interface MemoryOwner {
  readonly address: string;
  /** Which data set it says it holds. */
  dataId: string;
  subjects: readonly MemorySubject[];
  /** How many rows a call to Purge removes at most, and a call to Count or End walks. */
  rowsPerCall: number;
  readonly calls: OwnerCallSeen[];
  /**
   * Called before each call is carried out; what it throws is answered, what it resolves to is laid over Purge's
   * answer, its counts over End's, and its token over that of ListSubjects.
   */
  onCall: (call: OwnerCallSeen) => Promise<Extra | undefined> | Extra | undefined;
  /** Called when a call to Purge has been carried out and is not answered yet. */
  afterPurge: (call: OwnerCallSeen) => Promise<void> | void;
  /** Adds rows of these ages in days. */
  add(tenantId: string, subject: string, ages: readonly (number | null)[]): void;
  countOf(tenantId: string, subject: string): number;
  /** How many rows of the tenant were ever removed. */
  removedOf(tenantId: string, subject: string): number;
  /** Takes the service off the network, and back on the same port. */
  down(): Promise<void>;
  up(): Promise<void>;
  close(): Promise<void>;
}

interface Operation {
  cutoff: Temporal.Instant;
  rule: Rule | undefined;
  deleted: number;
  hasEnded: boolean;
}

const MS_PER_DAY = 86_400_000;

/** Starts it on a free port. */
export async function startMemoryOwner(subjects: readonly MemorySubject[], dataId: string): Promise<MemoryOwner> {
  const rows = new Map<string, AgingRow[]>();
  const removed = new Map<string, number>();
  const operations = new Map<string, Operation>();
  let lastId = 0;

  const rowsOf = (tenantId: string, subject: string): AgingRow[] => rows.get(`${tenantId}/${subject}`) ?? [];
  const subjectOf = (subject: string): MemorySubject => {
    const found = owner.subjects.find(({ name }) => name === subject);
    if (!found) throw refusal(Code.NotFound, 'SUBJECT_NOT_FOUND');
    return found;
  };
  const typeOf = (subject: string): string => subjectOf(subject).resourceType;
  const assertRule = ({ subject, minToKeep }: Rule): void => {
    const { hasFloor = false } = subjectOf(subject);
    if (minToKeep !== 0n && !hasFloor) throw refusal(Code.InvalidArgument, 'FIELD_INVALID');
  };
  /** Expired rows, oldest first. */
  const expired = (tenantId: string, rule: Rule, cutoff: Temporal.Instant): AgingRow[] =>
    rowsOf(tenantId, rule.subject)
      .filter((row): row is AgingRow & { at: Temporal.Instant } => row.at !== null)
      .toSorted((a, b) => Temporal.Instant.compare(b.at, a.at) || b.id - a.id)
      .slice(Number(rule.minToKeep))
      .filter(({ at }) => Temporal.Instant.compare(at, cutoff) < 0)
      .toReversed();
  const cutoffOf = (rule: Rule): Temporal.Instant => {
    const byWindow = microseconds(Temporal.Now.instant().subtract({ hours: rule.retentionDays * 24 }));
    const given = parseTimestamp('cutoff_time', rule.cutoffTime);
    if (given && Temporal.Instant.compare(given, byWindow) > 0)
      throw refusal(Code.FailedPrecondition, 'CUTOFF_TOO_LATE');
    const cutoff = given ?? byWindow;
    const latest = parseTimestamp('latest_cutoff_time', rule.latestCutoffTime);
    if (!latest) throw refusal(Code.InvalidArgument, 'FIELD_INVALID');
    if (Temporal.Instant.compare(cutoff, latest.add({ minutes: 1 })) > 0) {
      throw refusal(Code.FailedPrecondition, 'CLOCKS_DISAGREE');
    }
    return cutoff;
  };
  const countsOf = (subject: string, deleted: number, left: number) => [
    { resourceType: typeOf(subject), found: BigInt(deleted + left), deleted: BigInt(deleted), left: BigInt(left) },
  ];

  const seen = async (
    rpc: OwnerCallSeen['rpc'],
    context: HandlerContext,
    request: {
      rule?: Rule | undefined;
      subject?: string;
      operationId?: string;
      dataId?: string;
      timeBudget?: Duration | undefined;
      pageToken?: string;
    },
  ): Promise<{ call: OwnerCallSeen; extra: Extra }> => {
    const token = context.requestHeader.get('authorization')?.split(' ')[1]?.split('.')[1] ?? '';
    const claims = JSON.parse(Buffer.from(token, 'base64url').toString('utf8')) as Record<string, unknown>;
    const call: OwnerCallSeen = {
      rpc,
      tenantId: String(claims['tenant'] ?? ''),
      subject: request.rule?.subject ?? request.subject ?? '',
      operationId: request.operationId ?? '',
      days: request.rule?.retentionDays ?? 0,
      maxRows: request.rule?.maxRows === undefined ? undefined : Number(request.rule.maxRows),
      budgetMs: parseDurationMs('time_budget', request.timeBudget) ?? 0,
      pageToken: request.pageToken ?? '',
      claims,
    };
    owner.calls.push(call);
    if (request.dataId && request.dataId !== owner.dataId) throw refusal(Code.FailedPrecondition, 'OWNER_CHANGED');
    return { call, extra: (await owner.onCall(call)) ?? {} };
  };

  const handler = connectNodeAdapter({
    routes: (router) =>
      router.service(RetentionOwnerService, {
        async listSubjects(_, context) {
          const { extra } = await seen('listSubjects', context, {});
          return {
            dataId: owner.dataId,
            contract: 1,
            nextPageToken: extra.nextPageToken ?? '',
            subjects: owner.subjects.map(
              ({ name, resourceType, hasFloor = false, ageOf = `${name}.at`, dependentTypes = [] }) => ({
                name,
                resourceType,
                hasFloor,
                ageOf,
                dependentTypes: [...dependentTypes],
              }),
            ),
          };
        },
        async listTenants(request, context) {
          await seen('listTenants', context, request);
          typeOf(request.subject);
          const tenants = [...rows]
            .filter(([key, own]) => key.endsWith(`/${request.subject}`) && own.length > 0)
            .map(([key]) => key.split('/')[0] ?? '')
            .toSorted()
            .filter((tenantId) => tenantId > request.pageToken);
          const page = tenants.slice(0, Math.min(request.pageSize || 1_000, owner.rowsPerCall));
          return { tenantIds: page, nextPageToken: page.length < tenants.length ? (page.at(-1) ?? '') : '' };
        },
        async count(request, context) {
          const { call } = await seen('count', context, request);
          const rule = request.rule ?? never();
          assertRule(rule);
          const cutoff = cutoffOf(rule);
          const gone = expired(call.tenantId, rule, cutoff);
          const all = rowsOf(call.tenantId, rule.subject);
          const others = all.length - gone.length;
          const done = Number(Buffer.from(request.cursor).toString('utf8') || '0');
          const wanted = Math.max(gone.length - done, Math.min(Number(request.upTo), gone.length + others - done));
          const walked = Math.min(wanted, owner.rowsPerCall);
          const expiredCount = Math.max(0, Math.min(done + walked, gone.length) - Math.min(done, gone.length));
          const isOver = walked === wanted;
          return {
            progress: isOver ? Progress.COMPLETE : Progress.PARTIAL,
            cursor: Buffer.from(isOver ? '' : String(done + walked)),
            expiredCount: BigInt(expiredCount),
            remainingCount: BigInt(walked - expiredCount),
            cutoffTime: toTimestamp(cutoff),
          };
        },
        async purge(request, context) {
          const { call, extra } = await seen('purge', context, request);
          const rule = request.rule ?? never();
          assertRule(rule);
          const key = `${call.tenantId}/${rule.subject}/${request.operationId}`;
          const operation = operations.get(key) ?? { cutoff: cutoffOf(rule), rule, deleted: 0, hasEnded: false };
          if (operation.hasEnded) throw refusal(Code.FailedPrecondition, 'OPERATION_ENDED');
          if (differs(operation.rule, rule)) throw refusal(Code.InvalidArgument, 'REQUEST_ID_REUSED');
          operations.set(key, operation);
          const spare = rule.maxRows === undefined ? Infinity : Number(rule.maxRows) - operation.deleted;
          const gone = expired(call.tenantId, rule, operation.cutoff);
          const batch = gone.slice(0, Math.min(owner.rowsPerCall, request.limit || 10_000, spare));
          if (extra.blockers === undefined && extra.retryDelay === undefined) {
            const ids = new Set(batch.map(({ id }) => id));
            const table = `${call.tenantId}/${rule.subject}`;
            rows.set(
              table,
              rowsOf(call.tenantId, rule.subject).filter(({ id }) => !ids.has(id)),
            );
            removed.set(table, (removed.get(table) ?? 0) + batch.length);
            operation.deleted += batch.length;
          }
          const left = expired(call.tenantId, rule, operation.cutoff).length;
          const isOver = left === 0 || (rule.maxRows !== undefined && operation.deleted >= Number(rule.maxRows));
          await owner.afterPurge(call);
          return {
            progress: isOver ? Progress.COMPLETE : Progress.PARTIAL,
            resourceCounts: countsOf(rule.subject, operation.deleted, left),
            cutoffTime: toTimestamp(operation.cutoff),
            ...extra,
          };
        },
        async end(request, context) {
          const { call, extra } = await seen('end', context, request);
          typeOf(request.subject);
          const key = `${call.tenantId}/${request.subject}/${request.operationId}`;
          const known = operations.get(key);
          const operation = known ?? { cutoff: Temporal.Now.instant(), rule: undefined, deleted: 0, hasEnded: true };
          operation.hasEnded = true;
          operations.set(key, operation);
          const left = operation.rule ? expired(call.tenantId, operation.rule, operation.cutoff).length : 0;
          const done = Number(Buffer.from(request.cursor).toString('utf8') || '0');
          const walked = Math.min(left - done, owner.rowsPerCall);
          const isOver = done + walked >= left;
          return {
            progress: isOver ? Progress.COMPLETE : Progress.PARTIAL,
            cursor: Buffer.from(isOver ? '' : String(done + walked)),
            resourceCounts: extra.resourceCounts ?? countsOf(request.subject, operation.deleted, walked),
            ...(operation.rule ? { cutoffTime: toTimestamp(operation.cutoff) } : {}),
          };
        },
      }),
  });

  const port = await freePort();
  let server = createServer(handler);
  let sessions = new Set<Http2Session>();
  const up = (): Promise<void> =>
    new Promise((resolve, reject) => {
      server = createServer(handler);
      sessions = new Set();
      server.on('session', (session) => sessions.add(session));
      server.once('error', reject);
      server.listen(port, '127.0.0.1', resolve);
    });
  const down = (): Promise<void> =>
    new Promise((resolve) => {
      for (const session of sessions) session.destroy();
      server.close(() => resolve());
    });

  const owner: MemoryOwner = {
    address: `127.0.0.1:${port}`,
    dataId,
    subjects,
    rowsPerCall: 1_000,
    calls: [],
    onCall: () => undefined,
    afterPurge: () => undefined,
    add(tenantId, subject, ages) {
      const key = `${tenantId}/${subject}`;
      const now = Temporal.Now.instant();
      const added = ages.map((age): AgingRow => {
        lastId += 1;
        return { id: lastId, at: age === null ? null : now.subtract({ milliseconds: Math.round(age * MS_PER_DAY) }) };
      });
      rows.set(key, [...rowsOf(tenantId, subject), ...added]);
    },
    countOf: (tenantId, subject) => rowsOf(tenantId, subject).length,
    removedOf: (tenantId, subject) => removed.get(`${tenantId}/${subject}`) ?? 0,
    up,
    down,
    close: down,
  };
  await up();
  return owner;
}

/** A duration of the contract. */
export const seconds = (count: number) => toDuration(count * 1_000);

/** An error as an owner answers it. */
export const refusal = (code: Code, reason: string): ConnectError =>
  new ConnectError(reason, code, undefined, [
    { desc: ErrorInfoSchema, value: create(ErrorInfoSchema, { reason, domain: 'x' }) },
  ]);

const never = (): never => {
  throw refusal(Code.InvalidArgument, 'FIELD_INVALID');
};

const microseconds = (instant: Temporal.Instant): Temporal.Instant =>
  instant.round({ smallestUnit: 'microsecond', roundingMode: 'floor' });

/** Whether a rule is another one; the caller's clock moves on from call to call. */
function differs(a: Rule | undefined, b: Rule): boolean {
  const told = (rule: Rule | undefined) =>
    JSON.stringify([
      rule?.subject,
      rule?.retentionDays,
      rule?.cutoffTime?.seconds.toString(),
      rule?.cutoffTime?.nanos,
      rule?.minToKeep.toString(),
      rule?.maxRows?.toString(),
      rule?.staleAfterDays,
    ]);
  return told(a) !== told(b);
}
