import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { exportJWK, generateKeyPair, importJWK, type JWK, SignJWT } from 'jose';
import { makeKeys } from '#deploy/make-keys.ts';
import { type Caller, type Role, TENANT_ROLES } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { authorize, type Rule } from './authorize.ts';
import { makeKeyPair, openSigningKey, ROLES, readSigningKey, type SigningKey } from './keys.ts';
import { openTrust } from './open-trust.ts';
import { POLICY, SCOPES } from './policy.ts';
import { makeParticipantCredential, signToken } from './sign-token.ts';
import { matches, parseTrustFile } from './trust-file.ts';
import { makeTokenVerifier, type VerifyToken } from './verify-token.ts';

const folder = mkdtempSync(join(tmpdir(), 'lethe-test-trust-'));
test.after.always(() => rmSync(folder, { recursive: true, force: true }));

const TENANTS = ['acme', 'globex'];
const CALLEE_SCOPES = [
  ...new Set(Object.values(POLICY).flatMap((rule) => ('callee' in rule ? [rule.calleeScope as string] : []))),
];
const ALL_SCOPES = [...SCOPES, ...CALLEE_SCOPES];

test.before(() => makeKeys(join(folder, 'keys'), TENANTS));

const believed = (verify: VerifyToken, token: string): Promise<Caller | undefined> =>
  verify(`Bearer ${token}`).catch((error: unknown) => {
    if (error instanceof DomainError && error.reason === 'TOKEN_INVALID') return undefined;
    throw error;
  });

/** One token as somebody who has stolen a key would sign it. */
interface Attempt {
  readonly role: Role;
  readonly tenantId: string | undefined;
  readonly audience: string;
  readonly actingService: string | undefined;
  readonly subject: string;
}

/** By hand, and not from the table in lethe-keys.ts: what each key may say, and which scopes count. */
const EXPECTED: Readonly<Record<string, { may(attempt: Attempt): boolean; scopes: (scope: string) => boolean }>> = {
  run: {
    may: ({ role, tenantId, audience, actingService }) =>
      role === 'service' && tenantId !== undefined && isParticipant(audience) && actingService === 'service:run',
    scopes: (scope) => scope.startsWith('participant:'),
  },
  retention: {
    may: ({ role, audience, actingService }) =>
      role === 'service' && audience.startsWith('lethe-owner:') && actingService === 'service:retention',
    scopes: (scope) => scope.startsWith('owner:'),
  },
  'retention-purge': {
    may: (attempt) => isPlatform(attempt) && attempt.subject === 'retention-purge',
    scopes: (scope) => scope === 'retention:purge' || scope === 'retention:read',
  },
  'orphan-report': {
    may: (attempt) => isPlatform(attempt) && attempt.subject === 'orphan-report',
    scopes: (scope) => scope === 'orphans:sweep',
  },
  operator: {
    may: (attempt) => isPlatform(attempt) || (isInTenant(attempt) && attempt.role !== 'service'),
    scopes: () => true,
  },
  ...Object.fromEntries(
    TENANTS.map((tenant) => [
      `tenant-${tenant}`,
      {
        may: (attempt: Attempt) =>
          isInTenant(attempt) && attempt.tenantId === tenant && TENANT_ROLES.some((role) => role === attempt.role),
        scopes: () => true,
      },
    ]),
  ),
};

const isParticipant = (audience: string): boolean => audience.startsWith('lethe-participant:');
const isPlatform = ({ role, tenantId, audience, actingService }: Attempt): boolean =>
  role === 'platform' && tenantId === undefined && audience === 'lethe' && actingService === undefined;
const isInTenant = ({ tenantId, audience, actingService }: Attempt): boolean =>
  tenantId !== undefined && audience === 'lethe' && actingService === undefined;

/** Whether a believed token opens an RPC, by the words of the policy and not by authorize. */
function isOpen(rule: Rule, attempt: Attempt, scopes: readonly string[]): boolean {
  if ('public' in rule) return true;
  const { role, tenantId, audience, actingService } = attempt;
  if ('callee' in rule) {
    if (!audience.startsWith(`lethe-${rule.callee}:`) || !scopes.includes(rule.calleeScope)) return false;
    const by = rule.callee === 'owner' ? 'service:retention' : 'service:run';
    return role === 'service' && actingService === by && rule.isOfTenant === (tenantId !== undefined);
  }
  if (audience !== 'lethe' || !scopes.includes(rule.scope)) return false;
  if (role === 'platform') return rule.platform === true || (rule.role !== undefined && tenantId !== undefined);
  if (role === 'service') return rule.service === true && tenantId !== undefined;
  if (rule.role === undefined || tenantId === undefined) return false;
  return TENANT_ROLES.indexOf(role) >= TENANT_ROLES.indexOf(rule.role);
}

const opens = (caller: Caller, rule: Rule): boolean => {
  try {
    authorize(caller, rule);
    return true;
  } catch {
    return false;
  }
};

test('every key that Lethe makes, with every role and scope, opens the RPCs that its entry allows, and no other', async (t) => {
  const trustFile = join(folder, 'keys/trust.json');
  const trust = await openTrust(trustFile);
  const names = { owner: 'incident', participant: 'incident' };
  const verify = makeTokenVerifier({ trust, names });
  const entries = parseTrustFile(trustFile, readFileSync(trustFile, 'utf8'));
  t.deepEqual(entries.map(({ name }) => name).toSorted(), Object.keys(EXPECTED).toSorted());
  const attempts = ROLES.flatMap((role) =>
    [undefined, ...TENANTS, 'initech'].flatMap((tenantId) =>
      ['lethe', 'lethe-participant:incident', 'lethe-owner:incident', 'lethe-participant:job', 'other'].flatMap(
        (audience) =>
          [undefined, 'service:run', 'service:retention'].flatMap((actingService) =>
            ['ada', 'retention-purge', 'orphan-report'].map(
              (subject): Attempt => ({ role, tenantId, audience, actingService, subject }),
            ),
          ),
      ),
    ),
  );
  let opened = 0;
  for (const [name, { may, scopes }] of Object.entries(EXPECTED)) {
    const key = await readSigningKey(join(folder, 'keys', `${name}.json`));
    const sign = (attempt: Attempt, of: readonly string[]) =>
      signToken({ key, issuer: 'lethe', audience: attempt.audience }, { ...attempt, scopes: of }, 60);
    for (const attempt of attempts) {
      const told = `${name}: ${JSON.stringify(attempt)}`;
      const caller = await believed(verify, await sign(attempt, ALL_SCOPES));
      // Another participant's token is good where that participant is.
      const isBelieved = may(attempt) && ['lethe', 'other'].concat(ownAudiences(names)).includes(attempt.audience);
      if ((caller !== undefined) !== isBelieved) t.fail(`${told} was ${caller ? '' : 'not '}believed`);
      if (!caller) continue;
      const counting = ALL_SCOPES.filter(scopes).filter((scope) => countsHere(name, attempt, scope));
      if ([...caller.scopes].toSorted().join() !== counting.toSorted().join())
        t.fail(`${told} has ${[...caller.scopes]}`);
      for (const [rpc, rule] of Object.entries(POLICY)) {
        const isAllowed = isOpen(rule, attempt, counting);
        if (opens(caller, rule) !== isAllowed) t.fail(`${told} on ${rpc}`);
        if (isAllowed) opened += 1;
      }
      for (const scope of ALL_SCOPES) {
        const narrow = await believed(verify, await sign(attempt, [scope]));
        if (!narrow) return t.fail(`${told} with ${scope} alone is not believed`);
        for (const [rpc, rule] of Object.entries(POLICY)) {
          const isAllowed = counting.includes(scope) && isOpen(rule, attempt, [scope]);
          if (opens(narrow, rule) !== (isAllowed || 'public' in rule)) t.fail(`${told} with ${scope} alone on ${rpc}`);
        }
      }
    }
  }
  t.true(opened > 1_000, `${opened} pairs were open`);
});

const ownAudiences = (names: { owner: string; participant: string }) => [
  `lethe-owner:${names.owner}`,
  `lethe-participant:${names.participant}`,
];

/** RetentionService reads without a tenant, and counts and purges in one. */
const countsHere = (name: string, { tenantId }: Attempt, scope: string): boolean =>
  name !== 'retention' || (scope === 'owner:read') === (tenantId === undefined);

test('a key signs nothing that lives longer than its entry allows, and no key is believed without one', async (t) => {
  const verify = makeTokenVerifier({
    trust: await openTrust(join(folder, 'keys/trust.json')),
    names: { participant: 'job' },
  });
  const keyOf = (name: string) => readSigningKey(join(folder, 'keys', `${name}.json`));
  const sign = (key: SigningKey, seconds: number) =>
    signToken(
      { key, issuer: 'lethe', audience: 'lethe' },
      { subject: 'ada', role: 'platform', scopes: SCOPES },
      seconds,
    );
  t.truthy(await believed(verify, await sign(await keyOf('operator'), 3_600)));
  t.falsy(await believed(verify, await sign(await keyOf('operator'), 3_601)));
  t.falsy(await believed(verify, await sign(await keyOf('run'), 365 * 86_400)), 'as a platform for a year');
  const { privateJwk } = await makeKeyPair();
  const stranger = { kid: privateJwk.kid ?? '', key: await importJWK(privateJwk, 'EdDSA') };
  t.falsy(await believed(verify, await sign(stranger, 60)));
  const forged = { kid: (await keyOf('operator')).kid, key: stranger.key };
  t.falsy(await believed(verify, await sign(forged, 60)), "under another key's name");
  const operator = await keyOf('operator');
  const claims = { subject: 'ada', role: 'platform', scopes: SCOPES } as const;
  const other = await signToken({ key: operator, issuer: 'https://idp', audience: 'lethe' }, claims, 60);
  t.falsy(await believed(verify, other), 'as another issuer');
});

test('an identity provider stands beside Lethe’s own keys, with its own names of claims, for some tenants alone', async (t) => {
  const { privateKey, publicKey } = await generateKeyPair('RS256', { extractable: true });
  const jwk = { ...(await exportJWK(publicKey)), kid: 'idp-1', alg: 'RS256', use: 'sig' };
  const server = createServer((_, response) => response.end(JSON.stringify({ keys: [jwk] })));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const own = JSON.parse(readFileSync(join(folder, 'keys/trust.json'), 'utf8')) as { trust: object[] };
  const file = join(folder, 'several.json');
  const provider = {
    name: 'company',
    issuer: 'https://login.example.com/',
    jwks_url: `http://127.0.0.1:${port}/jwks`,
    claims: {
      subject: 'email',
      tenant: 'https://lethe.dev/tenant',
      role: 'https://lethe.dev/roles',
      scope: 'scp',
    },
    allow: [
      {
        roles: ['viewer', 'member', 'admin'],
        scopes: ['jobs:*', 'workflows:read'],
        audiences: ['api://lethe'],
        tenants: ['acme'],
        subjects: ['*'],
        max_lifetime_seconds: 3_600,
      },
    ],
  };
  // One key of the same issuer stands in the file, and may do less than those behind the URL.
  const robot = await makeKeyPair();
  const [grant] = provider.allow;
  const ofRobot = {
    ...provider,
    name: 'robot',
    jwks_url: undefined,
    jwks: { keys: [robot.publicJwk] },
    allow: [{ ...grant, roles: ['viewer'] }],
  };
  writeFileSync(file, JSON.stringify({ trust: [...own.trust, provider, ofRobot] }));
  const verify = makeTokenVerifier({ trust: await openTrust(file) });
  const claims = {
    email: 'ada@example.com',
    'https://lethe.dev/tenant': 'acme',
    'https://lethe.dev/roles': ['staff', 'admin'],
    scp: ['openid', 'jobs:read', 'jobs:delete', 'workflows:delete'],
  };
  const now = Math.floor(Date.now() / 1_000);
  const sign = (changes: Record<string, unknown> = {}, aud: string | string[] = 'api://lethe', seconds = 3_600) =>
    new SignJWT({ ...claims, ...changes })
      .setProtectedHeader({ alg: 'RS256', kid: 'idp-1' })
      .setIssuer('https://login.example.com/')
      .setSubject('00u1')
      .setAudience(aud)
      .setIssuedAt(now)
      .setExpirationTime(now + seconds)
      .sign(privateKey);
  const caller = await believed(verify, await sign());
  t.like(caller, {
    subject: 'ada@example.com',
    actor: 'ada@example.com',
    kind: 'user',
    tenantId: 'acme',
    role: 'admin',
  });
  t.deepEqual([...(caller?.scopes ?? [])], ['jobs:read', 'jobs:delete'], 'what the entry does not name does not count');
  t.truthy(await believed(verify, await sign({}, ['api://lethe', 'https://login.example.com/userinfo'])));
  for (const [what, token] of [
    ['another tenant', await sign({ 'https://lethe.dev/tenant': 'globex' })],
    ['no tenant', await sign({ 'https://lethe.dev/tenant': undefined })],
    ['a role beyond its own', await sign({ 'https://lethe.dev/roles': ['owner'] })],
    ['the platform', await sign({ 'https://lethe.dev/roles': ['platform'] })],
    ['two roles', await sign({ 'https://lethe.dev/roles': ['viewer', 'admin'] })],
    ['a service that acts', await sign({ act: { sub: 'service:run' } })],
    ['another audience', await sign({}, 'lethe')],
    ["a participant's audience", await sign({}, ['api://lethe', 'lethe-participant:job'])],
    ['a longer life', await sign({}, 'api://lethe', 3_601)],
    ['Lethe’s own names of claims', await sign({ ...claims, email: undefined, tenant: 'acme', role: 'admin' })],
  ] as const)
    t.falsy(await believed(verify, token), what);
  const signAsRobot = async (role: string) =>
    new SignJWT({ ...claims, 'https://lethe.dev/roles': [role] })
      .setProtectedHeader({ alg: 'EdDSA', kid: robot.privateJwk.kid ?? '' })
      .setIssuer('https://login.example.com/')
      .setSubject('robot')
      .setAudience('api://lethe')
      .setIssuedAt(now)
      .setExpirationTime(now + 60)
      .sign(await importJWK(robot.privateJwk, 'EdDSA'));
  t.like(await believed(verify, await signAsRobot('viewer')), { role: 'viewer', trustEntry: 'robot' });
  t.falsy(await believed(verify, await signAsRobot('admin')));
  const operator = await readSigningKey(join(folder, 'keys/operator.json'));
  const platform = { subject: 'ada', role: 'platform', scopes: SCOPES } as const;
  const ours = await signToken({ key: operator, issuer: 'lethe', audience: 'lethe' }, platform, 60);
  t.like(await believed(verify, ours), { role: 'platform' });
});

test('a trust file that cannot be used is refused with its name, the entry and the field, and without a key', async (t) => {
  const { privateJwk, publicJwk } = await makeKeyPair();
  const grant = {
    roles: ['platform'],
    scopes: ['*'],
    audiences: ['lethe'],
    subjects: ['*'],
    max_lifetime_seconds: 60,
  };
  const entry = { name: 'one', issuer: 'lethe', jwks: { keys: [publicJwk] }, allow: [grant] };
  const withGrant = (changes: object) => ({ trust: [{ ...entry, allow: [{ ...grant, ...changes }] }] });
  const withEntry = (changes: object) => ({ trust: [{ ...entry, ...changes }] });
  t.notThrows(() => parseTrustFile('trust.json', JSON.stringify({ trust: [entry] })));
  const keysOf = (...keys: readonly JWK[]) => ({ jwks: { keys } });
  const cases: readonly (readonly [unknown, RegExp])[] = [
    ['{', /it is not JSON/],
    [[], /it is not a JSON object/],
    [{}, /trust must be a list/],
    [{ trust: [], turst: [] }, /turst is not a field of it/],
    [withEntry({ name: '' }), /trust\[0\]: name must be a text/],
    [withEntry({ issuer: undefined }), /trust\[0\] \(one\): issuer must be a text/],
    [withEntry({ allow: [] }), /\(one\): allow must be a list with at least one grant/],
    [withEntry({ jwks_file: 'a.json' }), /\(one\) must have one of jwks, jwks_file and jwks_url/],
    [withEntry({ jwks: undefined, jwks_url: 'http://example.com/' }), /jwks_url must be an https URL/],
    [withEntry({ jwks: [] }), /\(one\): jwks must be a JWKS/],
    [withEntry(keysOf(privateJwk)), /jwks\.keys\[0\] is a private key/],
    [withEntry(keysOf({ kty: 'oct', k: 'c2VjcmV0', kid: 'a' })), /jwks\.keys\[0\] is a shared secret/],
    [withEntry(keysOf({ ...publicJwk, kid: undefined as never })), /jwks\.keys\[0\] must have a kid/],
    [withEntry({ claims: { tenants: 'x' } }), /claims: tenants is not a field of it/],
    [withGrant({ roles: ['god'] }), /allow\[0\]\.roles must be a list of viewer, member/],
    [withGrant({ roles: [] }), /allow\[0\]\.roles must be a list/],
    [withGrant({ scopes: undefined }), /allow\[0\]\.scopes must be a list/],
    [withGrant({ scopes: ['a*b'] }), /allow\[0\]\.scopes must be a list/],
    [withGrant({ audiences: ['*'] }), /allow\[0\]\.audiences must be a list/],
    [withGrant({ audiences: ['lethe*'] }), /allow\[0\]\.audiences must be a list/],
    [withGrant({ tenants: ['No'] }), /allow\[0\]\.tenants must be a list/],
    [withGrant({ subjects: undefined }), /allow\[0\]\.subjects must be a list/],
    [withGrant({ max_lifetime_seconds: undefined }), /allow\[0\]\.max_lifetime_seconds must be a whole number/],
    [withGrant({ tennants: ['acme'] }), /allow\[0\]: tennants is not a field of it/],
    [{ trust: [entry, entry] }, /has the name one twice/],
  ];
  for (const [content, expected] of cases) {
    const text = typeof content === 'string' ? content : JSON.stringify(content);
    const error = t.throws(() => parseTrustFile('trust.json', text), { message: expected }, text);
    t.regex(error?.message ?? '', /^the trust file trust\.json cannot be used: /);
    t.false(error?.message.includes(privateJwk.d ?? ' '));
  }
  const several = withGrant({ roles: ['god'], audiences: [] });
  t.throws(() => parseTrustFile('trust.json', JSON.stringify(several)), { message: /roles.*; .*audiences/ });
  const file = join(folder, 'twice.json');
  writeFileSync(file, JSON.stringify({ trust: [entry, { ...entry, name: 'two' }] }));
  await t.throwsAsync(openTrust(file), { message: /trust\[1\] \(two\): the key \S+ is in one too/ });
  await t.throwsAsync(openTrust(join(folder, 'nowhere.json')), { message: /nowhere\.json cannot be read: ENOENT/ });
});

test('a pattern stands for what begins as it does, and without a star for itself alone', (t) => {
  const stoodFor = (pattern: string) =>
    ['acme', 'acme-eu', 'not-acme-eu', 'ACME-eu', ''].filter((value) => matches([pattern], value));
  t.deepEqual(stoodFor('acme'), ['acme']);
  t.deepEqual(stoodFor('acme-*'), ['acme-eu']);
  t.is(stoodFor('*').length, 5);
});

test('two issuers may use one kid: each has its own key under it, which signs nothing for the other', async (t) => {
  const kid = 'key-1';
  const pairs = await Promise.all([makeKeyPair(), makeKeyPair()]);
  const issuers = ['https://a.example.com/', 'https://b.example.com/'];
  const grant = { roles: ['viewer'], scopes: ['jobs:read'], audiences: ['lethe'], subjects: ['*'] };
  const entries = pairs.map(({ publicJwk }, index) => ({
    name: `entry-${index}`,
    issuer: issuers[index],
    jwks: { keys: [{ ...publicJwk, kid }] },
    allow: [{ ...grant, tenants: ['acme'], max_lifetime_seconds: 60 }],
  }));
  const file = join(folder, 'one-kid.json');
  writeFileSync(file, JSON.stringify({ trust: entries }));
  const verify = makeTokenVerifier({ trust: await openTrust(file) });
  for (const [signer, { privateJwk }] of pairs.entries()) {
    const key = { kid, key: await importJWK(privateJwk, 'EdDSA') };
    for (const [index, issuer] of issuers.entries()) {
      const claims = { subject: 'ada', role: 'viewer', scopes: ['jobs:read'], tenantId: 'acme' } as const;
      const caller = await believed(verify, await signToken({ key, issuer, audience: 'lethe' }, claims, 60));
      t.is(caller?.trustEntry, index === signer ? `entry-${index}` : undefined);
    }
  }
});

test('a key is replaced without a restart, at the signer and at the verifier, and a broken change changes nothing', async (t) => {
  const [old, fresh] = [await makeKeyPair(), await makeKeyPair()];
  const [trustFile, jwksFile, keyFile] = ['r-trust.json', 'r-jwks.json', 'r-key.json'].map((name) =>
    join(folder, name),
  );
  if (!trustFile || !jwksFile || !keyFile) return t.fail();
  const publish = (...pairs: readonly { publicJwk: JWK }[]) =>
    writeFileSync(jwksFile, JSON.stringify({ keys: pairs.map(({ publicJwk }) => publicJwk) }));
  publish(old);
  writeFileSync(keyFile, JSON.stringify(old.privateJwk));
  const grant = { roles: ['service'], scopes: ['participant:*'], audiences: ['lethe-participant:*'] };
  const allow = [{ ...grant, tenants: ['*'], subjects: ['*'], actors: ['service:run'], max_lifetime_seconds: 60 }];
  const entry = { name: 'run', issuer: 'lethe', jwks_file: 'r-jwks.json', allow };
  writeFileSync(trustFile, JSON.stringify({ trust: [entry] }));

  const broken: string[] = [];
  const trust = await openTrust(trustFile, { onBroken: ({ message }) => broken.push(message) });
  const verify = makeTokenVerifier({ trust, names: { participant: 'job' } });
  const credential = makeParticipantCredential({ key: await openSigningKey(keyFile), issuer: 'lethe' }, 'run');
  const sign = () =>
    credential({ participant: 'job', scope: 'participant:verify', actor: 'ada', tenantId: 'acme', runId: 'r' });
  const kidOf = (token: string) => JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString()).kid;
  const until = async (what: string, isSo: () => Promise<boolean>) => {
    for (const deadline = performance.now() + 15_000; performance.now() < deadline; await delay(50))
      if (await isSo()) return;
    t.fail(what);
  };
  const first = await sign();
  t.is(kidOf(first), old.publicJwk.kid);
  t.truthy(await believed(verify, first));

  publish(old, fresh);
  writeFileSync(keyFile, '{');
  for (const deadline = performance.now() + 1_500; performance.now() < deadline; await delay(50))
    t.is(kidOf(await sign()), old.publicJwk.kid, 'a key file that is half written changes nothing');
  writeFileSync(keyFile, JSON.stringify(fresh.privateJwk));
  await until('it signs with the new key', async () => kidOf(await sign()) === fresh.publicJwk.kid);
  const second = await sign();
  await until('the new key is believed', async () => (await believed(verify, second)) !== undefined);
  t.truthy(await believed(verify, first), 'the old one still is');

  writeFileSync(jwksFile, '{');
  await until('the change is told', async () => {
    await believed(verify, second);
    return broken.length > 0;
  });
  t.regex(broken[0] ?? '', /r-trust\.json cannot be used: trust\[0\] \(run\): jwks_file must be a JWKS/);
  t.truthy(await believed(verify, second));

  publish(fresh);
  await until('the old key is not believed any more', async () => (await believed(verify, first)) === undefined);
  t.truthy(await believed(verify, second));
  t.is(broken.length, 1);
});

test('a key that is taken out of its file while the trust file is opened counts no more either', async (t) => {
  const [old, fresh] = [await makeKeyPair(), await makeKeyPair()];
  const [trustFile = '', jwksFile = '', next = ''] = ['o-trust.json', 'o-jwks.json', 'o-next.json'].map((name) =>
    join(folder, name),
  );
  const grant = { roles: ['viewer'], scopes: ['jobs:read'], audiences: ['lethe'], tenants: ['acme'], subjects: ['*'] };
  const allow = [{ ...grant, max_lifetime_seconds: 60 }];
  const entry = { name: 'run', issuer: 'lethe', jwks_file: 'o-jwks.json', allow };
  writeFileSync(trustFile, JSON.stringify({ trust: [entry] }));
  // What is read from a pipe comes when the writer likes, and ends when he does.
  execFileSync('mkfifo', [jwksFile]);
  const opening = openTrust(trustFile);
  const pipe = await open(jwksFile, 'w');
  await pipe.write(JSON.stringify({ keys: [old.publicJwk] }));
  writeFileSync(next, JSON.stringify({ keys: [fresh.publicJwk] }));
  renameSync(next, jwksFile);
  await pipe.close();
  const trust = await opening;
  const kidsKnown = async () => {
    const snapshot = await trust();
    return [old, fresh].map(({ publicJwk: { kid = '' } }) => snapshot.find('lethe', kid) !== undefined);
  };
  t.deepEqual(await kidsKnown(), [true, false]);
  for (const deadline = performance.now() + 15_000; performance.now() < deadline && (await kidsKnown())[0]; )
    await delay(50);
  t.deepEqual(await kidsKnown(), [false, true]);
});
