import { DomainError, isUnavailable } from '#libs/kernel/domain-error.ts';
import { problemOf, stateOf } from '../domain/catalogue.ts';
import { assertGoesOn } from '../domain/owner-stalled.ts';
import type { CatalogueRepository, RetentionOwners, TenantDirectory } from './purge-ports.ts';

/** Learns from the owners which tenants they hold data of, some pages at a time; goes on where it was. */
export type SweepTenants = (signal: AbortSignal) => Promise<void>;

/** How fast owners are asked for their tenants. */
export interface SweepSettings {
  /** How old a walk over an owner's tenants may be before the next one begins, in milliseconds. */
  readonly everyMs: number;
  /** Between two pages, in milliseconds. */
  readonly pauseMs: number;
  /** How many pages of one subject are read in one go. */
  readonly pages: number;
}

/** Makes SweepTenants. */
export const makeSweepTenants =
  (
    catalogue: CatalogueRepository,
    owners: RetentionOwners,
    directory: TenantDirectory,
    { everyMs, pauseMs, pages }: SweepSettings,
    sleep: (ms: number, signal: AbortSignal) => Promise<void>,
    onSilent: (owner: string, error: unknown) => void,
  ): SweepTenants =>
  async (signal) => {
    for (const subject of await catalogue.list()) {
      if (problemOf(subject) || stateOf(subject) === 'RETIRED') continue;
      for (let page = 0; page < pages && !signal.aborted; page += 1) {
        const sweep = await directory.beginSweep(subject.name, everyMs);
        if (!sweep) break;
        try {
          const { tenantIds, nextPageToken } = await owners.listTenants(subject.owner, subject.name, sweep.pageToken);
          if (nextPageToken !== '') assertGoesOn(subject.owner, new Set([sweep.pageToken]), nextPageToken);
          await directory.recordSweep(subject.name, tenantIds, nextPageToken || undefined);
          if (!nextPageToken) break;
        } catch (error) {
          onSilent(subject.owner, error);
          // A page token of another version of the owner, say: it would be refused for ever.
          if (isRefusal(error) && sweep.pageToken !== '') await directory.restartSweep(subject.name);
          break;
        }
        await sleep(pauseMs, signal).catch(() => undefined);
      }
    }
  };

const isRefusal = (error: unknown): boolean => error instanceof DomainError && !isUnavailable(error);
