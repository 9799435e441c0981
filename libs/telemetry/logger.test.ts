import test from 'ava';
import { exportPKCS8, generateKeyPair, importJWK } from 'jose';
import { makeKeyPair } from '#libs/auth/keys.ts';
import { signToken } from '#libs/auth/sign-token.ts';
import { makeLogger } from './logger.ts';

/** A logger and the lines that it wrote, each checked to be one JSON object. */
function logged(level: 'info' | 'trace' = 'trace') {
  const lines: string[] = [];
  const log = makeLogger('job', level, { write: (line) => void lines.push(line) });
  const objects = () => lines.map((line) => JSON.parse(line));
  return { log, text: () => lines.join(''), objects };
}

const tokenOf = async (): Promise<{ token: string; d: string; jwk: object }> => {
  const { privateJwk } = await makeKeyPair();
  const key = { kid: privateJwk.kid ?? '', key: await importJWK(privateJwk, 'EdDSA') };
  const identity = { subject: 'ada', role: 'owner', scopes: ['jobs:read'], tenantId: 'acme' } as const;
  const token = await signToken({ key, issuer: 'lethe', audience: 'lethe' }, identity, 60);
  return { token, d: privateJwk.d ?? '', jwk: privateJwk };
};

test('a line is one JSON object with service, level, time and message', (t) => {
  const { log, objects } = logged();
  log.info({ rpc: 'GetJob', code: 0 }, 'call finished');
  const [line] = objects();
  t.like(line, { service: 'job', level: 30, rpc: 'GetJob', code: 0, msg: 'call finished' });
  t.notThrows(() => Temporal.Instant.from(line.time));
});

test('a token never reaches a line, wherever it stands', async (t) => {
  const { token } = await tokenOf();
  const { log, text, objects } = logged();
  log.info({ authorization: `Bearer ${token}` }, 'a header');
  log.info({ request: { token } }, 'a field');
  log.info({ a: { b: { c: [{ header: `Bearer ${token}` }] } } }, 'deep down');
  log.info(`the call carried Bearer ${token}`);
  log.error({ err: new Error(`bad token ${token}`, { cause: new Error(token) }) }, 'an error and its cause');
  log.error({ err: token }, 'thrown as text');
  log.error(new Error(token));
  const [, payload, signature] = token.split('.');
  for (const part of [token, payload, signature]) t.false(text().includes(part ?? '?'), part);
  t.is(objects().length, 7);
});

test('a private key never reaches a line, as JWK, as text of one or as PEM', async (t) => {
  const { d, jwk } = await tokenOf();
  const pem = await exportPKCS8((await generateKeyPair('EdDSA', { extractable: true })).privateKey);
  const { log, text, objects } = logged();
  log.info({ privateJwk: jwk }, 'by name');
  log.info({ key: jwk }, 'by another name');
  log.info({ file: JSON.stringify(jwk) }, 'as text');
  log.error({ err: new SyntaxError(`Unexpected end of JSON input: ${JSON.stringify(jwk, null, 2)}`) }, 'in an error');
  log.error({ err: new Error(`cannot read ${pem}`) }, 'as PEM');
  t.false(text().includes(d));
  t.false(text().includes(pem.split('\n')[1] ?? '?'));
  t.is(objects().length, 5);
});

test('a password never reaches a line, in a URL or by its name', (t) => {
  const { log, text, objects } = logged();
  const url = 'postgres://job_app:hunter2@db:5432/lethe_job';
  log.info({ databaseUrl: url, settings: { password: 'hunter2', secretAccessKey: 'hunter2' } }, 'settings');
  log.error({ err: new Error(`cannot reach ${url}`, { cause: new Error(url) }) }, 'an error');
  log.warn(`retrying ${url}`);
  log.info({ target: { at: { address: url } } }, 'deep down');
  t.false(text().includes('hunter2'));
  t.true(text().includes('//job_app:[redacted]@db'), 'what is no secret is still there');
  t.is(objects().length, 4);
});

test('what only looks a little like a secret is told', (t) => {
  const { log, objects } = logged();
  const said = { jobId: '018f6b1e-7c1a-7000-8000-000000000001', at: 'https://run:7401/x', d: 'short', mail: 'a@b.c' };
  log.info(said, 'eyJ is how they begin');
  t.like(objects()[0], { ...said, msg: 'eyJ is how they begin' });
});

test('an error is told with its code and causes, and with nothing that a driver hung on it', (t) => {
  const { log, objects, text } = logged();
  const driver = Object.assign(new Error('duplicate key'), { code: '23505', detail: 'Key (name)=(Ada) exists.' });
  log.error({ err: new Error('could not save', { cause: driver }) }, 'failed');
  t.like(objects()[0].err, { type: 'Error', message: 'could not save' });
  t.like(objects()[0].err.cause, { message: 'duplicate key', code: '23505' });
  t.false(text().includes('Ada'));
});

test('below its level nothing is written', (t) => {
  const { log, text } = logged('info');
  log.debug('quiet');
  t.is(text(), '');
});
