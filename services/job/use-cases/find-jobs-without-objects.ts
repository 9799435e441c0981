import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { type Artifact, jobPrefix, objectKey } from '../domain/artifact.ts';
import type { ArtifactIndex } from './ports.ts';

/** The jobs of a tenant of whose objects the store lacks one: how many, and the ids of the first. */
export interface JobsWithoutObjects {
  readonly count: number;
  /** Up to 100. */
  readonly jobIds: readonly string[];
}

/**
 * Finds the jobs whose stored artifacts, older than `minAgeMs`, point at an object that the store does not have. What was
 * removed or replaced during the look is no such artifact.
 */
export type FindJobsWithoutObjects = (
  tenantId: string,
  minAgeMs: number,
  signal: AbortSignal,
) => Promise<JobsWithoutObjects>;

const ROWS_PER_PAGE = 1_000;
// A request to S3: the store looks one object further than it is asked to.
const OBJECTS_PER_LISTING = 999;
const JOBS_AT_A_TIME = 16;
const MAX_SAMPLES = 100;

/** Makes FindJobsWithoutObjects. It holds a page of rows, and of each job that it looks at a page of its listing. */
export function makeFindJobsWithoutObjects(
  artifacts: Pick<ArtifactIndex, 'listStored' | 'findStored'>,
  store: Pick<ObjectStore, 'list'>,
): FindJobsWithoutObjects {
  /** Those artifacts of one job whose object is not listed. */
  const findUnlisted = async (
    tenantId: string,
    jobId: string,
    wanted: readonly Artifact[],
    signal: AbortSignal,
  ): Promise<Artifact[]> => {
    const byKey = new Map(wanted.map((artifact) => [objectKey(tenantId, artifact), artifact]));
    const unlisted: Artifact[] = [];
    let rest = [...byKey.keys()].toSorted();
    let after = before(rest[0] ?? '');
    while (rest.length > 0) {
      signal.throwIfAborted();
      const { objects, next } = await store.list(jobPrefix(tenantId, jobId), { after, limit: OBJECTS_PER_LISTING });
      const listed = new Set(objects.map(({ key }) => key));
      // The listing tells of every key up to its last one; the next goes on at the next key that is wanted.
      const told = rest.filter((key) => next === undefined || key <= next);
      unlisted.push(...told.filter((key) => !listed.has(key)).flatMap((key) => byKey.get(key) ?? []));
      rest = rest.slice(told.length);
      after = next === undefined || told.length > 0 ? before(rest[0] ?? '') : next;
    }
    return unlisted;
  };

  return async (tenantId, minAgeMs, signal) => {
    let count = 0;
    const jobIds: string[] = [];
    // The job that the page before ended with, where it has been counted.
    let counted = '';
    for (let after: readonly string[] | undefined, first = true; first || after; first = false) {
      signal.throwIfAborted();
      const page = await artifacts.listStored(tenantId, minAgeMs, { limit: ROWS_PER_PAGE, after });
      const ofJobs = [...Map.groupBy(page.items, ({ jobId }) => jobId)].filter(([jobId]) => jobId !== counted);
      const unlisted: Artifact[] = [];
      for (let at = 0; at < ofJobs.length; at += JOBS_AT_A_TIME) {
        const some = ofJobs.slice(at, at + JOBS_AT_A_TIME);
        const found = await Promise.all(some.map(([jobId, wanted]) => findUnlisted(tenantId, jobId, wanted, signal)));
        unlisted.push(...found.flat());
      }
      // Asked after the listing: an object goes only after its row points elsewhere, or its job is being removed.
      const missing = unlisted.length === 0 ? [] : await artifacts.findStored(tenantId, unlisted);
      const without = new Set(missing.map(({ jobId }) => jobId));
      const told = ofJobs.map(([jobId]) => jobId).filter((jobId) => without.has(jobId));
      count += told.length;
      jobIds.push(...told.slice(0, MAX_SAMPLES - jobIds.length));
      const last = page.items.at(-1)?.jobId ?? '';
      if (without.has(last)) counted = last;
      after = page.next;
    }
    return { count, jobIds };
  };
}

/** A text below a key with none of Lethe's keys between them, which have no `~`: listing after it begins with the key. */
const before = (key: string): string =>
  `${key.slice(0, -1)}${String.fromCharCode(key.charCodeAt(key.length - 1) - 1)}~`;
