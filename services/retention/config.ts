import { hostname } from 'node:os';
import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { parseAddress, readCommonSettings } from '#libs/service/common-settings.ts';

/** RetentionService's settings. */
export type RetentionSettings = ReturnType<typeof readRetentionSettings>;

/** Reads RetentionService's settings; throws one Error naming everything that is wrong. */
export const readRetentionSettings = (env: Environment) =>
  readSettings(env, (reader) => ({
    ...readCommonSettings(reader),
    workerId: `${hostname()}:${process.pid}`,
    serviceKey: reader.text('LETHE_SERVICE_KEY'),
    incidentAddress: reader.parsed('LETHE_INCIDENT_ADDRESS', parseAddress),
    graceDays: reader.integer('LETHE_RETENTION_GRACE_DAYS', { min: 1, max: 365 }, 7),
    ownerTimeoutMs: reader.integer('LETHE_OWNER_TIMEOUT_MS', { min: 1_000, max: 600_000 }, 20_000),
    purgeWorkers: reader.integer('LETHE_PURGE_WORKERS', { min: 1, max: 100 }, 4),
    purgeAttempts: reader.integer('LETHE_PURGE_ATTEMPTS', { min: 1, max: 100 }, 3),
    purgeBackoffMs: reader.integer('LETHE_PURGE_BACKOFF_MS', { min: 1, max: 3_600_000 }, 500),
    pollMs: reader.integer('LETHE_POLL_MS', { min: 10, max: 60_000 }, 1_000),
  }));
