import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { isId, isTenantId } from '#libs/kernel/id.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { artifactKey, jobPrefix, tenantPrefix } from '../domain/artifact.ts';
import type { FailedKey } from '../domain/deletion.ts';
import type { ArtifactIndex, JobRepository } from './ports.ts';

/** What to sweep. */
export interface SweepOrphansCommand {
  readonly caller: Caller;
  /** Undefined: every tenant that has a job or an object. */
  readonly tenantIds: readonly string[] | undefined;
  readonly validateOnly: boolean;
  /** What is younger may be an upload under way, in milliseconds. */
  readonly minAgeMs: number;
  readonly reason: string | undefined;
}

/** What was found with one tenant. */
export interface TenantSweep {
  readonly tenantId: string;
  /** Orphaned objects found, by current listing. */
  readonly found: number;
  readonly deleted: number;
  readonly bytes: number;
  readonly jobsWithoutObjects: number;
  /** Up to 100 keys of orphaned objects and ids of jobs without objects. */
  readonly orphanKeys: readonly string[];
  readonly jobIds: readonly string[];
  readonly failedKeys: readonly FailedKey[];
  /** Why the tenant was left alone, or not done to its end. */
  readonly error: string | undefined;
}

/** Compares store and jobs, tenant by tenant. A tenant for which any look-up fails loses nothing. */
export type SweepOrphans = (command: SweepOrphansCommand, signal: AbortSignal) => AsyncIterable<TenantSweep>;

/** Told of a tenant whose sweep did not come to its end. */
export type OnSweepFailed = (tenantId: string, error: unknown) => void;

/** Told of every sweep of a tenant that removed something. */
export type OnSwept = (caller: Caller, sweep: TenantSweep, reason: string | undefined) => Promise<void>;

const PAGE = 1_000;
const OBJECTS_PER_BATCH = 10_000;
const MAX_SAMPLES = 100;
const MAX_FAILED_KEYS = 10;

interface OrphanedJob {
  readonly jobId: string;
  objects: number;
  bytes: number;
}

/** Makes SweepOrphans. */
export function makeSweepOrphans(
  jobs: JobRepository,
  artifacts: ArtifactIndex,
  store: ObjectStore,
  onSwept: OnSwept,
  onFailed: OnSweepFailed,
): SweepOrphans {
  /** Every job id below the tenant's prefix whose job is not there and whose objects are all old enough. */
  const findOrphans = async (
    tenantId: string,
    youngerThan: Temporal.Instant,
  ): Promise<{ orphans: OrphanedJob[]; keys: string[] }> => {
    const prefix = tenantPrefix(tenantId);
    const seen = new Map<string, OrphanedJob & { young: boolean; firstKey: string }>();
    for (let after: string | undefined, first = true; first || after; first = false) {
      const page = await store.list(prefix, { after, limit: PAGE });
      for (const { key, bytes, modifiedAt } of page.objects) {
        const jobId = key.slice(prefix.length).split('/')[0] ?? '';
        if (!isId(jobId)) continue; // Not a key that Lethe makes: not Lethe's to remove.
        const job = seen.get(jobId) ?? { jobId, objects: 0, bytes: 0, young: false, firstKey: key };
        job.objects += 1;
        job.bytes += bytes;
        job.young ||= Temporal.Instant.compare(modifiedAt, youngerThan) > 0;
        seen.set(jobId, job);
      }
      // Those that have a row are dropped page by page, so that memory holds the orphans and not the store.
      const existing = await jobs.findExisting(tenantId, [...seen.keys()]);
      for (const jobId of existing) seen.delete(jobId);
      after = page.next;
    }
    const orphans = [...seen.values()].filter(({ young }) => !young);
    return { orphans, keys: orphans.map(({ firstKey }) => firstKey) };
  };

  const findJobsWithoutObjects = async (tenantId: string, minAgeMs: number): Promise<string[]> => {
    const missing = new Set<string>();
    for (let after: readonly string[] | undefined, first = true; first || after; first = false) {
      const page = await artifacts.listStored(tenantId, minAgeMs, { limit: PAGE, after });
      for (const { jobId, kind, name } of page.items) {
        if (missing.has(jobId)) continue;
        const key = artifactKey(tenantId, jobId, kind, name);
        const { objects } = await store.list(key.slice(0, key.lastIndexOf('/') + 1), { after: before(key), limit: 1 });
        if (objects[0]?.key !== key) missing.add(jobId);
      }
      after = page.next;
    }
    return [...missing];
  };

  const sweepTenant = async (
    command: SweepOrphansCommand,
    tenantId: string,
    signal: AbortSignal,
  ): Promise<TenantSweep> => {
    const { validateOnly, minAgeMs, caller, reason } = command;
    const youngerThan = (await jobs.now()).subtract({ milliseconds: minAgeMs });
    const { orphans, keys } = await findOrphans(tenantId, youngerThan);
    const jobIds = await findJobsWithoutObjects(tenantId, minAgeMs);
    const found: TenantSweep = {
      ...NOTHING_FOUND,
      tenantId,
      found: orphans.reduce((sum, { objects }) => sum + objects, 0),
      bytes: orphans.reduce((sum, { bytes }) => sum + bytes, 0),
      jobsWithoutObjects: jobIds.length,
      orphanKeys: keys.slice(0, MAX_SAMPLES),
      jobIds: jobIds.slice(0, MAX_SAMPLES),
    };
    if (validateOnly) return found;
    const removed = await removeOrphans(tenantId, orphans, signal);
    const sweep = { ...found, ...removed };
    if (sweep.deleted > 0) await onSwept(caller, sweep, reason);
    return sweep;
  };

  /** Removes until something fails; what went before that is told all the same. */
  const removeOrphans = async (
    tenantId: string,
    orphans: readonly OrphanedJob[],
    signal: AbortSignal,
  ): Promise<Pick<TenantSweep, 'deleted' | 'failedKeys' | 'error'>> => {
    let deleted = 0;
    const failedKeys: FailedKey[] = [];
    try {
      for (const { jobId } of orphans) {
        // Asked once more, right before: a job created since the listing keeps its objects.
        if ((await jobs.findExisting(tenantId, [jobId])).size > 0) continue;
        for (let goesOn = true; goesOn; ) {
          const removal = await store.removePrefix(jobPrefix(tenantId, jobId), { limit: OBJECTS_PER_BATCH, signal });
          deleted += removal.objects;
          failedKeys.push(...removal.failures.slice(0, MAX_FAILED_KEYS - failedKeys.length));
          goesOn = removal.progress === 'PARTIAL' && removal.objects + removal.markers + removal.uploads > 0;
        }
      }
    } catch (error) {
      onFailed(tenantId, error);
      return { deleted, failedKeys, error: toSentence(error) };
    }
    return { deleted, failedKeys, error: undefined };
  };

  return async function* (command, signal) {
    const tenantIds = command.tenantIds ?? (await findAllTenants(jobs, store));
    for (const tenantId of tenantIds) {
      signal.throwIfAborted();
      try {
        yield await sweepTenant(command, tenantId, signal);
      } catch (error) {
        onFailed(tenantId, error);
        yield { ...NOTHING_FOUND, tenantId, error: toSentence(error) };
      }
    }
  };
}

const NOTHING_FOUND = {
  found: 0,
  deleted: 0,
  bytes: 0,
  jobsWithoutObjects: 0,
  orphanKeys: [],
  jobIds: [],
  failedKeys: [],
  error: undefined,
} satisfies Omit<TenantSweep, 'tenantId'>;

const toSentence = (error: unknown): string =>
  error instanceof DomainError
    ? `${error.reason}: ${error.message}`
    : 'INTERNAL: Something went wrong inside; it was logged.';

/** Tenants with a job, and those that only the store still knows. */
async function findAllTenants(jobs: JobRepository, store: ObjectStore): Promise<string[]> {
  const tenants = new Set(await jobs.findTenants());
  for (let after: string | undefined; ; ) {
    const { objects } = await store.list('tenants/', { after, limit: 1 });
    const tenantId = objects[0]?.key.split('/')[1];
    if (tenantId === undefined) break;
    if (isTenantId(tenantId)) tenants.add(tenantId);
    // Past everything of this tenant: `0` is the character after `/`.
    after = `tenants/${tenantId}0`;
  }
  return [...tenants].toSorted();
}

/** The greatest text below a key that matters here: listing after it begins with the key itself. */
const before = (key: string): string =>
  `${key.slice(0, -1)}${String.fromCharCode(key.charCodeAt(key.length - 1) - 1)}\uffff`;
