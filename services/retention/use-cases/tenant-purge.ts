import { crashPoint } from '#libs/durable/crash-point.ts';
import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CatalogueSubject, problemOf } from '../domain/catalogue.ts';
import { type Ceiling, decide, isHeldStill, type SubjectCount } from '../domain/ceiling.ts';
import { nextWalk, tallyForCeiling, withCount } from '../domain/count-walk.ts';
import { withoutLeft } from '../domain/counts.ts';
import { EXECUTIONS } from '../domain/execution-policy.ts';
import { assertGoesOn, assertNotStalled, ownerStalled } from '../domain/owner-stalled.ts';
import {
  adoptWindows,
  isOutgrown,
  isSettled,
  type OperationRule,
  type PurgeSubject,
  pauseAfter,
  withAnswer,
  withEnd,
} from '../domain/purge-subject.ts';
import type { KeepPlans } from './keep-plans.ts';
import type {
  CatalogueRepository,
  ItemClaim,
  ItemProgress,
  OwnerCall,
  PurgeRepository,
  RetentionOwners,
  StopRepository,
} from './purge-ports.ts';

/** Records how many of a tenant's executions a purge removed, by the owner's own sums. */
export type RecordCleanup = (tenantId: string, at: Temporal.Instant, deleted: number) => Promise<void>;

/** What a tenant's part of a purge works with. */
export interface TenantPurgePorts {
  readonly purges: PurgeRepository;
  readonly plans: Pick<KeepPlans, 'resolve'>;
  readonly catalogue: CatalogueRepository;
  readonly owners: RetentionOwners;
  readonly stops: StopRepository;
  readonly recordCleanup: RecordCleanup;
}

/** This worker is to stop; another one goes on. */
export class WorkerStopping extends Error {}

/** Purges are stopped; the item waits until they go on. */
export class PurgesStopped extends Error {}

/** How a turn went. */
export interface TurnOutcome {
  /** What failed, by subject. */
  readonly failed: ReadonlyMap<string, unknown>;
  /** An owner asked to be called again after so long, in milliseconds; undefined: none did. */
  readonly waitMs: number | undefined;
}

const MOST_ROUNDS = 3;

/** How one turn is done. */
export interface TurnOptions {
  readonly claim: ItemClaim;
  readonly ceiling: Ceiling;
  readonly leaseMs: number;
  /** For how long an owner may ask for time before a row goes, in milliseconds. */
  readonly maxPauseMs: number;
  readonly signal: AbortSignal;
}

/** One worker's turn with one tenant. What it knows is saved before and after each call that removes something. */
export class TenantPurge {
  readonly #ports: TenantPurgePorts;
  readonly #claim: ItemClaim;
  readonly #ceiling: Ceiling;
  readonly #leaseMs: number;
  readonly #maxPauseMs: number;
  readonly #signal: AbortSignal;
  readonly #silent = new Map<string, unknown>();
  readonly #heard = new Set<string>();
  #progress: ItemProgress;
  #catalogue: ReadonlyMap<string, CatalogueSubject> = new Map();
  #now: Temporal.Instant | undefined;
  #resolvedAt = performance.now();
  #savedAt = performance.now();

  constructor(ports: TenantPurgePorts, { claim, ceiling, leaseMs, maxPauseMs, signal }: TurnOptions) {
    this.#ports = ports;
    this.#claim = claim;
    this.#ceiling = ceiling;
    this.#leaseMs = leaseMs;
    this.#maxPauseMs = maxPauseMs;
    this.#signal = signal;
    this.#progress = { ...claim.item, state: 'RUNNING', error: undefined };
  }

  /** What is known so far. */
  get progress(): ItemProgress {
    return this.#progress;
  }

  /** The database's now when the windows were last resolved; undefined: they were not. */
  get now(): Temporal.Instant | undefined {
    return this.#now;
  }

  /** Whether every owner that is silent now has answered earlier in this turn. */
  get hasHeardSilent(): boolean {
    return [...this.#silent.keys()].every((owner) => this.#heard.has(owner));
  }

  /** Counts every subject, decides about each, and removes what may go. What fails stops no other subject. */
  async run(): Promise<TurnOutcome> {
    const { item, isOfAll } = this.#claim;
    await this.resolve();
    const failed = new Map<string, unknown>();
    const observed = await this.#ports.catalogue.findObserved(item.purgeId);
    for (const { subject } of this.#progress.subjects) {
      const { state } = this.#get(subject);
      if (state !== 'PENDING' && state !== 'COUNTING') continue;
      await this.#attempt(failed, subject, async () => {
        const isObserved = observed.has(subject);
        const isCountedOnly = item.validateOnly || isObserved;
        await this.#count(subject, isCountedOnly ? undefined : this.#ceiling);
        await this.#decide(subject, isCountedOnly);
        if (isObserved && isOfAll && !item.validateOnly) {
          await this.#ports.catalogue.recordNight(subject, item.purgeId);
        }
      });
    }
    crashPoint('retention.purge.after-count');
    const running = this.#progress.subjects.filter(({ state }) => state === 'RUNNING');
    if (running.length > 0) {
      await this.#save();
      crashPoint('retention.purge.after-operation');
    }
    let waitMs: number | undefined;
    for (const { subject } of running) {
      await this.#attempt(failed, subject, async () => {
        const wait = await this.#purge(subject);
        if (wait !== undefined) waitMs = Math.min(waitMs ?? wait, wait);
      });
    }
    for (const [subject, error] of failed) this.#set({ ...this.#get(subject), error: toSentence(error) });
    return { failed, waitMs };
  }

  /** Gives up the subjects that are not done: they are PARTIAL with what failed. */
  giveUp(subjects: readonly string[]): void {
    for (const subject of subjects) {
      const known = this.#get(subject);
      if (!isSettled(known)) this.#set({ ...known, state: 'PARTIAL' });
    }
  }

  /** Reads the windows as they are now: a plan may have changed since the purge was ordered, or a moment ago. */
  async resolve(): Promise<void> {
    const { item, subjects: wanted, fleetHold, lastDays } = this.#claim;
    const [{ current, windows, at }, entries] = await Promise.all([
      this.#ports.plans.resolve(item.tenantId, undefined),
      this.#ports.catalogue.list(),
    ]);
    this.#now = at;
    this.#resolvedAt = performance.now();
    this.#catalogue = new Map(entries.map((entry) => [entry.name, entry]));
    const used = wanted.length === 0 ? windows : windows.filter(({ subject }) => wanted.includes(subject));
    const subjects = adoptWindows(this.#progress.subjects, used, lastDays, fleetHold !== undefined);
    this.#progress = { ...this.#progress, plan: current?.plan, planVersion: current?.version, subjects };
  }

  async #attempt(failed: Map<string, unknown>, subject: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (error instanceof WorkerStopping || error instanceof PurgesStopped || hasReason(error, 'LEASE_LOST'))
        throw error;
      failed.set(subject, error);
    }
  }

  async #count(subject: string, ceiling: Ceiling | undefined): Promise<void> {
    let places = new Set<string>();
    let stalls = 0;
    for (;;) {
      const known = this.#get(subject);
      const walk = known.walk ?? nextWalk(known, ceiling);
      if (!walk) return;
      const left = Math.max(0, walk.upTo - walk.seen);
      const call = this.#callOf(known);
      const answer = await this.#call(call.owner, () => this.#ports.owners.count(call, walk, walk.cursor, left));
      stalls = answer.expired + answer.remaining > 0 ? 0 : stalls + 1;
      try {
        assertNotStalled(call.owner, stalls);
        places.add(walk.cursor);
        if (answer.cursor === undefined) places = new Set();
        else assertGoesOn(call.owner, places, answer.cursor);
      } catch (error) {
        // What it counted in a circle is worth nothing.
        this.#set({ ...known, walk: undefined });
        throw error;
      }
      this.#set({ ...withCount(known, walk, answer), owner: call.owner });
      // Only a long walk is worth keeping.
      if (answer.cursor !== undefined) await this.#save();
    }
  }

  async #decide(subject: string, isCountedOnly: boolean): Promise<void> {
    const known = this.#get(subject);
    const { expired, hold, window, lastDays } = known;
    if (!expired || !this.#now) throw new Error('a subject was decided before it was counted');
    const { expired: count, days, minToKeep, staleAfterDays } = expired;
    const counted: PurgeSubject = { ...known, cutoff: expired.cutoff, error: undefined };
    if (isCountedOnly) {
      const { resourceType } = this.#entryOf(subject);
      const counts = count === 0 ? [] : [{ resourceType, found: count, deleted: 0, left: count }];
      this.#set({ ...counted, state: 'OBSERVED', counts });
      return;
    }
    if (count === 0) {
      this.#set(counted);
      return this.#finish(subject, 'COMPLETE');
    }
    const tally = tallyForCeiling(known);
    const subjectCount = { expired: tally?.expired, total: tally?.seen };
    const decision = decide({
      days,
      lastDays,
      counts: subjectCount,
      ceiling: this.#ceiling,
      approval: hold?.approval,
      now: this.#now,
    });
    const begin = (rule: Pick<OperationRule, 'days' | 'cutoff' | 'maxRows'>): void =>
      this.#set({
        ...counted,
        state: 'RUNNING',
        operationId: newId(),
        operation: { ...rule, minToKeep, staleAfterDays: staleAfterDays ?? window.staleAfterDays },
        pause: undefined,
        isEnded: false,
      });
    switch (decision.kind) {
      case 'purge':
        begin({ days, cutoff: expired.cutoff, maxRows: undefined });
        return;
      case 'purge-approved':
        begin({ ...decision, cutoff: earlier(decision.cutoff, expired.cutoff) });
        return;
      case 'hold':
        this.#hold(counted, subjectCount);
    }
  }

  #hold(subject: PurgeSubject, subjectCount: SubjectCount): void {
    const { maxShare, maxCount } = this.#ceiling;
    const heldAt = this.#now;
    if (!heldAt) throw new Error('a subject was held before its windows were resolved');
    this.#set({
      ...subject,
      state: 'HELD',
      hold: { ...subjectCount, maxShare, maxCount, heldAt, approval: undefined },
    });
  }

  /** Removes until nothing is left; answers how long to wait first where the owner asks for it. */
  async #purge(subject: string): Promise<number | undefined> {
    let stalls = 0;
    for (let rounds = 0; rounds < MOST_ROUNDS; ) {
      const known = this.#get(subject);
      if (known.window.window.kind !== 'DAYS' || isOutgrown(known)) {
        await this.#close(known);
        if (known.window.window.kind !== 'DAYS') {
          // Nothing is to go any more; what went is counted.
          return this.#finish(subject, 'KEPT');
        }
      }
      const waitMs = this.#pauseLeftMs(subject);
      if (waitMs > 0) return waitMs;
      if (this.#get(subject).isEnded) await this.#beginAgain(subject);
      const { operationId, operation, counts, pause } = this.#get(subject);
      if (!operationId || !operation) throw new Error('a subject is being removed without an operation');
      const call = this.#callOf(known);
      const answer = await this.#call(call.owner, () => this.#ports.owners.purge(call, operationId, operation)).catch(
        (error: unknown) => {
          // A worker that died right after it closed the operation left it like this.
          if (hasReason(error, 'OPERATION_ENDED')) return undefined;
          throw error;
        },
      );
      if (!answer) {
        if ((await this.#readBack(this.#get(subject))) === 0) return this.#finish(subject, 'COMPLETE');
        rounds += 1;
        await this.resolve();
        continue;
      }
      crashPoint('retention.purge.before-save');
      const answered = withAnswer({ ...this.#get(subject), owner: call.owner }, answer);
      const hasRemoved = deletedOf(answered) > deletedOf({ counts });
      const { retryDelayMs } = answer;
      const told = {
        ...answered,
        pause: pauseAfter(pause, { retryDelayMs, hasRemoved }, this.#clock(), this.#maxPauseMs),
      };
      this.#set(told);
      await this.#save();
      crashPoint('retention.purge.after-batch');
      if (answer.blockers.length > 0) {
        await this.#close(told);
        this.#set({ ...this.#get(subject), state: 'PARTIAL', error: answer.blockers.join('; ') });
        return undefined;
      }
      if (answer.isComplete) {
        const left = await this.#readBack(told);
        if (left === 0) return this.#finish(subject, 'COMPLETE');
        // The rows came back under the cutoff, or the owner was wrong: an operation that has ended cannot go on.
        rounds += 1;
      } else if (retryDelayMs > 0) {
        const leftMs = this.#pauseLeftMs(subject);
        if (leftMs === 0) throw ownerStalled(call.owner, 'asks for more time and removes nothing');
        return leftMs;
      } else {
        stalls = hasRemoved ? 0 : stalls + 1;
        assertNotStalled(call.owner, stalls);
      }
      await this.resolve();
    }
    throw rowsLeft(subject);
  }

  /** The database's clock, as far as it is known. */
  #clock(): Temporal.Instant {
    if (!this.#now) throw new Error('the clock is asked for before the windows were resolved');
    return this.#now.add({ milliseconds: Math.floor(performance.now() - this.#resolvedAt) });
  }

  /** For how long the owner is not to be called about the subject, in milliseconds. */
  #pauseLeftMs(subject: string): number {
    const { pause } = this.#get(subject);
    return pause ? Math.max(0, Math.ceil(pause.until.since(this.#clock()).total('milliseconds'))) : 0;
  }

  /** Goes on with another operation, by the window of now and no later than the one before. */
  async #beginAgain(subject: string): Promise<void> {
    const known = this.#get(subject);
    const { window, operation } = known;
    if (window.window.kind !== 'DAYS') throw new Error('an operation begins only for a window in days');
    const rule = {
      days: window.window.days,
      cutoff: undefined,
      minToKeep: window.minToKeep ?? 0,
      staleAfterDays: window.staleAfterDays,
    };
    const call = this.#callOf(known);
    // Only the owner's clock can say which cutoff it will accept.
    const { cutoff } = await this.#call(call.owner, () => this.#ports.owners.count(call, rule, '', 0));
    const maxRows = operation?.maxRows;
    const next = { ...rule, cutoff: operation?.cutoff ? earlier(cutoff, operation.cutoff) : cutoff, maxRows };
    this.#set({ ...known, operationId: newId(), operation: next, isEnded: false, cutoff: next.cutoff });
    await this.#save();
    crashPoint('retention.purge.after-operation');
  }

  /** Closes the operation, and takes over what it has removed, answered or not. */
  async #close(subject: PurgeSubject): Promise<void> {
    const { operationId, isEnded } = subject;
    if (!operationId || isEnded) return;
    const call = this.#callOf(subject);
    const { counts, cutoff } = await this.#call(call.owner, () => this.#ports.owners.end(call, operationId, ''));
    const removed = deletedOf({ counts }, this.#entryOf(subject.subject).resourceType);
    this.#set(spend(withEnd(this.#get(subject.subject), withoutLeft(counts), cutoff), removed));
    await this.#save();
  }

  /** Closes the operation and reads back what its rule has left, which is nothing or what was not approved. */
  async #readBack(subject: PurgeSubject): Promise<number> {
    const { operationId, operation } = subject;
    if (!operationId || !operation) return 0;
    const { resourceType } = this.#entryOf(subject.subject);
    const call = this.#callOf(subject);
    crashPoint('retention.purge.before-end');
    const places = new Set<string>();
    let left = 0;
    let stalls = 0;
    for (let cursor: string | undefined = ''; cursor !== undefined; ) {
      const at: string = cursor;
      const answer = await this.#call(call.owner, () => this.#ports.owners.end(call, operationId, at));
      const own = answer.counts.find((count) => count.resourceType === resourceType);
      left += own?.left ?? 0;
      const removed = own?.deleted ?? 0;
      if (answer.cursor === undefined) {
        crashPoint('retention.purge.after-end');
        // What the approval does not cover is not left behind: it is held.
        const isSpent = operation.maxRows !== undefined && removed >= operation.maxRows;
        const counts = answer.counts.map((count) => (count === own ? { ...count, left } : count));
        this.#set(spend(withEnd(this.#get(subject.subject), counts, answer.cutoff), removed));
        if (isSpent) left = 0;
      }
      cursor = answer.cursor;
      if (cursor === undefined) break;
      assertGoesOn(call.owner, places, cursor);
      stalls = (own?.left ?? 0) > 0 ? 0 : stalls + 1;
      assertNotStalled(call.owner, stalls);
    }
    return left;
  }

  async #finish(subject: string, state: 'COMPLETE' | 'KEPT'): Promise<undefined> {
    const known = this.#get(subject);
    const { operation, expired } = known;
    if (subject === EXECUTIONS && this.#now) {
      const removed = deletedOf(known, this.#entryOf(subject).resourceType);
      await this.#ports.recordCleanup(this.#claim.item.tenantId, this.#now, removed);
    }
    if (state === 'COMPLETE' && operation?.maxRows !== undefined && expired) {
      // By the cutoff that was decided with: what is left of that had expired since the approval, or was not counted.
      const walk = { ...expired, purpose: 'expired' as const, upTo: 0, cursor: '', expired: 0, seen: 0 };
      this.#set({ ...known, walk });
      await this.#count(subject, undefined);
      const left = this.#get(subject).expired;
      if (isHeldStill({ expired: left?.expired, removed: 0 })) {
        this.#hold({ ...this.#get(subject), usual: undefined }, { expired: left?.expired, total: left?.seen });
        return undefined;
      }
    }
    this.#set({ ...this.#get(subject), state, error: undefined });
    return undefined;
  }

  #entryOf(subject: string): CatalogueSubject {
    const entry = this.#catalogue.get(subject);
    if (!entry) throw new DomainError('failed-precondition', 'SUBJECT_UNLISTED', `${subject} is not in the catalogue.`);
    return entry;
  }

  /** Whom to call about the subject; throws what keeps it from being purged. */
  #callOf({ subject }: Pick<PurgeSubject, 'subject'>): OwnerCall {
    const entry = this.#entryOf(subject);
    const problem = problemOf(entry);
    if (problem) throw problem;
    const { tenantId, actor } = this.#claim.item;
    return { owner: entry.owner, dataId: entry.dataId ?? '', subject, tenantId, actor };
  }

  async #call<T>(owner: string, work: () => Promise<T>): Promise<T> {
    if (this.#signal.aborted) throw new WorkerStopping();
    if ((await this.#ports.stops.get()).isStopped) throw new PurgesStopped();
    // One that did not answer a moment ago is not waited for again in this turn.
    if (this.#silent.has(owner)) throw this.#silent.get(owner);
    if (performance.now() - this.#savedAt > this.#leaseMs / 4) await this.#save();
    try {
      const answer = await work();
      this.#heard.add(owner);
      return answer;
    } catch (error) {
      if (isSilence(error)) this.#silent.set(owner, error);
      throw error;
    }
  }

  #get(subject: string): PurgeSubject {
    const known = this.#progress.subjects.find((candidate) => candidate.subject === subject);
    if (!known) throw new Error(`the purge has no subject ${subject}`);
    return known;
  }

  #set(subject: PurgeSubject): void {
    const subjects = this.#progress.subjects.map((known) => (known.subject === subject.subject ? subject : known));
    this.#progress = { ...this.#progress, subjects, workingOn: subject.subject };
  }

  async #save(): Promise<void> {
    await this.#ports.purges.save(this.#claim, this.#progress, this.#leaseMs);
    this.#savedAt = performance.now();
  }
}

/** Whether the error means that an owner did not answer, so that it is worth waiting for. */
export const isSilence = (error: unknown): boolean => error instanceof DomainError && error.kind === 'unavailable';

/** An error as a receipt tells it: `REASON: sentence`. */
export const toSentence = (error: unknown): string =>
  error instanceof DomainError ? `${error.reason}: ${error.message}` : 'INTERNAL: Something failed; see the log.';

const earlier = (a: Temporal.Instant, b: Temporal.Instant): Temporal.Instant =>
  Temporal.Instant.compare(a, b) < 0 ? a : b;

/** The subject with what is left of the rows that were approved; its operation is closed. */
const spend = (subject: PurgeSubject, removed: number): PurgeSubject =>
  subject.operation?.maxRows === undefined
    ? subject
    : { ...subject, operation: { ...subject.operation, maxRows: Math.max(0, subject.operation.maxRows - removed) } };

const deletedOf = ({ counts }: Pick<PurgeSubject, 'counts'>, resourceType?: string): number =>
  counts
    .filter((count) => resourceType === undefined || count.resourceType === resourceType)
    .reduce((sum, { deleted }) => sum + deleted, 0);

const rowsLeft = (subject: string): DomainError =>
  new DomainError('failed-precondition', 'ROWS_LEFT', `Expired rows of ${subject} are left after they were removed.`, {
    subject,
  });
