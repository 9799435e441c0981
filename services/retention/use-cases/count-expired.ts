import { DomainError } from '#libs/kernel/domain-error.ts';
import { problemOf } from '../domain/catalogue.ts';
import { assertGoesOn } from '../domain/owner-stalled.ts';
import type { CountExpired } from './ports.ts';
import type { CatalogueRepository, RetentionOwners } from './purge-ports.ts';

/** Makes CountExpired over the owners; what an owner does not answer is uncounted. */
export const makeCountExpired =
  (catalogue: CatalogueRepository, owners: RetentionOwners): CountExpired =>
  async ({ tenantId, subject, retentionDays, minToKeep = 0, staleAfterDays, actor, signal }) => {
    try {
      const entry = (await catalogue.list()).find(({ name }) => name === subject);
      if (!entry || problemOf(entry)) return undefined;
      const call = { owner: entry.owner, dataId: entry.dataId ?? '', subject, tenantId, actor };
      let cutoff: Temporal.Instant | undefined;
      const places = new Set<string>();
      let count = 0;
      for (let cursor: string | undefined = ''; cursor !== undefined; ) {
        if (signal.aborted) return undefined;
        const rule = { days: retentionDays, cutoff, minToKeep, staleAfterDays };
        const answer = await owners.count(call, rule, cursor, 0);
        count += answer.expired;
        cutoff ??= answer.cutoff;
        cursor = answer.cursor;
        if (cursor !== undefined) assertGoesOn(entry.owner, places, cursor);
      }
      return count;
    } catch (error) {
      if (error instanceof DomainError) return undefined;
      throw error;
    }
  };
