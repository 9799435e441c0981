import pg from 'pg';
import { ROLE_SETTINGS } from './session-settings.ts';

/** A service's database and the two roles that reach it. */
export interface ProvisionOptions {
  /** As a superuser, to the maintenance database. */
  readonly superuserUrl: string;
  readonly database: string;
  readonly ownerPassword: string;
  readonly appPassword: string;
}

/** Where the two roles connect. */
export interface ProvisionedDatabase {
  readonly ownerUrl: string;
  readonly appUrl: string;
  readonly appRole: string;
}

/** The owner's role name of a database: it migrates. */
export const ownerRoleOf = (database: string): string => `${database}_owner`;
/** The app's role name of a database: it reads and writes rows under row-level security, and has no DDL. */
export const appRoleOf = (database: string): string => `${database}_app`;

/** Creates the database and its two roles, or brings them to these passwords. Safe to repeat. */
export async function provisionDatabase(options: ProvisionOptions): Promise<ProvisionedDatabase> {
  const { superuserUrl, database, ownerPassword, appPassword } = options;
  const owner = ownerRoleOf(database);
  const app = appRoleOf(database);
  const urlOf = (role: string, password: string): string => {
    const url = new URL(superuserUrl);
    url.username = role;
    url.password = encodeURIComponent(password);
    url.pathname = `/${database}`;
    return url.toString();
  };

  await asSuperuser(superuserUrl, async (client) => {
    for (const [role, password] of [
      [owner, ownerPassword],
      [app, appPassword],
    ] as const) {
      const name = client.escapeIdentifier(role);
      const known = await client.query('select from pg_roles where rolname = $1', [role]);
      const attributes = `login nosuperuser nocreatedb nocreaterole nobypassrls password ${client.escapeLiteral(password)}`;
      await client.query(`${known.rowCount ? 'alter' : 'create'} role ${name} ${attributes}`);
    }
    // A pooler opens sessions that know nothing of the service they will serve.
    for (const [setting, value] of Object.entries(ROLE_SETTINGS)) {
      await client.query(`alter role ${client.escapeIdentifier(app)} set ${setting} = ${client.escapeLiteral(value)}`);
    }
    const known = await client.query('select from pg_database where datname = $1', [database]);
    if (!known.rowCount) {
      await client.query(
        `create database ${client.escapeIdentifier(database)} owner ${client.escapeIdentifier(owner)}`,
      );
    }
    await client.query(`revoke all on database ${client.escapeIdentifier(database)} from public`);
    await client.query(
      `grant connect on database ${client.escapeIdentifier(database)} to ${client.escapeIdentifier(app)}`,
    );
  });
  const inside = new URL(superuserUrl);
  inside.pathname = `/${database}`;
  await asSuperuser(inside.toString(), async (client) => {
    await client.query('revoke all on schema public from public');
    await client.query(`alter schema public owner to ${client.escapeIdentifier(owner)}`);
    await client.query(`grant usage on schema public to ${client.escapeIdentifier(app)}`);
    // For the function that tells how old the oldest snapshot is, whoever holds it: see createOwnerTables.
    await client.query(`grant pg_read_all_stats to ${client.escapeIdentifier(owner)}`);
  });
  return { ownerUrl: urlOf(owner, ownerPassword), appUrl: urlOf(app, appPassword), appRole: app };
}

async function asSuperuser(url: string, work: (client: pg.Client) => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
