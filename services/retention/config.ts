import { hostname } from 'node:os';
import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { parseAddress, readCommonSettings } from '#libs/service/common-settings.ts';
import { parseCronPattern } from './adapters/queue/purge-queue.ts';

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
    purgeRowsPerCall: reader.integer('LETHE_PURGE_ROWS_PER_CALL', { min: 1, max: 100_000 }, 50_000),
    purgeAttempts: reader.integer('LETHE_PURGE_ATTEMPTS', { min: 1, max: 100 }, 3),
    purgeBackoffMs: reader.integer('LETHE_PURGE_BACKOFF_MS', { min: 1, max: 3_600_000 }, 500),
    purgeSchedule: reader.parsed('LETHE_PURGE_SCHEDULE', orOff(parseCronPattern), 'off'),
    ceilingShare: reader.parsed('LETHE_PURGE_CEILING_SHARE', orOff(parseShare), '0.5'),
    ceilingRows: reader.parsed('LETHE_PURGE_CEILING_ROWS', orOff(parseRows), '1000000'),
    ceilingShareFrom: reader.integer('LETHE_PURGE_CEILING_SHARE_FROM', { min: 0, max: 1_000_000 }, 1_000),
    pollMs: reader.integer('LETHE_POLL_MS', { min: 10, max: 60_000 }, 1_000),
  }));

/** What `parse` reads, or undefined for the word `off`: nothing is switched off but by saying so. */
const orOff =
  <T>(parse: (text: string) => T) =>
  (text: string): T | undefined =>
    text === 'off' ? undefined : parse(text);

function parseShare(text: string): number {
  const share = /^(0\.\d{1,6}|1(\.0{1,6})?)$/.test(text) ? Number(text) : 0;
  if (share > 0) return share;
  throw new Error('must be a share above 0 and up to 1, such as 0.5, or off');
}

function parseRows(text: string): number {
  const rows = /^\d{1,12}$/.test(text) ? Number(text) : 0;
  if (rows > 0) return rows;
  throw new Error('must be a whole number from 1 to 999999999999, or off');
}
