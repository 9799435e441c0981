import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { importJWK, type JWK, SignJWT } from 'jose';
import type { Subject } from '#gen/lethe/owner/v1/owner_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const OWNERS = ['incident', 'run'] as const;

/** One row of README's table "What is removed"; names are what stands between backquotes. */
interface Mapping {
  readonly subject: string;
  readonly table: string;
  /** `column` of the table, or `table.column`. */
  readonly instants: readonly string[];
  readonly goesWithIt: readonly string[];
  readonly stays: readonly string[];
}

type Owner = (typeof OWNERS)[number];
type Listed = Subject & { readonly owner: Owner };

const test = anyTest as TestFn<{ stack: TestStack; mappings: readonly Mapping[]; listed: readonly Listed[] }>;

/** What an owner answers to RetentionService's own question. */
async function listSubjects(stack: TestStack, owner: Owner): Promise<readonly Listed[]> {
  const jwk = JSON.parse(await readFile(join(stack.folder, 'keys/retention.private.json'), 'utf8')) as JWK;
  const key = await importJWK(jwk, 'EdDSA');
  const now = Math.floor(Date.now() / 1_000);
  const token = () =>
    new SignJWT({ role: 'service', act: { sub: 'service:retention' }, scope: 'owner:read' })
      .setProtectedHeader({ alg: 'EdDSA', kid: String(jwk.kid) })
      .setSubject('system:retention')
      .setIssuer('lethe')
      .setAudience(`lethe-owner:${owner}`)
      .setIssuedAt(now)
      .setExpirationTime(now + 60)
      .sign(key);
  const connection = connect({ address: stack.addresses[owner], token });
  try {
    const { subjects } = await connection.client(RetentionOwnerService).listSubjects({});
    return subjects.map((subject) => ({ ...subject, owner }));
  } finally {
    connection.close();
  }
}

async function readMappings(): Promise<readonly Mapping[]> {
  const [, section = ''] = /\n## What is removed\n([\s\S]*?)\n## /.exec(await readReadmes()) ?? [];
  const rows = section
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .slice(2)
    .map((line) => line.split('|').map((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name)));
  return rows.map(([, , [subject = ''] = [], [table = ''] = [], instants = [], goesWithIt = [], stays = []]) => ({
    subject,
    table,
    instants,
    goesWithIt,
    stays,
  }));
}

test.before(async (t) => {
  const stack = await startTestStack({ services: OWNERS });
  t.context.stack = stack;
  const listed = await Promise.all(OWNERS.map((owner) => listSubjects(stack, owner)));
  Object.assign(t.context, { mappings: await readMappings(), listed: listed.flat() });
});
test.after.always((t) => t.context.stack?.dispose());

test('README has a row for each subject that an owner lists, and no other', (t) => {
  const { mappings, listed } = t.context;
  t.deepEqual(mappings.map(({ subject }) => subject).sort(), listed.map(({ name }) => name).sort());
});

test('every table and column that it names is there', async (t) => {
  const { mappings, listed, stack } = t.context;
  for (const { subject, table, instants, goesWithIt, stays } of mappings) {
    const owner = listed.find(({ name }) => name === subject)?.owner ?? 'incident';
    const rows = await queryOnce<{ name: string }>(
      stack.superuserUrl(owner),
      `select table_name || '.' || column_name as name from information_schema.columns where table_schema = 'public'`,
    );
    const columns = new Set(rows.map(({ name }) => name));
    const qualified = (name: string): string => (name.includes('.') ? name : `${table}.${name}`);
    t.true(instants.length > 0, subject);
    for (const name of [...instants, ...stays].map(qualified)) t.true(columns.has(name), `${name} of ${subject}`);
    for (const name of [table, ...goesWithIt]) t.true(columns.has(`${name}.tenant_id`), `${name} of ${subject}`);
  }
});

test('the timestamps that decide, and what goes with a row, are as the owner tells', (t) => {
  const { mappings, listed } = t.context;
  const sorted = (names: Iterable<string>): readonly string[] => [...new Set(names)].sort();
  for (const { subject, table, instants, goesWithIt } of mappings) {
    const told = listed.find(({ name }) => name === subject);
    // Owners tell people, e.g. `approvals.decided_at, else incidents.closed_at`.
    const columns = told?.ageOf.match(/\b[a-z_]+\.[a-z_]+\b/g) ?? [];
    const qualified = instants.map((name) => (name.includes('.') ? name : `${table}.${name}`));
    t.deepEqual(sorted(qualified), sorted(columns), subject);
    const singular = (name: string): string => name.replace(/s$/, '');
    t.deepEqual(sorted(goesWithIt.map(singular)), sorted(told?.dependentTypes ?? []), subject);
    if (subject === table) t.is(told?.resourceType, singular(table));
  }
});
