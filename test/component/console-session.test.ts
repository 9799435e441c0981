import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { type JWTPayload, SignJWT } from 'jose';
import {
  type DevelopmentProvider,
  type DevelopmentProviderOptions,
  startDevelopmentProvider,
} from '#deploy/local/development-provider.ts';
import { freePort } from '#deploy/local/free-port.ts';
import { readConsoleSettings } from '#services/console/server/config.ts';
import { type ConsoleBrowser, choosePerson, makeBrowser, signIn } from '#test/support/console-browser.ts';
import { startTestConsole } from '#test/support/start-console.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  stack: TestStack;
  /** The console of the stack: a process of its own, whose provider is in this one. */
  url: string;
  /** A page as the build makes it. */
  pageFolder: string;
}

const test = anyTest as TestFn<Context>;
const SESSION = 'lethe-session';
const SIGN_IN = 'lethe-sign-in';
const LIST_RUNS = '/rpc/lethe.run.v1.RunService/ListRuns';
const CREATE_RUN = '/rpc/lethe.run.v1.RunService/CreateRun';

test.before(async (t) => {
  const pageFolder = await mkdtemp(join(tmpdir(), 'lethe-test-page-'));
  await mkdir(join(pageFolder, 'assets'));
  await writeFile(join(pageFolder, 'index.html'), '<!doctype html><meta property="csp-nonce" nonce="__CSP_NONCE__">');
  await writeFile(join(pageFolder, 'assets/main-abc.js'), 'export {}');
  const stack = await startTestStack({
    services: ['run'],
    console: true,
    consoleEnv: { LETHE_PAGE_FOLDER: pageFolder },
  });
  Object.assign(t.context, { stack, pageFolder, url: stack.consoleUrl });
});

test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await rm(t.context.pageFolder, { recursive: true, force: true });
});

/** A console in this process, with a provider of its own that differs from the stack's as told. */
async function startPair(
  t: ExecutionContext<Context>,
  options: Pick<DevelopmentProviderOptions, 'people' | 'tokenSeconds' | 'refreshes' | 'moreClaims'> = {},
): Promise<{ url: string; provider: DevelopmentProvider; env: Readonly<Record<string, string>> }> {
  const { stack } = t.context;
  const url = `http://127.0.0.1:${await freePort()}`;
  const issuer = `http://127.0.0.1:${await freePort()}`;
  const key = JSON.parse(await readFile(join(stack.folder, 'keys/provider.private.json'), 'utf8'));
  const provider = await startDevelopmentProvider({ isEmbeddedStack: true, issuer, consoleUrl: url, key, ...options });
  const env = {
    LETHE_CONSOLE_URL: url,
    LETHE_DEVELOPMENT_SIGN_IN: 'on',
    LETHE_OIDC_ISSUER: issuer,
    LETHE_OIDC_CLIENT_ID: 'lethe-console',
    LETHE_OIDC_SCOPE: 'openid workflows:read',
    LETHE_SESSION_KEY_FILE: join(stack.folder, 'keys/console-session-key'),
  };
  const console = await startTestConsole(stack, { ...env, LETHE_HTTP_ADDRESS: new URL(url).host });
  t.teardown(async () => {
    await console.stop();
    await provider.stop();
  });
  return { url, provider, env };
}

const callRpc = (browser: ConsoleBrowser, url: string, path = LIST_RUNS, init: RequestInit = {}): Promise<Response> =>
  browser.fetch(`${url}${path}`, {
    method: 'POST',
    body: '{}',
    ...init,
    headers: { 'content-type': 'application/json', 'sec-fetch-site': 'same-origin', ...init.headers },
  });

const sessionOf = (browser: ConsoleBrowser, url: string): Promise<Response> => browser.fetch(`${url}/api/session`);
const isSignedIn = async (browser: ConsoleBrowser, url: string) => (await sessionOf(browser, url)).status === 200;
const copyOf = (browser: ConsoleBrowser): ConsoleBrowser => makeBrowser(browser.cookies);

/** Begins a sign-in and stops where the provider has sent the browser back: the callback, which is not called yet. */
async function untilCallback(
  browser: ConsoleBrowser,
  url: string,
  change: (authorization: URL) => void = () => undefined,
): Promise<URL> {
  const begun = await browser.fetch(`${url}/auth/sign-in`);
  const authorization = new URL(begun.headers.get('location') ?? '');
  change(authorization);
  const [page] = (await browser.visit(authorization)).slice(-1);
  if (!page) throw new Error('the provider has no page');
  const chosen = await browser.fetch(page.url, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: 'subject=admin%40globex',
  });
  const resumed = await browser.fetch(chosen.headers.get('location') ?? '');
  return new URL(resumed.headers.get('location') ?? '');
}

test('who signs in acts at the services with the token of the provider, which the page never sees', async (t) => {
  const { url, stack } = t.context;
  const browser = makeBrowser();
  t.is((await sessionOf(browser, url)).status, 401);
  const [page] = (await browser.visit(`${url}/auth/sign-in?return_to=/runs%3Fstate%3DFAILED`)).slice(-1);
  t.is(page?.status, 200);
  const way = await choosePerson(browser, page as Response, 'admin@globex');
  t.is(way.at(-1)?.url, `${url}/runs?state=FAILED`);

  const answer = await sessionOf(browser, url);
  t.is(answer.status, 200);
  const body = (await answer.json()) as Record<string, unknown>;
  const { expires_at: expiresAt, renew_after_seconds: renewAfter, scopes, ...person } = body;
  t.deepEqual(person, { subject: 'admin@globex', tenant: 'globex', role: 'admin' });
  t.true(Array.isArray(scopes) && scopes.includes('workflows:delete'));
  t.true(Date.parse(String(expiresAt)) > Date.now());
  t.true(Number(renewAfter) > 0);

  const { run } = await stack.clients({ tenantId: 'globex', role: 'member' }).runs.createRun({ workflow: 'seen' });
  const listed = await callRpc(browser, url);
  t.is(listed.status, 200);
  t.true((await listed.text()).includes(run?.id ?? 'none'));
  t.is((await callRpc(makeBrowser(), url)).status, 401);
});

test('the cookies are for the console alone, and say nothing to who reads them', async (t) => {
  const { url } = t.context;
  const browser = makeBrowser();
  const begun = await browser.fetch(`${url}/auth/sign-in`);
  const callback = await untilCallback(browser, url);
  const done = await browser.fetch(callback);
  const set = [...begun.headers.getSetCookie(), ...done.headers.getSetCookie()];
  t.is(set.length, 3);
  for (const cookie of set) t.regex(cookie, /; Path=\/; HttpOnly; SameSite=Lax$/);
  for (const name of [SESSION, SIGN_IN]) t.true(set.some((cookie) => cookie.startsWith(`${name}=`)));
  t.false(browser.cookies.has(SIGN_IN), 'the sign-in is over');
  const session = decodeURIComponent(browser.cookies.get(SESSION) ?? '');
  const read = session.split(';').map((part) => Buffer.from(part, 'base64').toString('latin1'));
  t.true(read.join('').length > 200, 'there is something to read');
  // A token is two objects in base64 with a point between them; a few letters of one may be in any ciphertext.
  for (const text of [session, ...read]) t.notRegex(text, /eyJ[\w-]+\.eyJ|globex/);
});

test('an answer that belongs to no sign-in of this browser signs nobody in', async (t) => {
  const { url } = t.context;
  const changes: Readonly<Record<string, (callback: URL) => void>> = {
    'another state': ({ searchParams }) => searchParams.set('state', 'x'.repeat(43)),
    'no state': ({ searchParams }) => searchParams.delete('state'),
    'another code': ({ searchParams }) => searchParams.set('code', 'x'.repeat(43)),
    'another issuer': ({ searchParams }) => searchParams.set('iss', 'http://127.0.0.1:1'),
  };
  for (const [name, change] of Object.entries(changes)) {
    const browser = makeBrowser();
    const callback = await untilCallback(browser, url);
    change(callback);
    const answer = await browser.fetch(callback);
    t.is(answer.status, 400, name);
    t.is(((await answer.json()) as { error: { reason: string } }).error.reason, 'SIGN_IN_FAILED', name);
    t.false(browser.cookies.has(SESSION), name);
  }
  // A link to an answer that somebody else got: who follows it would act in that other one's session.
  const victim = makeBrowser();
  const answer = await victim.fetch(await untilCallback(makeBrowser(), url));
  t.is(((await answer.json()) as { error: { reason: string } }).error.reason, 'SIGN_IN_UNKNOWN');
  t.false(victim.cookies.has(SESSION));
});

test('a nonce and a code challenge that are not of this sign-in are refused', async (t) => {
  for (const parameter of ['nonce', 'code_challenge']) {
    const browser = makeBrowser();
    const other = 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM';
    const callback = await untilCallback(browser, t.context.url, ({ searchParams }) =>
      searchParams.set(parameter, other),
    );
    const answer = await browser.fetch(callback);
    t.is(answer.status, 400, parameter);
    t.false(browser.cookies.has(SESSION), parameter);
  }
});

test('a code is good for one sign-in, also with the cookies of then', async (t) => {
  const { url } = t.context;
  const browser = makeBrowser();
  const callback = await untilCallback(browser, url);
  const thief = copyOf(browser);
  t.is((await browser.fetch(callback)).status, 303);
  for (const again of [browser, thief]) {
    again.cookies.delete(SESSION);
    t.is((await again.fetch(callback)).status, 400);
    t.false(again.cookies.has(SESSION));
  }
});

test('what the provider says of a refusal is not repeated to who reads it', async (t) => {
  const { url } = t.context;
  const browser = makeBrowser();
  const callback = await untilCallback(browser, url);
  callback.searchParams.delete('code');
  callback.searchParams.set('error', '<script>alert(1)</script>');
  callback.searchParams.set('error_description', 'call 555-1234');
  const answer = await browser.fetch(callback, { headers: { accept: 'text/html' } });
  t.is(answer.status, 403);
  const page = await answer.text();
  t.regex(page, /The provider did not sign you in \(error\)\./);
  t.notRegex(page, /script|555/);
});

test('after the sign-in the browser goes to a path of the console and nowhere else', async (t) => {
  const { url } = t.context;
  for (const elsewhere of [
    'https://evil.example',
    '//evil.example',
    '/\\evil.example',
    '/..//evil.example',
    'runs',
    '/auth/sign-in',
  ]) {
    const browser = makeBrowser();
    const [page] = (await browser.visit(`${url}/auth/sign-in?return_to=${encodeURIComponent(elsewhere)}`)).slice(-1);
    const way = await choosePerson(browser, page as Response, 'viewer@globex');
    t.is(new URL(way.at(-1)?.url ?? '').origin, url, elsewhere);
  }
});

test('a session that was there before the sign-in has no part in the one after it', async (t) => {
  const { url } = t.context;
  const attacker = await signIn(url, 'viewer@globex');
  const planted = attacker.cookies.get(SESSION) ?? '';
  const victim = makeBrowser(new Map([[SESSION, planted]]));
  await victim.fetch(await untilCallback(victim, url));
  t.not(victim.cookies.get(SESSION), planted);
  const { subject } = (await (await sessionOf(victim, url)).json()) as { subject: string };
  t.is(subject, 'admin@globex');
  t.false(await isSignedIn(attacker, url), 'the planted one is over');
});

test('a cookie that was changed, made up or is of the sign-in is no session', async (t) => {
  const { url } = t.context;
  const browser = await signIn(url, 'admin@globex');
  const cookie = browser.cookies.get(SESSION) ?? '';
  const begun = makeBrowser();
  await begun.fetch(`${url}/auth/sign-in`);
  const flipped = `${cookie.startsWith('A') ? 'B' : 'A'}${cookie.slice(1)}`;
  for (const value of [flipped, '', 'x', '%3B', 'YQ%3D%3D%3BYQ%3D%3D', begun.cookies.get(SIGN_IN) ?? '']) {
    t.is((await sessionOf(makeBrowser(new Map([[SESSION, value]])), url)).status, 401, value);
  }
});

test('a sign-out ends the session, every copy of its cookie, and the session with the provider', async (t) => {
  const { url } = t.context;
  const browser = await signIn(url, 'admin@globex');
  const thief = copyOf(browser);
  t.true(await isSignedIn(thief, url));
  const answer = await browser.fetch(`${url}/auth/sign-out`, {
    method: 'POST',
    headers: { 'sec-fetch-site': 'same-origin' },
  });
  t.is(answer.status, 200);
  t.false(browser.cookies.has(SESSION));
  t.false(await isSignedIn(browser, url));
  t.false(await isSignedIn(thief, url));
  const refused = await callRpc(thief, url);
  t.is(refused.status, 401);
  t.regex(await refused.text(), /TOKEN_MISSING|no bearer token/);

  // As the browser does it: the provider's page, its button, and back.
  const { location } = (await answer.json()) as { location: string };
  const [page] = (await browser.visit(location)).slice(-1);
  const [, action = '', xsrf = ''] =
    /action="([^"]+)".*name="xsrf" value="([^"]+)"/.exec((await page?.text()) ?? '') ?? [];
  const ended = await browser.fetch(action, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({ xsrf, logout: 'yes' }).toString(),
  });
  t.is(ended.headers.get('location'), `${url}/`);
  const [choice] = (await browser.visit(`${url}/auth/sign-in`)).slice(-1);
  t.regex((await choice?.text()) ?? '', /Who do you want to be/);
});

test('a form can sign out too, and who is signed out already is told the same', async (t) => {
  const { url } = t.context;
  const init = { method: 'POST', headers: { accept: 'text/html', origin: url } };
  const leadsTo = async (browser: ConsoleBrowser) =>
    /http-equiv="refresh" content="0; url=([^"]+)"/.exec(
      await (await browser.fetch(`${url}/auth/sign-out`, init)).text(),
    )?.[1];
  const browser = await signIn(url, 'admin@globex');
  t.regex((await leadsTo(browser)) ?? '', /\/session\/end\?/);
  t.false(await isSignedIn(browser, url));
  t.is(await leadsTo(makeBrowser()), `${url}/`);
});

test('a session without refresh ends with its token', async (t) => {
  const { url } = await startPair(t, { tokenSeconds: 8, refreshes: false });
  const browser = await signIn(url, 'admin@globex');
  const thief = copyOf(browser);
  const { expires_at: expiresAt } = (await (await sessionOf(browser, url)).json()) as { expires_at: string };
  t.true(Date.parse(expiresAt) <= Date.now() + 8_000);
  await until('the session is over', async () => !(await isSignedIn(browser, url)));
  t.false(browser.cookies.has(SESSION));
  t.false(await isSignedIn(thief, url));
});

test('a token is refreshed once for all requests that come together, and no longer after the sign-out', async (t) => {
  const { url, env } = await startPair(t, { tokenSeconds: 3 });
  const browser = await signIn(url, 'admin@globex');
  const first = browser.cookies.get(SESSION) ?? '';
  const stale = copyOf(browser);
  await until('the token is renewed', async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, () => sessionOf(copyOf(browser), url)));
    t.true(answers.every(({ status }) => status === 200));
    await sessionOf(browser, url);
    return browser.cookies.get(SESSION) !== first;
  });
  t.true(await isSignedIn(stale, url), 'a request that comes late with the cookie of before');
  // Another replica has the same key and does not know of the sign-out: the token's end is the end there.
  const replica = await startTestConsole(t.context.stack, { ...env, LETHE_HTTP_ADDRESS: '127.0.0.1:0' });
  t.teardown(() => replica.stop());
  const thief = copyOf(browser);
  await browser.fetch(`${url}/auth/sign-out`, { method: 'POST' });
  t.false(await isSignedIn(thief, url));
  await until('the copy is over at the replica', async () => !(await isSignedIn(thief, replica.url)));
  t.pass();
});

test('requests that come together at several replicas redeem no refresh token twice, and the session goes on', async (t) => {
  const { url, env } = await startPair(t, { tokenSeconds: 4 });
  const replica = await startTestConsole(t.context.stack, { ...env, LETHE_HTTP_ADDRESS: '127.0.0.1:0' });
  t.teardown(() => replica.stop());
  const browser = await signIn(url, 'admin@globex');
  // The provider ends a session whose refresh token comes a second time: three lives of a token are enough to see it.
  for (let renewals = 0; renewals < 3; renewals += 1) {
    const before = browser.cookies.get(SESSION) ?? '';
    const { renew_after_seconds: seconds } = (await (await sessionOf(browser, url)).json()) as Record<string, number>;
    t.true(seconds !== undefined && seconds >= 1 && seconds <= 4, `${seconds}`);
    await until('the token is renewed', async () => {
      // As a page does: all its calls as they come, and one question for the session, at whichever replica.
      const calls = [url, replica.url, url, replica.url].map((at) => callRpc(copyOf(browser), at));
      const answer = await sessionOf(browser, renewals % 2 ? url : replica.url);
      const answers = await Promise.all(calls);
      t.true(answers.every(({ headers }) => headers.getSetCookie().length === 0));
      return answer.status !== 200 || browser.cookies.get(SESSION) !== before;
    });
    t.true(await isSignedIn(browser, url));
  }
});

test('a provider that does not answer for a while ends no session, and one that knows it no longer does', async (t) => {
  const { url, provider, env } = await startPair(t, { tokenSeconds: 3 });
  const browser = await signIn(url, 'admin@globex');
  await provider.stop();
  let answer = await sessionOf(browser, url);
  await until('the token is over', async () => {
    answer = await sessionOf(browser, url);
    return answer.status !== 200;
  });
  t.is(answer.status, 503);
  t.like(await answer.json(), { error: { reason: 'PROVIDER_UNAVAILABLE' } });
  t.true(browser.cookies.has(SESSION));
  const key = JSON.parse(await readFile(join(t.context.stack.folder, 'keys/provider.private.json'), 'utf8'));
  const issuer = env['LETHE_OIDC_ISSUER'] ?? '';
  const again = await startDevelopmentProvider({ isEmbeddedStack: true, issuer, consoleUrl: url, key });
  t.teardown(() => again.stop());
  await until('the provider is asked', async () => (await sessionOf(browser, url)).status === 401);
  t.false(browser.cookies.has(SESSION));
});

test('another site, whatever it sends, changes nothing', async (t) => {
  const { url, stack } = t.context;
  const browser = await signIn(url, 'admin@acme');
  const evil = 'https://evil.example';
  const sites: Readonly<Record<string, Record<string, string>>> = {
    'another site': { 'sec-fetch-site': 'cross-site', origin: evil },
    'another host of this domain': { 'sec-fetch-site': 'same-site', origin: 'http://127.0.0.1:1' },
    'a browser without Sec-Fetch-Site': { origin: evil },
    'a sandboxed frame': { origin: 'null' },
    'a claim to be this origin': { 'sec-fetch-site': 'cross-site', origin: url },
  };
  const bodies: Readonly<Record<string, Record<string, string>>> = {
    JSON: { 'content-type': 'application/json' },
    'text/plain': { 'content-type': 'text/plain' },
    'a form': { 'content-type': 'application/x-www-form-urlencoded' },
    proto: { 'content-type': 'application/proto' },
  };
  for (const [site, headers] of Object.entries(sites)) {
    for (const [kind, contentType] of Object.entries(bodies)) {
      const body = '{"workflow":"planted"}';
      for (const path of [CREATE_RUN, '/auth/sign-out', '/api/v1/workflows/runs/x']) {
        const answer = await browser.fetch(`${url}${path}`, {
          method: 'POST',
          headers: { ...headers, ...contentType },
          body,
        });
        t.is(answer.status, 403, `${site}, ${kind}, ${path}`);
        t.is(((await answer.json()) as { error: { reason: string } }).error.reason, 'CROSS_SITE');
        t.is(answer.headers.get('access-control-allow-origin'), null);
      }
    }
  }
  for (const method of ['PUT', 'PATCH', 'DELETE']) {
    const answer = await browser.fetch(`${url}${LIST_RUNS}`, { method, headers: sites['another site'] ?? {} });
    t.is(answer.status, 403, method);
  }
  const preflight = {
    origin: evil,
    'access-control-request-method': 'POST',
    'access-control-request-headers': 'authorization',
  };
  const allowed = await browser.fetch(`${url}${CREATE_RUN}`, { method: 'OPTIONS', headers: preflight });
  t.is(allowed.headers.get('access-control-allow-origin'), null);

  // Not even from this origin is it enough to be a form.
  for (const contentType of ['text/plain', 'application/x-www-form-urlencoded']) {
    const answer = await callRpc(browser, url, CREATE_RUN, {
      headers: { 'content-type': contentType },
      body: '{"workflow":"planted"}',
    });
    t.is(answer.status, 415, contentType);
  }
  t.true(await isSignedIn(browser, url), 'nobody was signed out');
  const { runs } = await stack.clients({ tenantId: 'acme', role: 'viewer' }).runs.listRuns({});
  t.false(runs.some(({ workflow }) => workflow === 'planted'));
  t.is((await callRpc(browser, url, CREATE_RUN, { body: '{"workflow":"own"}' })).status, 200);
});

/** What every answer has. */
const SECURE: Readonly<Record<string, RegExp>> = {
  'content-security-policy': /default-src 'none';.*frame-ancestors 'none'/,
  'x-frame-options': /^DENY$/,
  'x-content-type-options': /^nosniff$/,
  'referrer-policy': /^no-referrer$/,
  'cross-origin-opener-policy': /^same-origin$/,
  'cross-origin-resource-policy': /^same-origin$/,
  'x-request-id': /./,
};

test('every answer has the headers that keep a browser from harm: pages, files, RPCs and errors', async (t) => {
  const { url } = t.context;
  const browser = await signIn(url, 'viewer@globex');
  const asPerson = { headers: { accept: 'text/html' } };
  const answers: Readonly<Record<string, [status: number, answer: Response]>> = {
    page: [200, await browser.fetch(`${url}/runs`, asPerson)],
    file: [200, await browser.fetch(`${url}/assets/main-abc.js`)],
    'missing file': [404, await browser.fetch(`${url}/assets/none.js`)],
    'missing route': [404, await browser.fetch(`${url}/api/none`)],
    'bad path': [400, await browser.fetch(`${url}/%E0%A4%A`)],
    session: [200, await sessionOf(browser, url)],
    'no session': [401, await sessionOf(makeBrowser(), url)],
    'sign-in': [303, await browser.fetch(`${url}/auth/sign-in`)],
    'failed sign-in': [400, await makeBrowser().fetch(`${url}/auth/callback?code=x&state=y`, asPerson)],
    rpc: [200, await callRpc(browser, url)],
    'refused rpc': [403, await callRpc(browser, url, CREATE_RUN, { body: '{"workflow":"x"}' })],
    'rpc of nobody': [401, await callRpc(makeBrowser(), url)],
    'unknown rpc': [404, await callRpc(browser, url, '/rpc/x.Y/Z')],
    'other site': [403, await callRpc(browser, url, LIST_RUNS, { headers: { 'sec-fetch-site': 'cross-site' } })],
    'wrong type': [415, await callRpc(browser, url, '/auth/sign-out', { headers: { 'content-type': 'image/png' } })],
    'too much': [413, await callRpc(browser, url, '/auth/sign-out', { body: JSON.stringify('x'.repeat(100_000)) })],
    health: [200, await browser.fetch(`${url}/healthz`)],
  };
  for (const [name, [status, { headers, status: answered }]] of Object.entries(answers)) {
    t.is(answered, status, name);
    for (const [header, value] of Object.entries(SECURE))
      t.regex(headers.get(header) ?? '', value, `${name}: ${header}`);
    t.is(headers.get('strict-transport-security'), null, 'a promise of https would lock a person out of http');
    if (name !== 'file') t.regex(headers.get('cache-control') ?? '', /no-store|no-cache/, name);
    t.is(headers.get('server') ?? headers.get('x-powered-by'), null);
  }
});

test('the page may run its own scripts and styles, and of inline styles those with the nonce of this answer', async (t) => {
  const { url } = t.context;
  const nonces = new Set<string>();
  for (let time = 0; time < 2; time += 1) {
    const answer = await fetch(url, { headers: { accept: 'text/html' } });
    const policy = answer.headers.get('content-security-policy') ?? '';
    t.notRegex(policy, /unsafe|\*|https?:|blob:/);
    const [, nonce = ''] = /style-src 'self' 'nonce-([0-9a-f]+)'/.exec(policy) ?? [];
    t.true((await answer.text()).includes(`nonce="${nonce}"`));
    nonces.add(nonce);
  }
  t.is(nonces.size, 2);
});

test('a console on https promises https, and its cookies are of its own host', async (t) => {
  const console = await startTestConsole(t.context.stack, { LETHE_CONSOLE_URL: 'https://lethe.example.com' });
  t.teardown(() => console.stop());
  const answer = await fetch(`${console.url}/healthz`);
  t.regex(answer.headers.get('strict-transport-security') ?? '', /^max-age=31536000/);
  t.regex(answer.headers.get('content-security-policy') ?? '', /upgrade-insecure-requests/);
  const off = await fetch(`${console.url}/auth/sign-in`);
  t.is(off.status, 404, 'without a provider nobody can sign in');
});

test('a sign-in link works once, within its time, and then says so', async (t) => {
  const { url, stack } = t.context;
  const { provider } = stack;
  if (!provider) return t.fail();
  // Whoever was signed in with the provider before: the link is for the person that it names.
  const browser = await signIn(url, 'viewer@globex');
  const link = provider.makeLink('admin@globex');
  t.true(link.startsWith(`${url}/auth/sign-in?`));
  t.is((await browser.visit(link)).at(-1)?.url, `${url}/`);
  t.is(((await (await sessionOf(browser, url)).json()) as { subject: string }).subject, 'admin@globex');

  const said = async (followed: string) => {
    const stranger = makeBrowser();
    const [page] = (await stranger.visit(followed)).slice(-1);
    t.false(await isSignedIn(stranger, url));
    return /role="alert">([^<]*)/.exec((await page?.text()) ?? '')?.[1] ?? '';
  };
  t.regex(await said(link), /used already; it works once/);
  const short = provider.makeLink('admin@globex', 1);
  await delay(5);
  t.regex(await said(short), /has expired/);
  t.regex(await said(`${url}/auth/sign-in?login_hint=link:x`), /earlier start/);
  return undefined;
});

test('the services take the provider for the people of the sample, each in their own tenant and role', async (t) => {
  const { stack, url } = t.context;
  const key = JSON.parse(await readFile(join(stack.folder, 'keys/provider.private.json'), 'utf8'));
  const trusted = JSON.parse(await readFile(join(stack.folder, 'keys/trust.json'), 'utf8')).trust;
  const { issuer } = trusted.find(({ name }: { name: string }) => name === 'development-provider');
  const ask = async (claims: JWTPayload, seconds = 60) => {
    const now = Math.floor(Date.now() / 1_000);
    const token = await new SignJWT({ scope: 'workflows:read', ...claims })
      .setProtectedHeader({ alg: 'ES256', kid: key.kid })
      .setIssuer(issuer)
      .setAudience('lethe')
      .setIssuedAt(now)
      .setExpirationTime(now + seconds)
      .sign(await crypto.subtle.importKey('jwk', key, { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']));
    return (await callRpc(makeBrowser(), url, LIST_RUNS, { headers: { authorization: `Bearer ${token}` } })).status;
  };
  const admin = { sub: 'admin@globex', tenant: 'globex', role: 'admin' };
  t.is(await ask(admin), 200);
  t.is(await ask({ ...admin, tenant: 'initech' }), 401, 'a tenant that is not of the sample');
  t.is(await ask({ ...admin, tenant: 'acme' }), 401, 'a tenant of somebody else');
  t.is(await ask({ ...admin, role: 'owner' }), 401);
  t.is(await ask({ ...admin, role: 'platform' }), 401);
  t.is(await ask({ ...admin, sub: 'mallory' }), 401);
  t.is(await ask(admin, 86_400), 401);
});

test('a tenant of the provider that the services do not know is refused by them, signed in or not', async (t) => {
  const { url } = await startPair(t, {
    people: [{ subject: 'admin@initech', role: 'admin', tenantId: 'initech', about: 'of no sample' }],
  });
  const browser = await signIn(url, 'admin@initech');
  t.true(await isSignedIn(browser, url));
  const answer = await callRpc(browser, url);
  t.is(answer.status, 401);
  t.regex(await answer.text(), /TOKEN_INVALID|not valid here/);
});

test('tokens that do not fit into a cookie are told of, with what to do', async (t) => {
  const { url } = await startPair(t, { moreClaims: { groups: randomBytes(3_000).toString('base64') } });
  const browser = makeBrowser();
  const [page] = (await browser.visit(`${url}/auth/sign-in`)).slice(-1);
  const answer = (await choosePerson(browser, page as Response, 'admin@globex')).at(-1);
  t.is(answer?.status, 502);
  t.regex((await answer?.text()) ?? '', /take [\d,]+ bytes, and a cookie holds 4096\. Ask for fewer scopes/);
  t.false(browser.cookies.has(SESSION));
});

test('where only the ID token does not fit, the session does without it', async (t) => {
  const { url } = await startPair(t, { moreClaims: { groups: randomBytes(1_100).toString('base64') } });
  const browser = await signIn(url, 'admin@globex');
  t.true(await isSignedIn(browser, url));
  const answer = await browser.fetch(`${url}/auth/sign-out`, { method: 'POST' });
  const { location } = (await answer.json()) as { location: string };
  t.false(new URL(location).searchParams.has('id_token_hint'));
  t.is(new URL(location).searchParams.get('client_id'), 'lethe-console');
});

test('the development sign-in runs in the embedded stack and nowhere else', async (t) => {
  const { stack } = t.context;
  const key = JSON.parse(await readFile(join(stack.folder, 'keys/provider.private.json'), 'utf8'));
  const local = { isEmbeddedStack: true, issuer: 'http://127.0.0.1:1', consoleUrl: 'http://127.0.0.1:2', key } as const;
  const elsewhere: readonly object[] = [
    { isEmbeddedStack: false },
    { isEmbeddedStack: undefined },
    { issuer: 'http://0.0.0.0:7406' },
    { issuer: 'http://192.168.1.2:7406' },
    { issuer: 'https://127.0.0.1:7406' },
    { issuer: 'http://127.0.0.1.evil.example:7406' },
    { consoleUrl: 'https://lethe.example.com' },
    { consoleUrl: 'http://10.0.0.1:7405' },
  ];
  for (const change of elsewhere) {
    await t.throwsAsync(startDevelopmentProvider({ ...local, ...change } as DevelopmentProviderOptions), {
      message: /embedded stack alone/,
    });
  }

  const addresses = Object.fromEntries(
    ['RUN', 'JOB', 'INCIDENT', 'RETENTION'].map((name) => [`LETHE_${name}_ADDRESS`, 'x:1']),
  );
  const sessionKey = join(stack.folder, 'keys/console-session-key');
  const env = {
    ...addresses,
    LETHE_HTTP_ADDRESS: '127.0.0.1:7405',
    LETHE_CONSOLE_URL: 'http://127.0.0.1:7405',
    LETHE_DEVELOPMENT_SIGN_IN: 'on',
    LETHE_OIDC_ISSUER: 'http://127.0.0.1:7406',
    LETHE_OIDC_CLIENT_ID: 'lethe-console',
    LETHE_SESSION_KEY_FILE: sessionKey,
  };
  t.is(readConsoleSettings(env).signIn?.issuer.port, '7406');
  const refused: readonly [change: Readonly<Record<string, string>>, problem: RegExp][] = [
    [
      { LETHE_DEVELOPMENT_SIGN_IN: 'off' },
      /LETHE_OIDC_ISSUER must be an https URL; LETHE_CONSOLE_URL must be an https/,
    ],
    [{ LETHE_HTTP_ADDRESS: '0.0.0.0:7405' }, /LETHE_HTTP_ADDRESS must be on a loopback address/],
    [{ LETHE_CONSOLE_URL: 'https://lethe.example.com' }, /LETHE_CONSOLE_URL must be on a loopback address/],
    [{ LETHE_OIDC_ISSUER: 'http://id.example.com' }, /LETHE_OIDC_ISSUER must be on a loopback address/],
    [{ LETHE_OIDC_ISSUER: 'https://id.example.com' }, /LETHE_OIDC_ISSUER must be on a loopback address/],
    [{ LETHE_SESSION_KEY_FILE: stack.userKeyFile }, /LETHE_SESSION_KEY_FILE must name a file with a key of 32 bytes/],
    [{ LETHE_OIDC_SCOPE: 'workflows:read' }, /LETHE_OIDC_SCOPE must have openid/],
    [{ LETHE_OIDC_PARAMETERS: 'audience=lethe&state=x' }, /LETHE_OIDC_PARAMETERS must not have state/],
    [{ LETHE_OIDC_CLAIMS: 'org=org_id' }, /LETHE_OIDC_CLAIMS must be FIELD=CLAIM/],
  ];
  for (const [change, message] of refused) t.throws(() => readConsoleSettings({ ...env, ...change }), { message });
  const inProduction = {
    ...addresses,
    LETHE_CONSOLE_URL: 'https://lethe.example.com',
    LETHE_OIDC_ISSUER: 'https://id.example.com',
    LETHE_OIDC_CLIENT_ID: 'lethe',
    LETHE_SESSION_KEY_FILE: sessionKey,
    LETHE_OIDC_CLAIMS: 'tenant=org_id, role=roles',
  };
  t.like(readConsoleSettings(inProduction).signIn, { claims: { tenant: 'org_id', role: 'roles', subject: 'sub' } });
});
