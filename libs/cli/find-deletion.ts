import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Lethe, LetheError, toLetheError } from '#libs/client/lethe.ts';
import { mergeNewest } from './merge-newest.ts';

/** Which service keeps a deletion: that of its target. */
export type Keeper = 'run' | 'job';

const KEEPERS: readonly Keeper[] = ['run', 'job'];

/** A deletion, and the service that keeps it. */
export interface KeptDeletion {
  readonly keeper: Keeper;
  readonly deletion: Deletion;
}

/**
 * Finds a deletion by its id in whichever service has it, or in the named one. Where none has it, DELETION_NOT_FOUND
 * says so when the id is that of a run or a job whose deletions there are; a service that could not be asked is told by
 * its own error.
 */
export async function findDeletion(lethe: Lethe, deletionId: string, keeper?: Keeper): Promise<KeptDeletion> {
  const keepers = keeper ? [keeper] : KEEPERS;
  const asked = await Promise.allSettled(
    keepers.map(async (of) => ({ keeper: of, deletion: await lethe.deletions.get(deletionId, { of }) })),
  );
  const found = asked.find((answer) => answer.status === 'fulfilled');
  if (found) return found.value;
  const errors = asked.flatMap((answer) => (answer.status === 'rejected' ? [toLetheError(answer.reason)] : []));
  throw (await byTarget(lethe, deletionId, keepers)) ?? worstOf(errors);
}

/** A service that has no address matters only where no other could be asked; NOT_FOUND only where every one said so. */
function worstOf(errors: readonly LetheError[]): LetheError {
  const answered = errors.filter(({ reason }) => reason !== 'ADDRESS_MISSING');
  const [first] = answered.filter(({ reason }) => reason !== 'DELETION_NOT_FOUND');
  return first ?? answered[0] ?? errors[0] ?? new LetheError('INTERNAL', 'INTERNAL', 'no service was asked');
}

async function byTarget(lethe: Lethe, id: string, keepers: readonly Keeper[]): Promise<LetheError | undefined> {
  for (const of of keepers) {
    const found = await firstDeletions(lethe, id, of);
    const [only, another] = found;
    if (!only) continue;
    const message = another
      ? `${id} is a ${of}, not a deletion; \`lethe deletions list --target ${id}\` shows its deletions.`
      : `${id} is a ${of}, not a deletion; its only deletion is ${only.id}: \`lethe deletions get ${only.id}\`.`;
    return new LetheError('NOT_FOUND', 'DELETION_NOT_FOUND', message, { metadata: { targetId: id } });
  }
  return undefined;
}

async function firstDeletions(lethe: Lethe, targetId: string, of: Keeper): Promise<readonly Deletion[]> {
  const found: Deletion[] = [];
  try {
    for await (const deletion of lethe.deletions.list({ of, targetId })) {
      found.push(deletion);
      if (found.length === 2) break;
    }
  } catch {
    // The error of the look-up by id is what is told.
  }
  return found;
}

type ListFilter = Omit<NonNullable<Parameters<Lethe['deletions']['list']>[0]>, 'of'>;

/** Every deletion in both services, newest first, or in the named one. */
export const listDeletions = (
  lethe: Lethe,
  { keeper, ...filter }: ListFilter & { readonly keeper?: Keeper },
): AsyncIterable<Deletion> =>
  mergeNewest((keeper ? [keeper] : KEEPERS).map((of) => lethe.deletions.list({ of, ...filter })));
