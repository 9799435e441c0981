import pg from 'pg';
import type { Environment } from '#libs/kernel/settings.ts';
import { parseDatabaseUrl } from '#libs/postgres/database-url.ts';
import type { Query } from './inspect-tables.ts';
import { OwnerBoxError } from './parse-file.ts';

/** Where the owner keeps its own rows, apart from the company's. */
export const SCHEMA = 'lethe_owner';

/** Who a URL connects as, and how that role finds what has no schema. */
export interface Role {
  readonly name: string;
  readonly database: string;
  readonly searchPath: string;
}

/** The URL that an environment variable holds; an OwnerBoxError that names the variable and never shows the URL. */
export function databaseUrl(env: Environment, variable: string): string {
  try {
    return parseDatabaseUrl(env[variable] ?? '');
  } catch (error) {
    const isSet = env[variable] !== undefined && env[variable] !== '';
    throw new OwnerBoxError('the environment', [`${variable} ${isSet ? (error as Error).message : 'is not set'}`]);
  }
}

/** Runs `work` on a connection of its own to the database of an environment variable; an OwnerBoxError without one. */
export async function withConnection<T>(
  env: Environment,
  variable: string,
  work: (query: Query) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({ connectionString: databaseUrl(env, variable), connectionTimeoutMillis: 5_000 });
  try {
    await client.connect();
  } catch (error) {
    throw new OwnerBoxError(`the database of ${variable}`, [`it cannot be reached: ${(error as Error).message}`]);
  }
  try {
    return await work(async (text, values) => (await client.query(text, [...values])).rows);
  } finally {
    await client.end();
  }
}

/** Who the connection is. */
export async function readRole(query: Query): Promise<Role> {
  const [role] = await query<Role>(
    `select current_user as name, current_database() as database, current_setting('search_path') as "searchPath"`,
    [],
  );
  if (!role) throw new Error('the database did not say who it is');
  return role;
}

/**
 * The URL with the owner's schema before what the role searches by itself, and with instants as text in UTC. What removes
 * rows of the company's tables searches as the role does by itself, so that their triggers find what they always found.
 */
export function withOwnerSchema(url: string, { searchPath }: Pick<Role, 'searchPath'>): string {
  const path = `${SCHEMA}${searchPath === '' ? '' : `,${searchPath}`}`.replaceAll(/[\\\s]/g, '\\$&');
  const changed = new URL(url);
  const options = changed.searchParams.get('options');
  const more = `-c search_path=${path} -c timezone=UTC -c datestyle=ISO`;
  changed.searchParams.set('options', options === null ? more : `${options} ${more}`);
  return changed.toString();
}
