import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { type Deletion, isSettled } from '../domain/deletion.ts';
import { deletionFinished, deletionNotFound } from '../domain/errors.ts';
import type { DeletionRecords } from './ports.ts';

/** Sets a STUCK deletion going again; one under way stays as it is. DELETION_NOT_FOUND, DELETION_FINISHED. */
export type RedriveDeletion = (caller: Caller, deletionId: string, reason: string | undefined) => Promise<Deletion>;

/** Makes RedriveDeletion. `wake` tells the workers that something is due. */
export const makeRedriveDeletion =
  (deletions: DeletionRecords, wake: () => void): RedriveDeletion =>
  async (caller, deletionId, reason) => {
    const deletion = await deletions.redrive(tenantOf(caller), deletionId, caller, reason);
    if (!deletion) throw deletionNotFound();
    if (isSettled(deletion.state)) throw deletionFinished(deletion.state);
    wake();
    return deletion;
  };
