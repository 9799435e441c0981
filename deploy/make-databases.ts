import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { provisionDatabase } from '#libs/postgres/provision.ts';

/**
 * Makes each service's database and its two roles with new passwords, and writes where they connect to
 * `NAME-database.url` and `NAME-database-owner.url`, readable for their owner only. An Error when a file is there
 * already, before anything is made: the password in it is the one in use.
 */
export async function makeDatabases(folder: string, superuserUrl: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const service of ['run', 'job', 'incident', 'retention']) {
    const write = (name: string, url: string, flag: 'wx' | 'w'): Promise<void> =>
      writeFile(join(folder, `${name}.url`), url, { mode: 0o600, flag });
    await write(`${service}-database`, '', 'wx');
    await write(`${service}-database-owner`, '', 'wx');
    const { appUrl, ownerUrl } = await provisionDatabase({
      superuserUrl,
      database: `lethe_${service}`,
      ownerPassword: randomBytes(24).toString('hex'),
      appPassword: randomBytes(24).toString('hex'),
    });
    await write(`${service}-database`, appUrl, 'w');
    await write(`${service}-database-owner`, ownerUrl, 'w');
  }
}

if (import.meta.main) {
  const [folder, superuserUrl] = process.argv.slice(2);
  if (folder === undefined || superuserUrl === undefined) {
    throw new Error('usage: node deploy/make-databases.ts FOLDER SUPERUSER_URL');
  }
  await makeDatabases(folder, superuserUrl);
}
