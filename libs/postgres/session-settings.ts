/** How long a session's statements may take, in milliseconds. */
export interface SessionTimeouts {
  /** No statement may take longer; nor may a transaction be idle for longer. */
  readonly statementTimeoutMs: number;
  /** No statement may wait longer for a lock. */
  readonly lockTimeoutMs: number;
}

/** The timeouts where nothing else is configured. */
export const DEFAULT_TIMEOUTS: SessionTimeouts = { statementTimeoutMs: 10_000, lockTimeoutMs: 5_000 };

// What the code relies on, whatever the defaults of the server or the database. They are written as PostgreSQL shows
// them: a pooler that compares texts would otherwise set them anew for each transaction.
const SETTINGS = {
  DateStyle: 'ISO, MDY',
  IntervalStyle: 'postgres',
  TimeZone: 'UTC',
  bytea_output: 'hex',
  default_transaction_isolation: 'read committed',
  standard_conforming_strings: 'on',
} as const;
const SEARCH_PATH = { search_path: 'public' } as const;

type Settings = Readonly<Record<string, string>>;

/** What a connection asks for by parameters of its own when it starts. */
export const timeoutSettings = ({ statementTimeoutMs, lockTimeoutMs }: SessionTimeouts) => ({
  statement_timeout: statementTimeoutMs,
  lock_timeout: lockTimeoutMs,
  idle_in_transaction_session_timeout: statementTimeoutMs,
});

/** The URL with the settings as part of the connection's start; options that the URL has itself win. */
export function withSettings(url: string): string {
  const parsed = new URL(url);
  const own = parsed.searchParams.get('options');
  const ours = Object.entries({ ...SETTINGS, ...SEARCH_PATH })
    .map(([name, value]) => `-c ${name}=${value.replaceAll(' ', '\\ ')}`)
    .join(' ');
  parsed.searchParams.set('options', own === null ? ours : `${ours} ${own}`);
  return parsed.toString();
}

/** What every session of the app role begins with, also where a pooler opens it and knows nothing of the service. */
export const ROLE_SETTINGS: Settings = {
  ...SETTINGS,
  ...SEARCH_PATH,
  ...Object.fromEntries(
    Object.entries(timeoutSettings(DEFAULT_TIMEOUTS)).map(([name, ms]) => [name, String(ms)] as const),
  ),
};

type AcrossTenants = (statement: { text: string; values: readonly unknown[] }) => Promise<unknown[]>;

/**
 * Refuses sessions that differ from what the service asks for: an Error naming each difference. Behind a pooler the
 * settings of a connection's start get lost, and the sessions have those of the role. Other search paths are allowed.
 */
export async function assertSessionSettings(acrossTenants: AcrossTenants, timeouts: SessionTimeouts): Promise<void> {
  const wanted: Settings = {
    ...SETTINGS,
    ...Object.fromEntries(Object.entries(timeoutSettings(timeouts)).map(([name, ms]) => [name, String(ms)])),
  };
  const found = (await acrossTenants({
    text: 'select name, setting from pg_settings where name = any($1)',
    values: [Object.keys(wanted)],
  })) as { name: string; setting: string }[];
  const different = found.filter(({ name, setting }) => setting !== wanted[name]);
  if (different.length === 0) return;
  const all = different.map(({ name, setting }) => `${name} is '${setting}', not '${wanted[name]}'`);
  throw new Error(
    `the database's sessions are not as the service needs them: ${all.join('; ')}. ` +
      'A pooler does not pass these on: set them for the role, by alter role … set',
  );
}
