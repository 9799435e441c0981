import type { Caller } from '#libs/kernel/caller.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { type Artifact, type ArtifactKind, artifactKey } from '../domain/artifact.ts';
import { artifactNotFound } from '../domain/errors.ts';
import type { ArtifactIndex } from './ports.ts';
import type { ReadJobs } from './read-jobs.ts';

/** An artifact and its bytes; JOB_NOT_FOUND or ARTIFACT_NOT_FOUND. */
export type DownloadArtifact = (command: {
  caller: Caller;
  jobId: string;
  kind: ArtifactKind;
  name: string;
  showDeleted: boolean;
  signal: AbortSignal;
}) => Promise<{ artifact: Artifact; body: AsyncIterable<Uint8Array> }>;

/** Makes DownloadArtifact. */
export const makeDownloadArtifact =
  (readJobs: ReadJobs, artifacts: ArtifactIndex, store: ObjectStore): DownloadArtifact =>
  async ({ caller, jobId, kind, name, showDeleted, signal }) => {
    const job = await readJobs.get(caller, jobId, showDeleted);
    const artifact = await artifacts.get(job.tenantId, job.id, kind, name);
    if (!artifact) throw artifactNotFound();
    const stored = await store.get(artifactKey(job.tenantId, job.id, kind, name), signal);
    if (!stored) throw artifactNotFound();
    return { artifact, body: stored.body };
  };
