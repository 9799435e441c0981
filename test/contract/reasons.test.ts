import { globSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Code } from '@connectrpc/connect';
import test from 'ava';
import { REASONS, type ReasonEntry } from '#libs/client/reasons.ts';
import { CODE_OF_KIND } from '#libs/grpc/status.ts';
import type { ErrorKind } from '#libs/kernel/domain-error.ts';
import { makeReasonTable, readReasonTable } from '#test/support/reason-table.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const ENTRIES = new Map<string, ReasonEntry>(Object.entries(REASONS));
// What the code writes like a reason and is none: names of checks, of causes, of settings.
const NOT_REASONS = new Set(
  [
    'BUCKET_LIFECYCLE BUCKET_LOCK BUCKET_VERSIONING DRIFT_CHECKS FOREGROUND_CALLS NOT_SERVING NO_PLAN OBJECT_STORE',
    'OLD_SNAPSHOT RUN_PURGE SERVICE_UNKNOWN STILL_LISTED STORE_CHECKSUM WHEN_REQUIRED WORKFLOW_MIN_PURGE_AGE_HOURS',
    'OTEL_EXPORTER_OTLP_ENDPOINT RETENTION_JOB_SCHEDULE_CRON YYYY_MM',
    // Faults of the database, in an error's metadata, and what Node and the resolver call theirs.
    'CONNECTION_LOST READ_ONLY DISK_FULL TOO_MANY_CONNECTIONS OUT_OF_RESOURCES',
    'EAI_AGAIN ERR_STREAM_DESTROYED ERR_STREAM_WRITE_AFTER_END',
  ].flatMap((names) => names.split(' ')),
);

/** What the programs say, without comments and without what only compares a reason. */
async function readSources(): Promise<string> {
  const paths = globSync('{services,libs}/**/*.ts', { cwd: ROOT }).filter(
    (path) =>
      !/\.test\.ts$|\/migrations\/|^libs\/(cli|sdk)\/|^services\/console\/|libs\/client\/reasons\.ts$/.test(path),
  );
  const texts = await Promise.all(paths.map((path) => readFile(ROOT + path, 'utf8')));
  return texts
    .join('\n')
    .replace(/\/\*\*[\s\S]*?\*\/|^\s*\/\/[^\n]*$/gm, '')
    .replace(/hasReason\([^)]*\)|reason === '\w+'/g, '');
}

/** The names of all values of the contracts' enums, with and without their prefix. */
async function readEnumValues(): Promise<ReadonlySet<string>> {
  const values = new Set<string>();
  for (const path of globSync('proto/**/*.proto', { cwd: ROOT })) {
    const text = await readFile(ROOT + path, 'utf8');
    for (const [, name = '', body = ''] of text.matchAll(/^enum (\w+) \{(.*?)^\}/gms)) {
      const prefix = `${name.replace(/(?<=.)(?=[A-Z])/g, '_').toUpperCase()}_`;
      for (const [, value = ''] of body.matchAll(/^\s+([A-Z_0-9]+) = /gm))
        values.add(value).add(value.replace(prefix, ''));
    }
  }
  return values;
}

test('every reason that the code gives is listed, and every one that is listed is given', async (t) => {
  const [source, enums] = await Promise.all([readSources(), readEnumValues()]);
  const written = new Set([...source.matchAll(/['"`]([A-Z]+(?:_[A-Z]+)*)(?=['"`:])/g)].map(([, name = '']) => name));
  const unlisted = [...written].filter(
    (name) =>
      name.includes('_') &&
      !name.startsWith('LETHE_') &&
      !enums.has(name) &&
      !NOT_REASONS.has(name) &&
      !ENTRIES.has(name) &&
      !STATUS_NAMES.has(name),
  );
  t.deepEqual(unlisted, [], 'list it in libs/client/reasons.ts, or in NOT_REASONS where it is none');
  t.deepEqual(
    [...ENTRIES.keys()].filter((name) => !written.has(name) && !STATUS_NAMES.has(name)),
    [],
    'nothing gives it',
  );
});

const STATUS_NAMES = new Set(
  Object.keys(Code)
    .filter((name) => Number.isNaN(Number(name)))
    .map((name) => name.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase())
    .map((name) => (name === 'CANCELED' ? 'CANCELLED' : name)),
);

test('a reason is listed with the code that it is thrown with', async (t) => {
  const source = await readSources();
  const thrown = [...source.matchAll(/new DomainError\(\s*'([a-z-]+)',\s*'([A-Z_]+)'/g)];
  t.true(thrown.length > 60);
  for (const [, kind = '', reason = ''] of thrown) {
    const code = Code[CODE_OF_KIND[kind as ErrorKind]].replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase();
    const listed = ENTRIES.get(reason)?.code;
    if (listed !== 'RECEIPT') t.is(listed, code as typeof listed, reason);
  }
});

test('each reason tells what to do, in a sentence', (t) => {
  for (const [reason, { when, next }] of ENTRIES) {
    t.regex(when, /^[A-Z].*\.$/, reason);
    t.regex(next, /^[A-Z`].*\.$/, reason);
  }
});

test('the table in proto/README.md is the list', async (t) => {
  t.is(await readReasonTable(), makeReasonTable(), 'node test/support/reason-table.ts');
});
