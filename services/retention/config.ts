import { hostname } from 'node:os';
import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { readCommonSettings } from '#libs/service/common-settings.ts';
import { parseCronPattern } from './adapters/cron/cron-pattern.ts';

/** RetentionService's settings. */
export type RetentionSettings = ReturnType<typeof readRetentionSettings>;

/** Reads RetentionService's settings; throws one Error naming everything that is wrong. */
export const readRetentionSettings = (env: Environment) =>
  readSettings(env, (reader) => ({
    ...readCommonSettings(reader),
    workerId: `${hostname()}:${process.pid}`,
    serviceKey: reader.text('LETHE_SERVICE_KEY'),
    owners: reader.parsed('LETHE_RETENTION_OWNERS', parseOwners),
    observeNights: reader.parsed('LETHE_OBSERVE_NIGHTS', parseNights, 'run=0,incident=0'),
    graceDays: reader.integer('LETHE_RETENTION_GRACE_DAYS', { min: 1, max: 365 }, 7),
    ownerTimeoutMs: reader.integer('LETHE_OWNER_TIMEOUT_MS', { min: 1_000, max: 600_000 }, 20_000),
    purgeWorkers: reader.integer('LETHE_PURGE_WORKERS', { min: 1, max: 100 }, 4),
    purgeRowsPerCall: reader.integer('LETHE_PURGE_ROWS_PER_CALL', { min: 1, max: 100_000 }, 100_000),
    purgeAttempts: reader.integer('LETHE_PURGE_ATTEMPTS', { min: 1, max: 100 }, 3),
    purgeBackoffMs: reader.integer('LETHE_PURGE_BACKOFF_MS', { min: 1, max: 3_600_000 }, 500),
    ownerMaxWaitMs: reader.integer('LETHE_OWNER_MAX_WAIT', { min: 0, max: 86_400 }, 1_800) * 1_000,
    ownerMaxPauseMs: reader.integer('LETHE_OWNER_MAX_PAUSE', { min: 1, max: 604_800 }, 7_200) * 1_000,
    cataloguePollMs: reader.integer('LETHE_CATALOGUE_POLL_MS', { min: 100, max: 3_600_000 }, 60_000),
    purgeSchedule: reader.parsed('RETENTION_JOB_SCHEDULE_CRON', orOff(parseCronPattern), 'off'),
    ceilingShare: reader.parsed('LETHE_PURGE_CEILING_SHARE', orOff(parseShare), '0.5'),
    ceilingRows: reader.parsed('LETHE_PURGE_CEILING_ROWS', orOff(parseRows), '1000000'),
    ceilingShareFrom: reader.integer('LETHE_PURGE_CEILING_SHARE_FROM', { min: 0, max: 1_000_000 }, 1_000),
    fleetCeilingShare: reader.parsed('LETHE_FLEET_CEILING_SHARE', orOff(parseShare), '0.1'),
    fleetCeilingTenants: reader.integer('LETHE_FLEET_CEILING_TENANTS', { min: 1, max: 1_000_000 }, 20),
    sweepSeconds: reader.integer('LETHE_TENANT_SWEEP_SECONDS', { min: 1, max: 604_800 }, 3_600),
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

/** Where an owner of aging data is, and what it is called. */
export interface OwnerAddress {
  readonly name: string;
  readonly address: string;
}

const OWNER_NAME = '[a-z][a-z0-9_]{0,62}';

/** Owners as `name=host:port,…`, each once. */
function parseOwners(text: string): readonly OwnerAddress[] {
  const owners = text.split(',').map((entry) => {
    const [, name, address] = new RegExp(`^(${OWNER_NAME})=(\\S+:\\d{1,5})$`).exec(entry.trim()) ?? [];
    if (!name || !address || Number(address.split(':').at(-1)) > 65_535) {
      throw new Error('must be NAME=HOST:PORT, several parted by commas');
    }
    return { name, address };
  });
  if (new Set(owners.map(({ name }) => name)).size !== owners.length) throw new Error('names an owner twice');
  return owners;
}

const OWN = ['run', 'incident'];

/** For how many nights a new subject of an owner is only counted, as `name=N,…`; 0 for Lethe's own, else 1. */
function parseNights(text: string): (owner: string) => number {
  const nights = new Map<string, number>();
  for (const entry of text.split(',')) {
    const [, name, count] = new RegExp(`^(${OWNER_NAME})=(\\d{1,3})$`).exec(entry.trim()) ?? [];
    if (!name || !count) throw new Error('must be NAME=NIGHTS, several parted by commas');
    nights.set(name, Number(count));
  }
  return (owner) => nights.get(owner) ?? (OWN.includes(owner) ? 0 : 1);
}
