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
      'LETHE_STREAMS_PER_CALLER',
      'LETHE_STREAMS_PER_PROCESS',
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

test('TLS is off unless it is set, and half of it is a mistake', (t) => {
  t.like(read(REQUIRED), { tls: undefined, clientTls: undefined, reflection: true, connectionAgeMs: 600_000 });
  const server = { LETHE_TLS_CERT: 'a.crt', LETHE_TLS_KEY: 'a.key' };
  t.deepEqual(read({ ...REQUIRED, ...server }).tls, { cert: 'a.crt', key: 'a.key', clientCa: undefined });
  t.is(read({ ...REQUIRED, ...server, LETHE_TLS_CLIENT_CA: 'ca.crt' }).tls?.clientCa, 'ca.crt');
  const client = { LETHE_TLS_CA: 'ca.crt', LETHE_TLS_CLIENT_CERT: 'b.crt', LETHE_TLS_CLIENT_KEY: 'b.key' };
  t.deepEqual(read({ ...REQUIRED, ...client }).clientTls, { ca: 'ca.crt', cert: 'b.crt', key: 'b.key' });
  t.deepEqual(read({ ...REQUIRED, LETHE_TLS_CA: 'system' }).clientTls, { ca: 'system' });
  for (const [env, missing] of [
    [{ LETHE_TLS_CERT: 'a.crt' }, /LETHE_TLS_KEY is required/],
    [{ LETHE_TLS_CLIENT_CA: 'ca.crt' }, /LETHE_TLS_CERT is required; LETHE_TLS_KEY is required/],
    [{ LETHE_TLS_CLIENT_CERT: 'b.crt', LETHE_TLS_CLIENT_KEY: 'b.key' }, /LETHE_TLS_CA is required/],
    [{ ...client, LETHE_TLS_CLIENT_KEY: '' }, /LETHE_TLS_CLIENT_KEY is required/],
    [{ LETHE_REFLECTION: 'no' }, /LETHE_REFLECTION must be one of on, off/],
  ] as const) {
    t.throws(() => read({ ...REQUIRED, ...env }), { message: missing });
  }
});

test('an address is host:port and nothing else', (t) => {
  for (const address of ['127.0.0.1:0', 'job.lethe.svc:7401', '0.0.0.0:65535']) t.is(parseAddress(address), address);
  for (const address of ['', 'job', ':7400', 'job:', 'job:65536', 'job:74x', 'a b:1', 'http://job:7400']) {
    t.throws(() => parseAddress(address), undefined, address);
  }
});
