import { globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Who may make the token of a next page, and why it need not count bytes. */
const MAKERS: Readonly<Record<string, string>> = {
  'libs/kernel/page.ts': 'defines it',
  'libs/grpc/fit-page.ts': 'counts them',
  'libs/owner/owner-service.ts': 'cursors of one row, and the 1,000 tenant ids of ListTenants, which come to 65 kB',
};

test('no list answers with the token of a next page but through what ends its pages by bytes', (t) => {
  const files = globSync(['libs/**/*.ts', 'services/**/*.ts'], {
    cwd: ROOT,
    exclude: ['**/node_modules/**', '**/dist/**', '**/*.test.ts'],
  });
  t.true(files.length > 300);
  const makers = files.filter((file) => readFileSync(`${ROOT}/${file}`, 'utf8').includes('encodePageToken('));
  const defines = files.filter((file) =>
    readFileSync(`${ROOT}/${file}`, 'utf8').includes('export const encodePageToken'),
  );
  t.deepEqual([...new Set([...makers, ...defines])].toSorted(), Object.keys(MAKERS).toSorted());
  // The owner's other list is cut.
  t.true(readFileSync(`${ROOT}/libs/owner/owner-service.ts`, 'utf8').includes('fitPage('));
});
