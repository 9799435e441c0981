import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { isId, isTenantId } from '#libs/kernel/id.ts';
import type { Contents, ObjectStore } from '#libs/object-store/object-store.ts';
import { jobPrefix, objectKey, tenantPrefix } from '../domain/artifact.ts';
import type { FailedKey } from '../domain/deletion.ts';
import type { ArtifactIndex, JobRepository, SweepAudit, TenantSweep } from './ports.ts';

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

/** Compares store and jobs, tenant by tenant. A tenant for which any look-up fails loses nothing. */
export type SweepOrphans = (command: SweepOrphansCommand, signal: AbortSignal) => AsyncIterable<TenantSweep>;

/** Told of a tenant whose sweep did not come to its end. */
export type OnSweepFailed = (tenantId: string, error: unknown) => void;

const PAGE = 1_000;
const OBJECTS_PER_BATCH = 10_000;
const MAX_SAMPLES = 100;
const MAX_FAILED_KEYS = 10;
const NOTHING: Contents = Object.freeze({ versions: 0, markers: 0, uploads: 0, bytes: 0 });

interface OrphanedJob {
  readonly jobId: string;
  readonly prefix: string;
  readonly firstKey: string;
  readonly contents: Contents;
}

/** Makes SweepOrphans. */
export function makeSweepOrphans(
  jobs: JobRepository,
  artifacts: ArtifactIndex,
  store: ObjectStore,
  audit: SweepAudit,
  onFailed: OnSweepFailed,
): SweepOrphans {
  /** Every job id below the tenant's prefix whose job is not there and whose objects are all old enough. */
  const findOrphans = async (tenantId: string, youngerThan: Temporal.Instant): Promise<OrphanedJob[]> => {
    const tenant = tenantPrefix(tenantId);
    const seen = new Map<string, { readonly firstKey: string; young: boolean }>();
    for (let after: string | undefined, first = true; first || after; first = false) {
      const page = await store.list(tenant, { after, limit: PAGE });
      for (const { key, modifiedAt } of page.objects) {
        const jobId = key.slice(tenant.length).split('/')[0] ?? '';
        if (!isId(jobId)) continue; // Not a key that Lethe makes: not Lethe's to remove.
        const job = seen.get(jobId) ?? { firstKey: key, young: false };
        job.young ||= Temporal.Instant.compare(modifiedAt, youngerThan) > 0;
        seen.set(jobId, job);
      }
      // Those that have a row are dropped page by page, so that memory holds the orphans and not the store.
      const existing = await jobs.findExisting(tenantId, [...seen.keys()]);
      for (const jobId of existing) seen.delete(jobId);
      after = page.next;
    }
    const orphans: OrphanedJob[] = [];
    for (const [jobId, { firstKey, young }] of seen) {
      if (young) continue;
      const prefix = jobPrefix(tenantId, jobId);
      // The listing shows current objects; what a removal takes is more than that in a versioned bucket.
      orphans.push({ jobId, prefix, firstKey, contents: await store.count(prefix) });
    }
    return orphans;
  };

  const findJobsWithoutObjects = async (tenantId: string, minAgeMs: number): Promise<string[]> => {
    const missing = new Set<string>();
    for (let after: readonly string[] | undefined, first = true; first || after; first = false) {
      const page = await artifacts.listStored(tenantId, minAgeMs, { limit: PAGE, after });
      for (const artifact of page.items) {
        const { jobId } = artifact;
        if (missing.has(jobId)) continue;
        const key = objectKey(tenantId, artifact);
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
    const orphans = await findOrphans(tenantId, youngerThan);
    const jobIds = await findJobsWithoutObjects(tenantId, minAgeMs);
    const found = orphans.reduce((sum, { contents }) => add(sum, contents), NOTHING);
    const sweep: TenantSweep = {
      ...NOTHING_FOUND,
      tenantId,
      found,
      left: found,
      jobsWithoutObjects: jobIds.length,
      orphanKeys: orphans.slice(0, MAX_SAMPLES).map(({ firstKey }) => firstKey),
      jobIds: jobIds.slice(0, MAX_SAMPLES),
    };
    if (validateOnly || orphans.length === 0) return sweep;
    await audit.begin(caller, sweep, reason);
    const swept = { ...sweep, ...(await removeOrphans(tenantId, orphans, signal)) };
    try {
      await audit.end(caller, swept, reason);
    } catch (error) {
      // What is gone is told all the same; that it was to go is in the audit since before.
      onFailed(tenantId, error);
      return { ...swept, error: swept.error ?? toSentence(error) };
    }
    return swept;
  };

  /** Removes orphan after orphan until something fails; what went before that is told all the same. */
  const removeOrphans = async (
    tenantId: string,
    orphans: readonly OrphanedJob[],
    signal: AbortSignal,
  ): Promise<Pick<TenantSweep, 'found' | 'deleted' | 'left' | 'failedKeys' | 'error'>> => {
    let found = orphans.reduce((sum, { contents }) => add(sum, contents), NOTHING);
    let [deleted, left] = [NOTHING, found];
    const failedKeys: FailedKey[] = [];
    try {
      for (const { jobId, prefix, contents } of orphans) {
        // Asked once more, right before: objects that have a job by now are no orphans.
        if ((await jobs.findExisting(tenantId, [jobId])).size > 0) {
          [found, left] = [subtract(found, contents), subtract(left, contents)];
          continue;
        }
        let failures: readonly FailedKey[] = [];
        for (let goesOn = true; goesOn; ) {
          const removal = await store.removePrefix(prefix, { limit: OBJECTS_PER_BATCH, signal });
          const { objects: versions, markers, uploads, bytes } = removal;
          const gone = { versions, markers, uploads, bytes };
          [deleted, left] = [add(deleted, gone), subtract(left, gone)];
          // Each pass meets again what the one before could not remove.
          failures = removal.failures;
          goesOn = removal.progress === 'PARTIAL' && versions + markers + uploads > 0;
        }
        failedKeys.push(...failures.slice(0, MAX_FAILED_KEYS - failedKeys.length));
      }
      // Read back rather than believed.
      left = NOTHING;
      for (const { jobId, prefix } of orphans) {
        if ((await jobs.findExisting(tenantId, [jobId])).size === 0) left = add(left, await store.count(prefix));
      }
    } catch (error) {
      onFailed(tenantId, error);
      return { found, deleted, left, failedKeys, error: toSentence(error) };
    }
    return { found, deleted, left, failedKeys, error: undefined };
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

const add = (a: Contents, b: Contents): Contents => ({
  versions: a.versions + b.versions,
  markers: a.markers + b.markers,
  uploads: a.uploads + b.uploads,
  bytes: a.bytes + b.bytes,
});

/** Never below nothing: between the two countings something may have come. */
const subtract = (a: Contents, b: Contents): Contents => ({
  versions: Math.max(0, a.versions - b.versions),
  markers: Math.max(0, a.markers - b.markers),
  uploads: Math.max(0, a.uploads - b.uploads),
  bytes: Math.max(0, a.bytes - b.bytes),
});

const NOTHING_FOUND = {
  found: NOTHING,
  deleted: NOTHING,
  left: NOTHING,
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
