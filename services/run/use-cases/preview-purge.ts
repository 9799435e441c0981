import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import type { Blocker } from '#libs/participant/participant.ts';
import { OWN_PARTICIPANT, purgeableAt } from '../domain/deletion.ts';
import { retentionGuard, runNotFound } from '../domain/errors.ts';
import { askForPreview, assertConfigured } from './ask-participants.ts';
import type { DeletionOrders, Participant, ParticipantPreviews } from './deletion-ports.ts';
import type { PurgeGuard } from './order-deletion.ts';
import type { RunRepository } from './ports.ts';

const MAX_BLOCKERS = 100;

/** What a purge would take, from the predicates that it uses. */
export interface PurgePreview {
  readonly participants: ParticipantPreviews;
  readonly blockers: readonly Blocker[];
  /** When the age guard lets the run go; undefined when it does already. */
  readonly purgeableAt: Temporal.Instant | undefined;
}

/**
 * Previews the purge of a run, hidden or not. RUN_NOT_FOUND; DEPENDENCY_UNAVAILABLE when a participant does not answer;
 * PARTICIPANT_UNKNOWN when one that may hold data of the run is not configured.
 */
export type PreviewPurge = (caller: Caller, runId: string, signal?: AbortSignal) => Promise<PurgePreview>;

/** Makes PreviewPurge over all participants of a cascade. */
export const makePreviewPurge =
  (
    runs: RunRepository,
    deletions: Pick<DeletionOrders, 'participantsOf'>,
    participants: readonly Participant[],
    { minPurgeAgeHours }: PurgeGuard,
  ): PreviewPurge =>
  async (caller, runId, signal) => {
    const tenantId = tenantOf(caller);
    const inspected = await runs.inspect(tenantId, runId);
    if (!inspected) throw runNotFound();
    const configured = participants.map(({ name }) => name).filter((name) => name !== OWN_PARTICIPANT);
    assertConfigured(participants, await deletions.participantsOf(tenantId, runId, configured));
    const run = { caller, tenantId, runId };
    const previews = await Promise.all(participants.map((each) => askForPreview(each, run, { signal })));
    const blockers = previews.flatMap((preview) => preview.blockers);
    const at = purgeableAt(inspected.run, minPurgeAgeHours);
    const isGuarded = Temporal.Instant.compare(inspected.now, at) < 0;
    const { reason, message } = retentionGuard(at);
    const guard: Blocker[] = isGuarded ? [{ reason, resourceType: 'run', resourceId: runId, message }] : [];
    return {
      participants: previews,
      blockers: [...guard, ...blockers].slice(0, MAX_BLOCKERS),
      purgeableAt: isGuarded ? at : undefined,
    };
  };
