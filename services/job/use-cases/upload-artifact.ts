import { type Artifact, assertTakesUpload } from '../domain/artifact.ts';
import type { StoreArtifact, StoreArtifactCommand } from './store-artifact.ts';

/** What is uploaded, and by whom. */
export type UploadArtifactCommand = Omit<StoreArtifactCommand, 'check' | 'ifAbsent'>;

/** Stores an artifact that a caller sends, if the job takes it from this caller now. Errors as of StoreArtifact. */
export type UploadArtifact = (command: UploadArtifactCommand) => Promise<Artifact>;

/** Makes UploadArtifact. */
export const makeUploadArtifact =
  (storeArtifact: StoreArtifact): UploadArtifact =>
  (command) =>
    storeArtifact({
      ...command,
      ifAbsent: false,
      check: (job, now) => assertTakesUpload(job, command.kind, command.leaseToken, now),
    });
