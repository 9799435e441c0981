import { migrateUp } from './migrate.ts';
import { createTenantFunction, dropTenantFunction } from './tenant-security.ts';

const [ownerUrl = '', appRole = ''] = process.argv.slice(2);
const migration = { name: '001', up: createTenantFunction, down: dropTenantFunction };
await migrateUp({ ownerUrl, appRole, migrations: [migration] });
