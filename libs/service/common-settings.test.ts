import test from 'ava';
import { readSettings } from '#libs/kernel/settings.ts';
import { parseAddress, readCommonSettings } from './common-settings.ts';

const REQUIRED = { LETHE_DATABASE_URL: 'postgres://app@db/x', LETHE_TRUST_FILE: '/etc/trust.json' };
const read = (env: Record<string, string>) => readSettings(env, readCommonSettings);

test('what every service is told has defaults, but for database and key set', (t) => {
  t.like(read(REQUIRED), { grpcAddress: '0.0.0.0:7400', databasePoolSize: 10, jwtIssuer: 'lethe', logLevel: 'info' });
  const error = t.throws(() => read({}));
  for (const name of Object.keys(REQUIRED)) t.true(error?.message.includes(name), name);
});

test('a bound that is none is refused, all of them at once', (t) => {
  for (const value of ['0', '-1', 'NaN', '5d', '1.5', '1e3', 'Infinity', ' ']) {
    const names = [
      'LETHE_DATABASE_POOL_SIZE',
      'LETHE_STATEMENT_TIMEOUT_MS',
      'LETHE_CALLS_PER_SECOND',
      'LETHE_DRAIN_MS',
    ];
    const error = t.throws(() => read({ ...REQUIRED, ...Object.fromEntries(names.map((name) => [name, value])) }));
    for (const name of names) t.true(error?.message.includes(name), `${name}=${value}`);
  }
  t.throws(() => read({ ...REQUIRED, LETHE_LOG_LEVEL: 'loud' }), { message: /LETHE_LOG_LEVEL/ });
});

test('a key set, which told before which keys are believed, is refused with what to do instead', (t) => {
  const error = t.throws(() => read({ ...REQUIRED, LETHE_JWKS: '/etc/jwks.json' }));
  t.regex(error?.message ?? '', /LETHE_JWKS is no longer read; name a trust file in LETHE_TRUST_FILE/);
});

test('an address is host:port and nothing else', (t) => {
  for (const address of ['127.0.0.1:0', 'job.lethe.svc:7401', '0.0.0.0:65535']) t.is(parseAddress(address), address);
  for (const address of ['', 'job', ':7400', 'job:', 'job:65536', 'job:74x', 'a b:1', 'http://job:7400']) {
    t.throws(() => parseAddress(address), undefined, address);
  }
});
