import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import type { ServiceName } from '#deploy/local/stack.ts';
import { queryOnce } from './postgres.ts';
import { filesBelow } from './stored-files.ts';
import type { TestStack } from './test-stack.ts';

/**
 * Every column of every table of a database in which a text stands, as `table.column`, with how many rows. It knows no
 * table by name and shares no code with the services; arrays, JSON and bytes are searched as Postgres prints them.
 */
export async function findInDatabase(superuserUrl: string, text: string): Promise<ReadonlyMap<string, number>> {
  const client = new pg.Client({ connectionString: superuserUrl });
  await client.connect();
  try {
    const { rows: columns } = await client.query<{ schema: string; table: string; column: string; type: string }>(
      `select n.nspname as schema, c.relname as table, a.attname as column, t.typname as type
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
         join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         join pg_type t on t.oid = a.atttypid
       where c.relkind = 'r' and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema' order by 1, 2, 3`,
    );
    const found = new Map<string, number>();
    const tables = Map.groupBy(columns, ({ schema, table }) => `"${schema}"."${table}"`);
    for (const [table, of] of tables) {
      const counts = of.map(({ column, type }, index) => {
        const shown = type === 'bytea' ? `encode("${column}", 'escape')` : `"${column}"::text`;
        return `count(*) filter (where strpos(lower(${shown}), lower($1)) > 0)::int as c${index}`;
      });
      const { rows } = await client.query<Record<string, number>>(`select ${counts.join(', ')} from ${table}`, [text]);
      for (const [index, { schema, table: name, column }] of of.entries()) {
        const count = rows[0]?.[`c${index}`] ?? Number.NaN;
        if (count !== 0) found.set(`${schema === 'public' ? '' : `${schema}.`}${name}.${column}`, count);
      }
    }
    return found;
  } finally {
    await client.end();
  }
}

/** The files below a folder in whose path or content a text stands; of a file, whether it is one of them. */
async function findInFiles(folder: string, text: string): Promise<string[]> {
  const isThere = async (path: string): Promise<boolean> => {
    if (path.toLowerCase().includes(text.toLowerCase())) return true;
    const content = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return Buffer.alloc(0);
      throw error;
    });
    return content.toString('latin1').toLowerCase().includes(text.toLowerCase());
  };
  const files = (await stat(folder)).isFile() ? [folder] : await filesBelow(folder);
  const hits = await Promise.all(files.map(isThere));
  return files.filter((_, index) => hits[index]);
}

/** What the services and Postgres have logged: the server's log lies beside its data. */
export async function logFilesOf(stack: TestStack): Promise<readonly string[]> {
  const services = await filesBelow(join(stack.folder, 'logs'));
  const [row] = await queryOnce<{ data_directory: string }>(stack.superuserUrl('run'), 'show data_directory');
  return [...services, join(row?.data_directory ?? '', '..', 'postgres.log')];
}

/**
 * Everywhere that a text stands in a stack: `service.table.column` of each database, `store` for the objects, and
 * `log` for what services and Postgres have logged.
 */
export async function findText(
  stack: TestStack,
  services: readonly ServiceName[],
  text: string,
): Promise<readonly string[]> {
  const places = await Promise.all(
    services.map(async (service) =>
      [...(await findInDatabase(stack.superuserUrl(service), text)).keys()].map((column) => `${service}.${column}`),
    ),
  );
  const stored = await findInFiles(stack.objectFolder, text);
  const logged = (await Promise.all((await logFilesOf(stack)).map((file) => findInFiles(file, text)))).flat();
  return [
    ...places.flat(),
    ...stored.slice(0, 1).map(() => 'store'),
    ...logged.slice(0, 1).map(() => 'log'),
  ].toSorted();
}
