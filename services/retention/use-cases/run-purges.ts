import { backoffMs, type RetryPolicy } from '#libs/durable/backoff.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { giveUpClaim } from '#libs/durable/give-up-claim.ts';
import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import type { Ceiling } from '../domain/ceiling.ts';
import { withoutLeft } from '../domain/counts.ts';
import { EXECUTIONS } from '../domain/execution-policy.ts';
import { endOf, isFinished, type RetentionPurgeItem } from '../domain/purge.ts';
import { countsOf, isSettled, type PurgeSubject, withEnd } from '../domain/purge-subject.ts';
import type { ItemClaim, ItemKey, ItemProgress } from './purge-ports.ts';
import {
  isSilence,
  PurgesStopped,
  TenantPurge,
  type TenantPurgePorts,
  toSentence,
  WorkerStopping,
} from './tenant-purge.ts';

/**
 * Claims an item and purges its tenant as far as it goes, or settles an item that ended while an operation was open: an
 * interrupted call may have removed rows that it never reported. False when the item was not due or another worker has it.
 */
export type RunPurges = (item: ItemKey, signal: AbortSignal) => Promise<boolean>;

/** How purges are driven. */
export interface PurgeSettings {
  readonly workerId: string;
  /** Longer than one call to an owner may take, in milliseconds. */
  readonly leaseMs: number;
  readonly retry: RetryPolicy;
  /** How long an item waits for an owner that does not answer, in milliseconds. */
  readonly maxWaitMs: number;
  /** For how long an owner may ask for time before a row goes, in milliseconds. */
  readonly maxPauseMs: number;
  readonly ceiling: Ceiling;
}

/** Called when an item finishes or is held. */
export type OnItemFinished = (item: RetentionPurgeItem, progress: ItemProgress) => void;

/** Called with an error that an item met, also when it will be tried again. */
export type OnItemError = (item: RetentionPurgeItem, error: unknown) => void;

// After this many crashed workers in a row, assume that the item crashes them.
const MAX_ATTEMPTS = 50;
const LONGEST_PAUSE_MS = 30_000;
// Until its receipt expires, a settled count is worth a call an hour.
const SETTLE_RETRY = { baseMs: 1_000, maxMs: 3_600_000, maxAttempts: Number.POSITIVE_INFINITY };

/** Makes RunPurges. */
export function makeRunPurges(
  ports: TenantPurgePorts,
  settings: PurgeSettings,
  onFinished: OnItemFinished,
  onError: OnItemError,
): RunPurges {
  const { workerId, leaseMs, retry, maxWaitMs, maxPauseMs, ceiling } = settings;
  const { purges } = ports;
  const settle = makeSettlePurge(ports);

  const settleOrWait = async (claim: ItemClaim): Promise<void> => {
    try {
      await settle(claim);
    } catch (error) {
      if (hasReason(error, 'LEASE_LOST')) return;
      onError(claim.item, error);
      await giveUpClaim(() => purges.settleLater(claim, backoffMs(claim.item.failures + 1, SETTLE_RETRY)), leaseMs);
    }
  };

  const purge = async (claim: ItemClaim, signal: AbortSignal): Promise<void> => {
    crashPoint('retention.purge.after-claim');
    const { item } = claim;
    const turn = new TenantPurge(ports, { claim, ceiling, leaseMs, maxPauseMs, signal });
    let failed: ReadonlyMap<string, unknown> = new Map();
    let waitMs: number | undefined;
    let failure: unknown;
    try {
      if (item.attempts > MAX_ATTEMPTS) throw workersLost(item.attempts);
      ({ failed, waitMs } = await turn.run());
    } catch (error) {
      if (error instanceof WorkerStopping || error instanceof PurgesStopped) {
        return giveUpClaim(() => purges.release(claim), leaseMs);
      }
      if (hasReason(error, 'LEASE_LOST')) throw error;
      failure = error;
    }
    const errors = failure === undefined ? [...failed.values()] : [failure];
    for (const error of errors) onError(item, error);

    const isSilent = errors.some(isSilence);
    const hasFailed = errors.some((error) => !isSilence(error));
    const failures = hasFailed ? item.failures + 1 : item.failures;
    const isSilentAnew = turn.hasHeardSilent;
    const waitedMs =
      turn.now && item.waitingSince && !isSilentAnew ? turn.now.since(item.waitingSince).total('milliseconds') : 0;
    const isTriedAgain = hasFailed && item.attempts <= MAX_ATTEMPTS && failures < retry.maxAttempts;
    const isWaitedFor = isSilent && item.attempts <= MAX_ATTEMPTS && waitedMs < maxWaitMs;
    const isOver = (error: unknown) => (isSilence(error) ? !isWaitedFor : !isTriedAgain);
    turn.giveUp([...failed].filter(([, error]) => isOver(error)).map(([subject]) => subject));
    const isEnd = !isTriedAgain && !isWaitedFor && waitMs === undefined;
    const progress = toProgress(turn.progress, failure, failures, isEnd);
    if (!isEnd) {
      // The first waits are short: most silences are a restart.
      const silenceMs = backoffMs(1, {
        ...retry,
        baseMs: Math.min(LONGEST_PAUSE_MS, Math.max(retry.baseMs, waitedMs)),
      });
      // An owner that asked for time is not called before it is over, also when another subject's turn comes sooner.
      const ms = Math.min(
        isTriedAgain ? Math.min(LONGEST_PAUSE_MS, backoffMs(failures, retry)) : Infinity,
        isWaitedFor ? silenceMs : Infinity,
        waitMs ?? Infinity,
      );
      const silence = isWaitedFor ? (isSilentAnew ? 'NEW' : 'SAME') : 'NONE';
      const how = { ms, silence, isAttempt: hasFailed } as const;
      return giveUpClaim(() => purges.postpone(claim, progress, how), leaseMs);
    }
    await giveUpClaim(async () => {
      await recordPartialCleanup(ports, item.tenantId, turn.now, progress);
      await purges.save(claim, progress, leaseMs);
    }, leaseMs);
    crashPoint('retention.purge.after-tenant');
    onFinished(item, progress);
  };

  return async (key, signal) => {
    const claim = await purges.claim(key, workerId, leaseMs);
    if (!claim) return false;
    try {
      await (isFinished(claim.item.state) ? settleOrWait(claim) : purge(claim, signal));
    } catch (error) {
      // Another worker has it: what this one knew is stale.
      if (!hasReason(error, 'LEASE_LOST')) throw error;
    }
    return true;
  };
}

/** Records what a purge removed of executions before it gave them up. One whose operation is open is settled later. */
async function recordPartialCleanup(
  { recordCleanup }: Pick<TenantPurgePorts, 'recordCleanup'>,
  tenantId: string,
  now: Temporal.Instant | undefined,
  { subjects }: ItemProgress,
): Promise<void> {
  const executions = subjects.find(({ subject }) => subject === EXECUTIONS);
  if (!now || executions?.state !== 'PARTIAL' || !executions.isEnded) return;
  await recordCleanup(tenantId, now, removedOf(executions));
}

/** What is stored at the end of a turn. */
function toProgress(progress: ItemProgress, failure: unknown, failures: number, isEnd: boolean): ItemProgress {
  const errors = progress.subjects.flatMap(({ error }) => (error === undefined ? [] : error.split('; ')));
  const told = [...new Set(failure === undefined ? errors : [toSentence(failure), ...errors])];
  const error = told.length === 0 ? undefined : told.join('; ');
  if (!isEnd) return { ...progress, state: 'RUNNING', error, failures };
  const workingOn = undefined;
  if (failure === undefined) return { ...progress, state: endOf(progress.subjects), workingOn, error, failures };
  const subjects = progress.subjects.map((subject) =>
    isSettled(subject)
      ? subject
      : { ...subject, state: 'PARTIAL' as const, error: subject.error ?? toSentence(failure) },
  );
  return { ...progress, subjects, state: subjects.length > 0 ? 'PARTIAL' : 'FAILED', workingOn, error, failures };
}

/** Closes what an ended item left open, and corrects its counts. Throws while the owner is unreachable. */
const makeSettlePurge =
  ({ purges, owners, catalogue, recordCleanup }: TenantPurgePorts) =>
  async (claim: ItemClaim): Promise<void> => {
    const { item } = claim;
    const { tenantId } = item;
    const entries = await catalogue.list();
    const settled: PurgeSubject[] = [];
    for (const subject of item.subjects) {
      const { operationId, isEnded } = subject;
      const entry = entries.find(({ name }) => name === subject.subject);
      const owner = entry?.owner ?? subject.owner;
      // One whose owner is not configured any more keeps what is known of it.
      if (!operationId || isEnded || owner === undefined || !owners.names.includes(owner)) continue;
      const call = { owner, dataId: entry?.dataId ?? '', subject: subject.subject, tenantId, actor: item.actor };
      const { counts, cutoff } = await owners.end(call, operationId, '');
      settled.push(withEnd(subject, withoutLeft(counts), cutoff));
    }
    const executions = settled.find(({ subject }) => subject === EXECUTIONS);
    if (executions && item.finishedAt) {
      await recordCleanup(tenantId, item.finishedAt, removedOf(executions));
    }
    await purges.settle(claim, settled);
  };

const removedOf = (subject: PurgeSubject): number => countsOf([subject]).reduce((sum, { deleted }) => sum + deleted, 0);

const workersLost = (attempts: number): DomainError =>
  new DomainError('failed-precondition', 'WORKERS_LOST', `${attempts - 1} workers took it up and did not end it.`, {
    attempts: String(attempts - 1),
  });
