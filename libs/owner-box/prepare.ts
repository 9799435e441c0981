import type { Environment } from '#libs/kernel/settings.ts';
import { migrateUp } from '#libs/postgres/migrate.ts';
import { databaseUrl, type Role, readRole, SCHEMA, withConnection, withOwnerSchema } from './connect.ts';
import { quote } from './inspect-tables.ts';
import { ownerBoxMigrations } from './migrations.ts';
import type { OwnerFile } from './parse-file.ts';

/**
 * Makes the schema `lethe_owner` with the owner's own tables, and lets the role that purges use it. Nothing else in the
 * database changes. Safe to repeat. Answers for which role it is ready.
 */
export async function prepareOwnerBox(file: OwnerFile, env: Environment): Promise<Role> {
  const ownerUrlFrom = file.ownerUrlFrom ?? file.urlFrom;
  const role = await withConnection(env, file.urlFrom, readRole);
  await withConnection(env, ownerUrlFrom, async (query) => {
    // Asked first: `create … if not exists` needs the right to create also where there is nothing to do.
    const known = await query(`select from pg_namespace where nspname = $1`, [SCHEMA]);
    if (known.length === 0) await query(`create schema if not exists ${SCHEMA}`, []);
    await query(`grant usage on schema ${SCHEMA} to ${quote(role.name)}`, []);
  });
  await migrateUp({
    ownerUrl: withOwnerSchema(databaseUrl(env, ownerUrlFrom), { searchPath: '' }),
    appRole: role.name,
    migrations: ownerBoxMigrations,
  });
  return role;
}
