import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Blocker, Sample } from '#libs/participant/participant.ts';
import { OWN_PARTICIPANT } from '../domain/deletion.ts';
import { participantUnknown, retentionGuard, runNotFound } from '../domain/errors.ts';
import { purgeableAt } from '../domain/run.ts';
import type { DeletionRepository, Participant, RunRepository } from './ports.ts';

const MAX_BLOCKERS = 100;
const MAX_SAMPLES = 100;

/** What a purge would take, from the predicates that it uses. */
export interface PurgePreview {
  readonly participants: readonly {
    readonly participant: string;
    readonly counts: readonly ResourceCount[];
    readonly samples: readonly Sample[];
  }[];
  readonly blockers: readonly Blocker[];
  /** When the age guard lets the run go; undefined when it does already. */
  readonly purgeableAt: Temporal.Instant | undefined;
}

/** Asks every participant, RunService's own rows last; DEPENDENCY_UNAVAILABLE when one does not answer. */
export async function askForPreviews(
  participants: readonly Participant[],
  caller: Caller,
  tenantId: string,
  runId: string,
): Promise<{ readonly participants: PurgePreview['participants']; readonly blockers: readonly Blocker[] }> {
  const previews = await Promise.all(
    participants.map(async (participant) => {
      const { name } = participant;
      const call = { tenantId, actor: caller.actor, operationId: runId, step: name, runId, reason: undefined };
      const { counts, blockers, samples } = await participant.preview(call);
      return { participant: name, counts, blockers, samples: samples.slice(0, MAX_SAMPLES) };
    }),
  );
  return {
    participants: previews.map(({ participant, counts, samples }) => ({ participant, counts, samples })),
    blockers: previews.flatMap(({ blockers }) => blockers),
  };
}

/** Throws PARTICIPANT_UNKNOWN when one of these names is not among the configured participants. */
export function assertConfigured(participants: readonly Participant[], names: readonly string[]): void {
  const missing = names.find((name) => !participants.some((participant) => participant.name === name));
  if (missing !== undefined) throw participantUnknown(missing);
}

/**
 * Previews the purge of a run, hidden or not. RUN_NOT_FOUND; DEPENDENCY_UNAVAILABLE when a participant does not answer;
 * PARTICIPANT_UNKNOWN when one that may hold data of the run is not configured.
 */
export type PreviewPurge = (caller: Caller, runId: string) => Promise<PurgePreview>;

/** Makes PreviewPurge over all participants of a cascade. */
export const makePreviewPurge =
  (
    runs: RunRepository,
    deletions: Pick<DeletionRepository, 'participantsOf'>,
    participants: readonly Participant[],
    minPurgeAgeHours: number,
  ): PreviewPurge =>
  async (caller, runId) => {
    const tenantId = tenantOf(caller);
    const inspected = await runs.inspect(tenantId, runId);
    if (!inspected) throw runNotFound();
    const configured = participants.map(({ name }) => name).filter((name) => name !== OWN_PARTICIPANT);
    assertConfigured(participants, await deletions.participantsOf(tenantId, runId, configured));
    const { participants: asked, blockers } = await askForPreviews(participants, caller, tenantId, runId);
    const at = purgeableAt(inspected.run, minPurgeAgeHours);
    const isGuarded = Temporal.Instant.compare(inspected.now, at) < 0;
    const { reason, message } = retentionGuard(at);
    const guard: Blocker[] = isGuarded ? [{ reason, resourceType: 'run', resourceId: runId, message }] : [];
    return {
      participants: asked,
      blockers: [...guard, ...blockers].slice(0, MAX_BLOCKERS),
      purgeableAt: isGuarded ? at : undefined,
    };
  };
