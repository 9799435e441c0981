import test from 'ava';
import { ignoreDriverVariables, parseDatabaseUrl } from './database-url.ts';

test('a whole URL is taken as it stands', (t) => {
  for (const url of ['postgres://ada:secret@db:5432/lethe', 'postgresql://ada@[::1]/lethe?sslmode=require']) {
    t.is(parseDatabaseUrl(url), url);
  }
});

test('white space around a URL, as at the end of a file, is no part of it', (t) => {
  const url = 'postgres://ada:secret@db:5432/lethe';
  for (const text of [`${url}\n`, ` ${url}`, `\t${url}\r\n`]) t.is(parseDatabaseUrl(text), url);
});

test('a URL that leaves something out is refused, by what it lacks and never by its text', (t) => {
  const bad = {
    'db:5432/lethe': /scheme/,
    lethe: /must be a URL/,
    'postgres:/ada:secret@db/lethe': /a user, a host/,
    'postgres://ada:secret@db': /a database/,
    'postgres://ada:secret@db/': /a database/,
    'postgres://db/lethe': /a user/,
    'postgres://ada:secret@db/lethe/more': /more than a database/,
    'mysql://ada:secret@db/lethe': /scheme/,
    'postgres://ada:secret@db:99999/lethe': /must be a URL/,
  };
  for (const [url, message] of Object.entries(bad)) {
    const error = t.throws(() => parseDatabaseUrl(url), { message }, url);
    t.notRegex(error?.message ?? '', /secret@/);
  }
});

test('the variables of the driver are taken away, and no other', (t) => {
  const env = { PGHOST: 'elsewhere', PGDATABASE: 'other', PG_LIKE: 'x', LETHE_X: 'y' };
  ignoreDriverVariables(env);
  t.deepEqual(env as object, { PG_LIKE: 'x', LETHE_X: 'y' });
});
