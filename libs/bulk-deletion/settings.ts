import type { SettingsReader } from '#libs/kernel/settings.ts';

/** What a service with bulk deletions is told; durations in milliseconds. `underWay` is the default of the first. */
export const readBulkSettings = (reader: SettingsReader, underWay: number) => ({
  /** How many items of one bulk deletion may have a deletion under way. */
  bulkUnderWay: reader.integer('LETHE_BULK_UNDER_WAY', { min: 1, max: 1_000 }, underWay),
  /** How many items are written down, or cancelled, in one transaction. */
  bulkChunk: reader.integer('LETHE_BULK_CHUNK', { min: 1, max: 10_000 }, 1_000),
  bulkLeaseMs: reader.integer('LETHE_BULK_LEASE_MS', { min: 100, max: 3_600_000 }, 30_000),
});

/** What bulk deletions need of a service's settings. */
export interface BulkDeletionSettings extends ReturnType<typeof readBulkSettings> {
  readonly workerId: string;
  readonly deletionAttempts: number;
  readonly deletionBackoffMs: number;
  readonly deletionBackoffMaxMs: number;
  readonly pollMs: number;
  /** How long one that has ended is kept. */
  readonly receiptDays: number;
}
