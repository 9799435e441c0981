import { migrateUp } from '#libs/postgres/migrate.ts';
import { createTenantFunction, dropTenantFunction } from '#libs/postgres/tenant-security.ts';

const [ownerUrl = '', appRole = ''] = process.argv.slice(2);
const migration = { name: '001', up: createTenantFunction, down: dropTenantFunction };
await migrateUp({ ownerUrl, appRole, migrations: [migration] });
