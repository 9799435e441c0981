import { readFileSync } from 'node:fs';
import test from 'ava';

const ROOT = new URL('../../', import.meta.url);
const MAX_FILES = 20;
const MAX_LINES = 3_000;

const read = (path: string): string => readFileSync(new URL(path, ROOT), 'utf8');

test('the path of a purge names files that are there, and few enough to be read', (t) => {
  const [, section = ''] = read('.github/CONTRIBUTING.md').split('## The path of a purge');
  const [rows = ''] = section.split('\n## ');
  const files = [...rows.matchAll(/^\| `([^`]+)`/gm)].map(([, file = '']) => file);
  const lines = files.reduce((sum, file) => sum + read(file).split('\n').length - 1, 0);
  t.true(files.length > 0 && files.length <= MAX_FILES, `${files.length} files`);
  t.true(lines <= MAX_LINES, `${lines} lines`);
});
