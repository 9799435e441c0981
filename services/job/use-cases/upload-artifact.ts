import { type Artifact, assertTakesUpload } from '../domain/artifact.ts';
import type { StoreArtifact, StoreArtifactCommand } from './store-artifact.ts';
import type { UploadTurns } from './upload-turns.ts';

/** What is uploaded, and by whom. */
export type UploadArtifactCommand = Omit<StoreArtifactCommand, 'check' | 'ifAbsent'>;

/**
 * Stores an artifact that a caller sends, once it is its turn, if the job takes it from this caller then. Errors as of
 * StoreArtifact.
 */
export type UploadArtifact = (command: UploadArtifactCommand) => Promise<Artifact>;

/** Makes UploadArtifact. */
export const makeUploadArtifact =
  (storeArtifact: StoreArtifact, turns: UploadTurns): UploadArtifact =>
  async (command) => {
    const giveBack = await turns.take(command.tenantId, command.signal);
    try {
      return await storeArtifact({
        ...command,
        ifAbsent: false,
        check: (job, now) => assertTakesUpload(job, command.kind, command.leaseToken, now),
      });
    } finally {
      giveBack();
    }
  };
