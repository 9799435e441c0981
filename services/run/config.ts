import { hostname } from 'node:os';
import { readBulkSettings } from '#libs/bulk-deletion/settings.ts';
import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { readOwnerSettings } from '#libs/owner/settings.ts';
import { readCommonSettings } from '#libs/service/common-settings.ts';

/** RunService's settings. */
export type RunSettings = ReturnType<typeof readRunSettings>;

/** A service that takes part in the deletions of runs. */
export interface ParticipantAddress {
  readonly name: string;
  readonly address: string;
}

/** Reads RunService's settings; throws one Error naming everything that is wrong. */
export const readRunSettings = (env: Environment) =>
  readSettings(env, (reader) => ({
    ...readCommonSettings(reader),
    ...readOwnerSettings(reader),
    workerId: `${hostname()}:${process.pid}`,
    serviceKey: reader.text('LETHE_SERVICE_KEY'),
    participants: reader.parsed('LETHE_PARTICIPANTS', parseParticipants),
    minPurgeAgeHours: reader.integer('WORKFLOW_MIN_PURGE_AGE_HOURS', { min: 0, max: 876_000 }, 0),
    participantTimeoutMs: reader.integer('LETHE_PARTICIPANT_TIMEOUT_MS', { min: 100, max: 600_000 }, 10_000),
    deletionWorkers: reader.integer('LETHE_DELETION_WORKERS', { min: 1, max: 100 }, 16),
    deletionAttempts: reader.integer('LETHE_DELETION_ATTEMPTS', { min: 1, max: 1_000 }, 10),
    deletionBackoffMs: reader.integer('LETHE_DELETION_BACKOFF_MS', { min: 1, max: 3_600_000 }, 500),
    deletionBackoffMaxMs: reader.integer('LETHE_DELETION_BACKOFF_MAX_MS', { min: 1, max: 86_400_000 }, 300_000),
    ...readBulkSettings(reader, 12),
    purgeLimit: reader.integer('LETHE_PURGE_LIMIT', { min: 1, max: 100_000 }, 10_000),
    runWorkers: reader.integer('LETHE_RUN_WORKERS', { min: 1, max: 100 }, 4),
    runSlots: reader.integer('LETHE_RUN_SLOTS', { min: 1, max: 10_000 }, 64),
    runLeaseMs: reader.integer('LETHE_RUN_LEASE_MS', { min: 100, max: 3_600_000 }, 30_000),
    runAttempts: reader.integer('LETHE_RUN_ATTEMPTS', { min: 1, max: 1_000 }, 10),
    runBackoffMs: reader.integer('LETHE_RUN_BACKOFF_MS', { min: 1, max: 3_600_000 }, 200),
    runBackoffMaxMs: reader.integer('LETHE_RUN_BACKOFF_MAX_MS', { min: 1, max: 86_400_000 }, 60_000),
    executionUpkeepMs: reader.integer('LETHE_EXECUTION_UPKEEP_MS', { min: 10, max: 86_400_000 }, 60_000),
    pollMs: reader.integer('LETHE_POLL_MS', { min: 10, max: 60_000 }, 1_000),
  }));

/** `job=host:port,incident=host:port`; the order is the order of the cascade. */
export function parseParticipants(text: string): readonly ParticipantAddress[] {
  const participants = text.split(',').map((entry) => {
    const [, name, address] = /^([a-z][a-z0-9-]{0,62})=(\S+:\d{1,5})$/.exec(entry.trim()) ?? [];
    if (!name || !address || name === 'run') throw new Error('must be NAME=HOST:PORT, several parted by commas');
    return { name, address };
  });
  if (new Set(participants.map(({ name }) => name)).size !== participants.length)
    throw new Error('names a service twice');
  return participants;
}
