import { type Caller, hasRole, tenantOf } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import { type Deletion, type DeletionMode, OWN_PARTICIPANT, type ResourceCount } from '../domain/deletion.ts';
import { deletionFinished, deletionNotFound, runNotFound } from '../domain/errors.ts';
import { assertEtag, assertPurgeable, assertTerminal, isTerminal, purgeableAt, type Run } from '../domain/run.ts';
import type {
  Blocker,
  DeletionOrder,
  DeletionQuery,
  DeletionRepository,
  Page,
  Participant,
  ResourceSample,
  RunRepository,
} from './ports.ts';

/** What the caller asks for; `force` skips the age guard. */
export interface EndRunCommand {
  readonly caller: Caller;
  readonly runId: string;
  readonly mode: DeletionMode;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly etag: string;
  readonly allowMissing: boolean;
  readonly validateOnly: boolean;
  readonly force: boolean;
}

/** What a purge would take, from the predicates that it uses. */
export interface PurgePreview {
  readonly participants: readonly {
    readonly participant: string;
    readonly counts: readonly ResourceCount[];
    readonly samples: readonly ResourceSample[];
  }[];
  readonly blockers: readonly Blocker[];
  readonly purgeableAt: Temporal.Instant;
}

/** Hides, brings back and purges runs: the intent at once, the cascade by whichever replica comes first. */
export interface EndRuns {
  /**
   * Commits the deletion and answers with it and the run as it is now; without a deletion when there is nothing to
   * do. RUN_NOT_FOUND, RUN_NOT_TERMINAL, RETENTION_GUARD, ETAG_MISMATCH, OPERATION_IN_PROGRESS, REQUEST_ID_REUSED,
   * JOB_NOT_TERMINAL and its like.
   */
  order(command: EndRunCommand): Promise<{ run: Run | undefined; deletion: Deletion | undefined }>;
  preview(caller: Caller, runId: string): Promise<PurgePreview>;
  get(caller: Caller, deletionId: string): Promise<Deletion>;
  list(caller: Caller, query: DeletionQuery): Promise<Page<Deletion>>;
  /** DELETION_NOT_FOUND, DELETION_FINISHED. */
  redrive(caller: Caller, deletionId: string, reason: string | undefined): Promise<Deletion>;
}

/** Told of everything that was ordered, and of everything that was refused. */
export type OnOrdered = (order: DeletionOrder, outcome: 'ORDERED' | 'REFUSED', reason: string) => void;

/** Makes EndRuns. `wake` tells the worker that something is due. */
export function makeEndRuns(
  runs: RunRepository,
  deletions: DeletionRepository,
  participants: readonly Participant[],
  minPurgeAgeHours: number,
  wake: () => void,
  onOrdered: OnOrdered,
): EndRuns {
  const assertMayForce = (caller: Caller, force: boolean): void => {
    if (!force || hasRole(caller, 'owner')) return;
    throw new DomainError('permission-denied', 'ROLE_TOO_LOW', 'Only an owner may force a purge.', { role: 'owner' });
  };

  const checkOf =
    ({ mode, etag, force }: EndRunCommand) =>
    (run: Run, now: Temporal.Instant): void => {
      assertEtag(run, etag);
      if (mode === 'SOFT_DELETE') assertTerminal(run);
      if (mode === 'PURGE') assertPurgeable(run, now, minPurgeAgeHours, force);
    };

  const previewOf = async (caller: Caller, run: Run): Promise<PurgePreview> => {
    const call = { tenantId: run.tenantId, actor: caller.actor, operationId: run.id, runId: run.id, reason: undefined };
    const previews = await Promise.all(
      participants.map(async (participant) => ({
        participant: participant.name,
        ...(await participant.preview(call)),
      })),
    );
    const own = {
      participant: OWN_PARTICIPANT,
      counts: await deletions.countOwnRows(run.tenantId, run.id),
      samples: [{ resourceType: 'run', resourceId: run.id }],
    };
    const active: Blocker[] = isTerminal(run.state)
      ? []
      : [
          {
            reason: 'RUN_NOT_TERMINAL',
            resourceType: 'run',
            resourceId: run.id,
            message: `The run is ${run.state}; end it first.`,
          },
        ];
    return {
      participants: [...previews, own],
      blockers: [...active, ...previews.flatMap(({ blockers }) => blockers)].slice(0, 100),
      purgeableAt: purgeableAt(run, minPurgeAgeHours),
    };
  };

  /** Asks the participants before anything is committed: a purge that cannot end must not begin. */
  const assertNoBlockers = async (caller: Caller, run: Run): Promise<void> => {
    const { blockers } = await previewOf(caller, run);
    const blocker = blockers[0];
    if (!blocker) return;
    const { reason, message, resourceId } = blocker;
    throw new DomainError('failed-precondition', reason, message, { resource_id: resourceId });
  };

  return {
    async order(command) {
      const { caller, runId, mode, reason, requestId, etag, allowMissing, validateOnly, force } = command;
      const tenantId = tenantOf(caller);
      const order: DeletionOrder = {
        caller,
        tenantId,
        runId,
        mode,
        reason,
        requestId,
        force,
        fingerprint: fingerprint({ mode, runId, reason, etag, allowMissing, force }),
        participants: participants.map(({ name }) => name),
      };
      try {
        assertMayForce(caller, force);
        const seen = await runs.get(tenantId, runId, true);
        if (seen && mode !== 'UNDELETE') {
          // Only a run that passes its own rules is worth the participants' time.
          if (validateOnly) checkOf(command)(seen, seen.updatedAt);
          const isRepeated = mode === 'SOFT_DELETE' && seen.tombstone !== undefined;
          if (!isRepeated && isTerminal(seen.state)) await assertNoBlockers(caller, seen);
        }
        if (validateOnly) {
          if (!seen && !allowMissing) throw runNotFound();
          return { run: seen, deletion: undefined };
        }
        const begun = await deletions.begin(order, checkOf(command));
        if (begun === undefined) {
          if (allowMissing) return { run: undefined, deletion: undefined };
          throw runNotFound();
        }
        crashPoint('run.delete.after-intent');
        wake();
        onOrdered(order, 'ORDERED', mode);
        const run = await runs.get(tenantId, runId, true);
        return { run, deletion: begun === 'nothing' ? undefined : begun };
      } catch (error) {
        if (error instanceof DomainError && !validateOnly && error.kind !== 'unavailable') {
          onOrdered(order, 'REFUSED', error.reason);
          await deletions.recordRefusal(order, error.reason);
        }
        throw error;
      }
    },

    async preview(caller, runId) {
      const run = await runs.get(tenantOf(caller), runId, true);
      if (!run) throw runNotFound();
      return previewOf(caller, run);
    },

    async get(caller, deletionId) {
      const deletion = await deletions.get(tenantOf(caller), deletionId);
      if (!deletion) throw deletionNotFound();
      return deletion;
    },

    list: (caller, query) => deletions.list(tenantOf(caller), query),

    async redrive(caller, deletionId, reason) {
      const deletion = await deletions.redrive(tenantOf(caller), deletionId, caller, reason);
      if (!deletion) throw deletionNotFound();
      if (deletion.state === 'COMPLETE' || deletion.state === 'CANCELLED') throw deletionFinished(deletion.state);
      wake();
      return deletion;
    },
  };
}
