import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { Progress, type ResourceCount as ResourceCountMessage } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import type { OwnerCredential } from '#libs/auth/sign-token.ts';
import { type Connection, reasonOf, toPeerError } from '#libs/grpc/client.ts';
import { optional, toOptionalBigInt } from '#libs/grpc/optional.ts';
import { parseDurationMs, parseTimestamp, toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { isTenantId } from '#libs/kernel/id.ts';
import type { ListedSubject } from '../../domain/catalogue.ts';
import type { ResourceCount } from '../../domain/counts.ts';
import { assertGoesOn } from '../../domain/owner-stalled.ts';
import type { OperationRule } from '../../domain/purge-subject.ts';
import type { OwnerCall, RetentionOwners } from '../../use-cases/purge-ports.ts';

/** How owners are called. */
export interface OwnerClientOptions {
  /** By the owner's name. */
  readonly connections: ReadonlyMap<string, Connection>;
  readonly credential: OwnerCredential;
  readonly rowsPerCall: number;
  /** How long an answer is waited for, in milliseconds. */
  readonly timeoutMs: number;
}

// No call is long: a replica that is to stop waits for the one under way, and a raised plan counts from the next on.
const MOST_BUDGET_MS = 5_000;
// An owner may take a second or so more than its budget, and its answer has to come in time.
const BUDGET_SHARE = 0.25;
const CONTRACT = 1;
const SUBJECTS_PER_PAGE = 200;
const TENANTS_PER_PAGE = 1_000;
const MOST_SUBJECTS = 1_000;
const READER = 'service:retention';
const DAY_HOURS = 24;
const SUBJECT_NAME = /^[a-z][a-z0-9_]{0,62}$/;
const REASON = /^[A-Z][A-Z0-9_]{0,62}$/;

// What an owner may say in its own words, so that a row of the catalogue and a receipt always hold it.
const MAX_DATA_ID = 100;
const MAX_TYPE = 100;
const MAX_DEPENDENT_TYPES = 99;
const MAX_AGE_OF = 500;
const MAX_WAITS = 100;
const MAX_CAUSE = 100;
const MAX_BLOCKERS = 10;
const MAX_REASON = 100;
const MAX_MESSAGE = 500;
const MAX_PAGE_TOKEN = 10_000;

/** The owners over gRPC: one client each, and a token for each call. */
export function makeOwnerClients(options: OwnerClientOptions): RetentionOwners {
  const { connections, credential, rowsPerCall, timeoutMs } = options;
  const timeBudget = durationFromMs(Math.floor(Math.min(MOST_BUDGET_MS, timeoutMs * BUDGET_SHARE)));
  const clientOf = (owner: string, token: () => Promise<string>) => {
    const connection = connections.get(owner);
    if (!connection) throw ownerUnknown(owner);
    return connection.client(RetentionOwnerService, token);
  };
  const reading = (owner: string) => clientOf(owner, () => credential({ owner, scope: 'owner:read', actor: READER }));
  const acting = (
    { owner, subject, tenantId, actor }: OwnerCall,
    scope: 'owner:count' | 'owner:purge',
    operationId?: string,
  ) =>
    clientOf(owner, () =>
      credential({ owner, scope, actor, tenantId, subject, ...(operationId === undefined ? {} : { operationId }) }),
    );

  return {
    names: [...connections.keys()],

    list: (owner) =>
      asking(owner, async () => {
        const client = reading(owner);
        const subjects = new Map<string, ListedSubject>();
        const places = new Set<string>();
        let dataId: string | undefined;
        for (let pageToken: string | undefined = ''; pageToken !== undefined; ) {
          const page = await client.listSubjects({ pageSize: SUBJECTS_PER_PAGE, pageToken });
          if (page.contract !== CONTRACT) throw nonsense(owner, `speaks contract ${page.contract} and not ${CONTRACT}`);
          if (page.dataId === '' || !isPlain(page.dataId, MAX_DATA_ID)) throw nonsense(owner, 'names no data set');
          // It was switched to another database between two pages.
          if (dataId !== undefined && dataId !== page.dataId) throw nonsense(owner, 'names two data sets');
          dataId = page.dataId;
          for (const { name, resourceType, dependentTypes, ageOf, hasFloor } of page.subjects) {
            if (!SUBJECT_NAME.test(name) || resourceType === '')
              throw nonsense(owner, 'lists a subject without a name');
            if (subjects.has(name)) throw nonsense(owner, `lists ${name} twice`);
            const types = [resourceType, ...dependentTypes];
            if (types.length > 1 + MAX_DEPENDENT_TYPES || !types.every((type) => isPlain(type, MAX_TYPE)))
              throw nonsense(owner, `lists types of ${name} that cannot be kept`);
            if (!isPlain(ageOf, MAX_AGE_OF)) throw nonsense(owner, `says of what ${name} ages in no plain text`);
            subjects.set(name, { name, resourceType, dependentTypes, ageOf, hasFloor });
          }
          if (subjects.size > MOST_SUBJECTS) throw nonsense(owner, `lists more than ${MOST_SUBJECTS} subjects`);
          pageToken = page.nextPageToken || undefined;
          if (pageToken !== undefined) assertGoesOn(owner, places, pageToken);
          if (places.size > MOST_SUBJECTS) throw nonsense(owner, `lists more than ${MOST_SUBJECTS} pages`);
        }
        return { dataId: dataId ?? '', subjects: [...subjects.values()] };
      }),

    listTenants: (owner, subject, pageToken) =>
      asking(owner, async () => {
        const answer = await reading(owner).listTenants({ subject, pageToken, pageSize: TENANTS_PER_PAGE });
        if (!isPlain(answer.nextPageToken, MAX_PAGE_TOKEN)) throw nonsense(owner, 'names no next page');
        // What cannot name a tenant here can have neither a plan nor a purge.
        return { tenantIds: answer.tenantIds.filter(isTenantId), nextPageToken: answer.nextPageToken };
      }),

    count: (call, rule, cursor, upTo) =>
      asking(call.owner, async () => {
        const answer = await acting(call, 'owner:count').count({
          rule: toRule(call.subject, { ...rule, maxRows: undefined }),
          cursor: Buffer.from(cursor, 'base64'),
          upTo: BigInt(upTo),
          timeBudget,
          dataId: call.dataId,
        });
        const cutoff = parseTimestamp('cutoff_time', answer.cutoffTime);
        if (!cutoff) throw nonsense(call.owner, 'counted without a cutoff');
        return {
          cursor: cursorOf(call.owner, answer),
          expired: toCount(call.owner, answer.expiredCount),
          remaining: toCount(call.owner, answer.remainingCount),
          cutoff: toMicroseconds(cutoff),
        };
      }),

    purge: (call, operationId, rule) =>
      asking(call.owner, async () => {
        const answer = await acting(call, 'owner:purge', operationId).purge({
          operationId,
          rule: toRule(call.subject, rule),
          limit: rowsPerCall,
          timeBudget,
          dataId: call.dataId,
        });
        const cutoff = parseTimestamp('cutoff_time', answer.cutoffTime);
        if (!cutoff) throw nonsense(call.owner, 'purged without a cutoff');
        return {
          // Anything but a clear COMPLETE is taken as unfinished.
          isComplete: answer.progress === Progress.COMPLETE,
          counts: toCounts(call.owner, answer.resourceCounts),
          cutoff: toMicroseconds(cutoff),
          retryDelayMs: Math.max(0, parseDurationMs('retry_delay', answer.retryDelay) ?? 0),
          waits: answer.waits.slice(0, MAX_WAITS).map(({ cause, duration }) => ({
            cause: toPlain(cause, MAX_CAUSE),
            ms: Math.max(0, parseDurationMs('waits', duration) ?? 0),
          })),
          blockers: answer.blockers
            .slice(0, MAX_BLOCKERS)
            .map(({ reason, message }) => `${toPlain(reason, MAX_REASON)}: ${toPlain(message, MAX_MESSAGE)}`),
        };
      }),

    end: (call, operationId, cursor) =>
      asking(call.owner, async () => {
        const answer = await acting(call, 'owner:purge', operationId).end({
          operationId,
          subject: call.subject,
          cursor: Buffer.from(cursor, 'base64'),
          timeBudget,
          dataId: call.dataId,
        });
        const cutoff = parseTimestamp('cutoff_time', answer.cutoffTime);
        return {
          cursor: cursorOf(call.owner, answer),
          counts: toCounts(call.owner, answer.resourceCounts),
          cutoff: cutoff && toMicroseconds(cutoff),
        };
      }),
  };
}

/** What the owner is told. `latest_cutoff_time` is by this service's clock: two clocks have to agree on what is old. */
function toRule(subject: string, { days, cutoff, minToKeep, staleAfterDays, maxRows }: OperationRule) {
  return {
    subject,
    retentionDays: days,
    ...optional('cutoffTime', toOptionalTimestamp(cutoff)),
    latestCutoffTime: toTimestamp(Temporal.Now.instant().subtract({ hours: days * DAY_HOURS })),
    minToKeep: BigInt(minToKeep),
    ...optional('maxRows', toOptionalBigInt(maxRows)),
    ...optional('staleAfterDays', staleAfterDays),
  };
}

/** Where to go on; undefined: all was seen. PARTIAL without a cursor would begin again for ever. */
function cursorOf(owner: string, { progress, cursor }: { progress: Progress; cursor: Uint8Array }): string | undefined {
  if (progress === Progress.COMPLETE) return undefined;
  if (cursor.length === 0) throw nonsense(owner, 'answered PARTIAL without a cursor');
  return Buffer.from(cursor).toString('base64');
}

const toCounts = (owner: string, counts: readonly ResourceCountMessage[]): readonly ResourceCount[] =>
  counts.map(({ resourceType, found, deleted, left }) => ({
    // The catalogue has no type that this changes, so what is looked for by its type is found.
    resourceType: toPlain(resourceType, MAX_TYPE),
    found: toCount(owner, found),
    deleted: toCount(owner, deleted),
    left: toCount(owner, left),
  }));

function toCount(owner: string, value: bigint): number {
  const count = Number(value);
  if (!Number.isSafeInteger(count) || count < 0) throw nonsense(owner, 'answered a count that is none');
  return count;
}

const CONTROL = /\p{Cc}/u;
const CONTROLS = /\p{Cc}/gu;

/** Whether Postgres holds the text, and a person can read it in a line: U+0000 alone would be refused. */
const isPlain = (text: string, max: number): boolean =>
  text.length <= max && text.isWellFormed() && !CONTROL.test(text);

/** As much of the text as is kept, readable: nothing that a receipt says fails over what it is called. */
const toPlain = (text: string, max: number): string => text.slice(0, max).toWellFormed().replace(CONTROLS, '\ufffd');

/** Postgres stores microseconds; a cutoff is given back as it is stored. Rounded down, it takes nothing more. */
const toMicroseconds = (instant: Temporal.Instant): Temporal.Instant =>
  instant.round({ smallestUnit: 'microsecond', roundingMode: 'floor' });

/** Calls an owner; what it throws is DEPENDENCY_UNAVAILABLE or what a receipt can say of why the owner did not do it. */
async function asking<T>(owner: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const peer = `owner ${owner}`;
    const peerError = toPeerError(peer, error);
    if (peerError instanceof DomainError) {
      throw peerError.reason === 'DEPENDENCY_UNAVAILABLE' ? dependencyUnavailable(peer, error) : peerError;
    }
    const { code: number } = ConnectError.from(error);
    const code = Code[number];
    const reason = reasonOf(error) ?? '';
    throw new DomainError(
      'failed-precondition',
      REASON.test(reason) ? reason : 'OWNER_FAILED',
      `The ${peer} did not do it (${code}).`,
      { dependency: peer, code },
      { cause: error },
    );
  }
}

const nonsense = (owner: string, what: string): DomainError =>
  new DomainError('failed-precondition', 'OWNER_FAILED', `The owner ${owner} ${what}.`, {
    dependency: `owner ${owner}`,
  });

const ownerUnknown = (owner: string): DomainError =>
  new DomainError('failed-precondition', 'OWNER_UNKNOWN', `The owner ${owner} is not configured.`, { owner });
