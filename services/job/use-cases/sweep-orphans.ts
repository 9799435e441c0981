import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { isId, isTenantId } from '#libs/kernel/id.ts';
import { type Contents, isKey, type ObjectStore, type StoredItem } from '#libs/object-store/object-store.ts';
import { jobPrefix, objectKey, parseObjectKey, tenantPrefix } from '../domain/artifact.ts';
import type { FailedKey } from '../domain/deletion.ts';
import type { CheckStore } from './check-store.ts';
import { makeFindJobsWithoutObjects } from './find-jobs-without-objects.ts';
import type { ArtifactIndex, JobRepository, OrphanReports, SweepAudit, TenantSweep } from './ports.ts';

/** What to sweep. */
export interface SweepOrphansCommand {
  readonly caller: Caller;
  /** Undefined: every tenant that has a job or an object. */
  readonly tenantIds: readonly string[] | undefined;
  readonly validateOnly: boolean;
  /** What is younger may be an upload under way, in milliseconds. */
  readonly minAgeMs: number;
  readonly reason: string | undefined;
  /** At most this share of a tenant's versions, markers and uploads goes; undefined for the service's own. */
  readonly maxSharePercent?: number | undefined;
  /** Whether tenants that have objects and not one job are swept. */
  readonly tenantsWithoutJobs?: boolean;
}

/** Compares store and jobs, tenant by tenant. A tenant for which any look-up fails loses nothing. */
export type SweepOrphans = (command: SweepOrphansCommand, signal: AbortSignal) => AsyncIterable<TenantSweep>;

/** Told of a tenant whose sweep did not come to its end. */
export type OnSweepFailed = (tenantId: string, error: unknown) => void;

const OBJECTS_PER_BATCH = 10_000;
const MAX_SAMPLES = 100;
const MAX_FAILED_KEYS = 10;
const FAULT = 'Something went wrong inside; it was logged.';
// Of every key that Lethe makes below a tenant's prefix: job, kind, name.
const SEGMENTS = 3;
// Fewer are swept whatever their share: of three objects one is a third.
const CEILING_FROM = 10;
const NOTHING: Contents = Object.freeze({ versions: 0, markers: 0, uploads: 0, bytes: 0 });

/** Everything that no row keeps in mind below a job's prefix, or at one key of a job that is there. */
interface Orphan {
  readonly jobId: string;
  /** Undefined for all of a job that is not there. */
  readonly key: string | undefined;
  readonly firstKey: string;
  young: boolean;
  contents: Contents;
}

/** What was found of one tenant. */
interface Findings {
  readonly orphans: readonly Orphan[];
  /** What no row keeps in mind either, under keys that the store cannot be asked to remove alone. */
  readonly foreign: readonly Orphan[];
  /** Versions, markers and open uploads of the tenant, orphans included. */
  readonly items: number;
}

/** Makes SweepOrphans. `ceilingPercent` of a tenant's items are the most that a sweep takes unless it is told more. */
export function makeSweepOrphans(
  jobs: JobRepository,
  artifacts: ArtifactIndex,
  store: ObjectStore,
  checkStore: CheckStore,
  audit: SweepAudit,
  reports: OrphanReports,
  ceilingPercent: number,
  onFailed: OnSweepFailed,
): SweepOrphans {
  /** Everything below the tenant's prefix that no row keeps in mind and that is all old enough. */
  const findOrphans = async (
    tenantId: string,
    youngerThan: Temporal.Instant,
    signal: AbortSignal,
  ): Promise<Findings> => {
    const prefix = tenantPrefix(tenantId);
    const ofJobs = new Map<string, Orphan>();
    const ofKeys = new Map<string, Orphan>();
    const foreign = new Map<string, Orphan>();
    let items = 0;
    const note = (
      found: Map<string, Orphan>,
      id: string,
      orphan: Omit<Orphan, 'young' | 'contents'>,
      item: StoredItem,
    ) => {
      const known = found.get(id) ?? { ...orphan, young: false, contents: NOTHING };
      known.young ||= Temporal.Instant.compare(item.modifiedAt, youngerThan) > 0;
      known.contents = add(known.contents, contentsOf(item));
      found.set(id, known);
    };
    for await (const page of store.survey(prefix, signal)) {
      const ours = page.filter(({ key }) => isId(jobIdOf(prefix, key))); // The rest is nothing that Lethe makes.
      items += ours.length;
      const existing = await jobs.findExisting(tenantId, [...new Set(ours.map(({ key }) => jobIdOf(prefix, key)))]);
      const ofExisting = ours.filter(({ key }) => existing.has(jobIdOf(prefix, key)));
      const asked = ofExisting.flatMap(({ key }) => parseObjectKey(tenantId, key));
      const known = asked.length === 0 ? [] : await artifacts.findKnown(tenantId, asked);
      const knownKeys = new Set(known.map((object) => objectKey(tenantId, object)));
      for (const item of ours) {
        const { key } = item;
        const jobId = jobIdOf(prefix, key);
        const isOfGone = !existing.has(jobId) && key.startsWith(jobPrefix(tenantId, jobId));
        if (isOfGone) note(ofJobs, jobId, { jobId, key: undefined, firstKey: key }, item);
        else if (!knownKeys.has(key)) {
          note(isRemovable(prefix, key) ? ofKeys : foreign, key, { jobId, key, firstKey: key }, item);
        }
      }
    }
    const isOld = ({ young }: Orphan): boolean => !young;
    return {
      orphans: [...ofJobs.values(), ...ofKeys.values()].filter(isOld),
      foreign: [...foreign.values()].filter(isOld),
      items,
    };
  };

  /** Why the orphans of a tenant may not be what they look like; undefined where nothing speaks against it. */
  const findDoubt = async (
    { maxSharePercent = ceilingPercent, tenantsWithoutJobs }: SweepOrphansCommand,
    tenantId: string,
    { orphans, items }: Findings,
  ): Promise<string | undefined> => {
    if (!tenantsWithoutJobs && !(await jobs.hasAny(tenantId))) {
      return `TENANT_WITHOUT_JOBS: The store holds ${items} objects of this tenant and the database not one job. Is it the right database? Name the tenant and allow it to sweep all of them.`;
    }
    const doomed = orphans.reduce((sum, { contents }) => sum + itemsOf(contents), 0);
    if (doomed <= CEILING_FROM || doomed * 100 <= items * maxSharePercent) return undefined;
    return `SHARE_CEILING: ${doomed} of ${items} objects would go, more than ${maxSharePercent} %. Raise the share to sweep them.`;
  };

  const findJobsWithoutObjects = makeFindJobsWithoutObjects(artifacts, store);

  const hasRow = async (tenantId: string, { jobId, key }: Orphan): Promise<boolean> => {
    const isThere = (await jobs.findExisting(tenantId, [jobId])).size > 0;
    if (key === undefined || !isThere) return isThere;
    return (await artifacts.findKnown(tenantId, parseObjectKey(tenantId, key))).length > 0;
  };

  const remove = (tenantId: string, { jobId, key }: Orphan, options: { limit: number; signal: AbortSignal }) =>
    key === undefined ? store.removePrefix(jobPrefix(tenantId, jobId), options) : store.removeKey(key, options);

  const count = (tenantId: string, { jobId, key }: Orphan, signal: AbortSignal): Promise<Contents> =>
    key === undefined ? store.count(jobPrefix(tenantId, jobId), signal) : store.countKey(key, signal);

  const sweepTenant = async (
    command: SweepOrphansCommand,
    tenantId: string,
    signal: AbortSignal,
  ): Promise<TenantSweep> => {
    const { validateOnly, minAgeMs, caller, reason } = command;
    const youngerThan = (await jobs.now()).subtract({ milliseconds: minAgeMs });
    const findings = await findOrphans(tenantId, youngerThan, signal);
    const { orphans, foreign } = findings;
    const all = [...orphans, ...foreign];
    const withoutObjects = await findJobsWithoutObjects(tenantId, minAgeMs, signal);
    const found = contentsOfAll(all);
    const sweep: TenantSweep = {
      ...NOTHING_FOUND,
      tenantId,
      found,
      left: found,
      jobsWithoutObjects: withoutObjects.count,
      orphanKeys: all.slice(0, MAX_SAMPLES).map(({ firstKey }) => firstKey),
      jobIds: withoutObjects.jobIds,
    };
    if (validateOnly || all.length === 0) return sweep;
    if (orphans.length === 0) return { ...sweep, failedKeys: toFailedKeys(foreign) };
    const doubt = await findDoubt(command, tenantId, findings);
    if (doubt !== undefined) return { ...sweep, error: doubt };
    await audit.begin(caller, sweep, reason);
    const swept = { ...sweep, ...(await removeOrphans(tenantId, findings, signal)) };
    try {
      await audit.end(caller, swept, reason);
    } catch (error) {
      // What is gone is told all the same; that it was to go is in the audit since before.
      onFailed(tenantId, error);
      return { ...swept, error: swept.error ?? toSentence(error) };
    }
    return swept;
  };

  /**
   * Removes one orphan and tells `onGone` of what went; answers with what the store refused, undefined where it turns out to
   * have a row.
   */
  const removeOrphan = async (
    tenantId: string,
    orphan: Orphan,
    signal: AbortSignal,
    onGone: (gone: Contents) => void,
  ): Promise<readonly FailedKey[] | undefined> => {
    // Asked once more, right before: what has a row by now is no orphan.
    if (await hasRow(tenantId, orphan)) return undefined;
    for (;;) {
      const removal = await remove(tenantId, orphan, { limit: OBJECTS_PER_BATCH, signal });
      const { objects: versions, markers, uploads, bytes } = removal;
      onGone({ versions, markers, uploads, bytes });
      // Each pass meets again what the one before could not remove.
      if (removal.progress === 'COMPLETE' || versions + markers + uploads === 0) return removal.failures;
    }
  };

  /** What the store still holds of an orphan. Read back rather than believed. */
  const readLeft = async (tenantId: string, orphan: Orphan, signal: AbortSignal): Promise<Contents> => {
    if (await hasRow(tenantId, orphan)) return NOTHING;
    return count(tenantId, orphan, signal);
  };

  /**
   * Removes orphan after orphan until the store or the database fails; what went before that is told all the same. A fault
   * of ours with one of them keeps none of the others.
   */
  const removeOrphans = async (
    tenantId: string,
    { orphans, foreign }: Findings,
    signal: AbortSignal,
  ): Promise<Pick<TenantSweep, 'found' | 'deleted' | 'left' | 'failedKeys' | 'error'>> => {
    const untouched = contentsOfAll(foreign);
    let found = add(contentsOfAll(orphans), untouched);
    let [deleted, left] = [NOTHING, found];
    const failed: FailedKey[] = [];
    const orFault = async <T>(work: Promise<T>, toOutcome: (error: unknown) => T): Promise<T> => {
      try {
        return await work;
      } catch (error) {
        if (error instanceof DomainError || signal.aborted) throw error;
        onFailed(tenantId, error);
        return toOutcome(error);
      }
    };
    const told = (error?: unknown) => ({
      found,
      deleted,
      left,
      failedKeys: [...failed, ...toFailedKeys(foreign)].slice(0, MAX_FAILED_KEYS),
      error: error === undefined ? undefined : toSentence(error),
    });
    try {
      for (const orphan of orphans) {
        const { contents, firstKey: key } = orphan;
        const removal = removeOrphan(tenantId, orphan, signal, (gone) => {
          [deleted, left] = [add(deleted, gone), subtract(left, gone)];
        });
        const failures = await orFault(removal, () => [{ key, code: 'INTERNAL', message: FAULT }]);
        if (!failures) [found, left] = [subtract(found, contents), subtract(left, contents)];
        failed.push(...(failures ?? []).slice(0, MAX_FAILED_KEYS - failed.length));
      }
      let readBack = untouched;
      for (const orphan of orphans) {
        readBack = add(readBack, await orFault(readLeft(tenantId, orphan, signal), () => orphan.contents));
      }
      left = readBack;
    } catch (error) {
      onFailed(tenantId, error);
      return told(error);
    }
    return told();
  };

  return async function* (command, signal) {
    // Against another store everything would look like an orphan, or nothing.
    await checkStore();
    const tenantIds = command.tenantIds ?? (await findAllTenants(jobs, store));
    let report = { orphans: 0, jobsWithoutObjects: 0, failedTenants: 0 };
    for (const tenantId of tenantIds) {
      signal.throwIfAborted();
      let sweep: TenantSweep;
      try {
        sweep = await sweepTenant(command, tenantId, signal);
      } catch (error) {
        signal.throwIfAborted();
        onFailed(tenantId, error);
        sweep = { ...NOTHING_FOUND, tenantId, error: toSentence(error) };
      }
      report = {
        orphans: report.orphans + itemsOf(sweep.left),
        jobsWithoutObjects: report.jobsWithoutObjects + sweep.jobsWithoutObjects,
        failedTenants: report.failedTenants + (sweep.error === undefined ? 0 : 1),
      };
      yield sweep;
    }
    if (command.tenantIds === undefined) await reports.save(report);
  };
}

const jobIdOf = (tenant: string, key: string): string => key.slice(tenant.length).split('/')[0] ?? '';

/** Not where a key of Lethe's own may lie below it: what removes it could take that as well. */
const isRemovable = (tenant: string, key: string): boolean =>
  isKey(key) && key.slice(tenant.length).split('/').length >= SEGMENTS;

const toFailedKeys = (foreign: readonly Orphan[]): FailedKey[] =>
  foreign.slice(0, MAX_FAILED_KEYS).map(({ firstKey: key }) => ({
    key,
    code: 'FOREIGN_KEY',
    message: 'Lethe makes no such key and does not remove it.',
    isPermanent: true,
  }));

const itemsOf = ({ versions, markers, uploads }: Contents): number => versions + markers + uploads;

const contentsOf = ({ kind, bytes }: StoredItem): Contents => ({
  versions: kind === 'VERSION' ? 1 : 0,
  markers: kind === 'MARKER' ? 1 : 0,
  uploads: kind === 'UPLOAD' ? 1 : 0,
  bytes,
});

const add = (a: Contents, b: Contents): Contents => ({
  versions: a.versions + b.versions,
  markers: a.markers + b.markers,
  uploads: a.uploads + b.uploads,
  bytes: a.bytes + b.bytes,
});

const contentsOfAll = (orphans: readonly Orphan[]): Contents =>
  orphans.reduce((sum, { contents }) => add(sum, contents), NOTHING);

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
  error instanceof DomainError ? `${error.reason}: ${error.message}` : `INTERNAL: ${FAULT}`;

/** Tenants with a job, and those that only the store still knows. */
async function findAllTenants(jobs: JobRepository, store: ObjectStore): Promise<string[]> {
  const stored = (await store.folders('tenants/')).filter(isTenantId);
  return [...new Set([...(await jobs.findTenants()), ...stored])].toSorted();
}
