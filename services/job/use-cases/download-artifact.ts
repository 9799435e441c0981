import { createHash } from 'node:crypto';
import type { Caller } from '#libs/kernel/caller.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { type Artifact, type ArtifactKind, objectKey } from '../domain/artifact.ts';
import { artifactCorrupt, artifactNotFound } from '../domain/errors.ts';
import type { ArtifactIndex } from './ports.ts';
import type { ReadJobs } from './read-jobs.ts';

/**
 * An artifact and its bytes; JOB_NOT_FOUND or ARTIFACT_NOT_FOUND. The body fails with DATA_LOSS/ARTIFACT_CORRUPT, before
 * its end, where size or digest are not those of the row.
 */
export type DownloadArtifact = (command: {
  caller: Caller;
  jobId: string;
  kind: ArtifactKind;
  name: string;
  showDeleted: boolean;
  signal: AbortSignal;
}) => Promise<{ artifact: Artifact; body: AsyncIterable<Uint8Array> }>;

// How often an artifact may be replaced between the look at its row and the one at its object.
const ATTEMPTS = 5;

/** Makes DownloadArtifact. */
export const makeDownloadArtifact =
  (readJobs: ReadJobs, artifacts: ArtifactIndex, store: ObjectStore): DownloadArtifact =>
  async ({ caller, jobId, kind, name, showDeleted, signal }) => {
    const job = await readJobs.get(caller, jobId, showDeleted);
    let last: Artifact | undefined;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      const artifact = await artifacts.get(job.tenantId, job.id, kind, name);
      if (!artifact || (last && artifact.objectId === last.objectId)) throw artifactNotFound();
      const stored = await store.get(objectKey(job.tenantId, artifact), signal);
      if (stored && stored.bytes !== artifact.bytes) throw artifactCorrupt();
      if (stored) return { artifact, body: verified(artifact, stored.body) };
      // It was replaced in between, or it is not there: its row tells which.
      last = artifact;
    }
    throw artifactNotFound();
  };

/** The bytes as they come; throws in the place of the end where they were not the artifact's. */
async function* verified({ bytes, sha256 }: Artifact, body: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  const hash = createHash('sha256');
  let sent = 0;
  for await (const chunk of body) {
    sent += chunk.length;
    if (sent > bytes) throw artifactCorrupt();
    hash.update(chunk);
    yield chunk;
  }
  if (sent !== bytes || (sha256 !== undefined && hash.digest('hex') !== sha256)) throw artifactCorrupt();
}
