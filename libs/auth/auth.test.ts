import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { decodeJwt, importJWK, type JWTVerifyGetKey, SignJWT, UnsecuredJWT } from 'jose';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { until } from '#test/support/test-stack.ts';
import { assertTokenMatches, authorize, type CalleeScope, type OwnerScope } from './authorize.ts';
import { makeKeyPair, ROLES, type SigningKey } from './keys.ts';
import { openTrust, type Trust, type TrustSnapshot } from './open-trust.ts';
import { POLICY } from './policy.ts';
import {
  makeOwnerCredential,
  makeParticipantCredential,
  type ServiceIssuer,
  signToken,
  type TokenIssuer,
} from './sign-token.ts';
import { makeTokenVerifier, type VerifyToken } from './verify-token.ts';

const folder = mkdtempSync(join(tmpdir(), 'lethe-test-auth-'));
test.after.always(() => rmSync(folder, { recursive: true, force: true }));

let pair: Awaited<ReturnType<typeof makeKeyPair>>;
let key: SigningKey;
let by: TokenIssuer;
let asService: ServiceIssuer;
let trust: Trust;
let verify: VerifyToken;

test.before(async () => {
  pair = await makeKeyPair();
  const file = join(folder, 'trust.json');
  writeFileSync(file, trustingAll({ jwks: { keys: [pair.publicJwk] } }));
  trust = await openTrust(file);
  key = { kid: pair.privateJwk.kid ?? '', key: await importJWK(pair.privateJwk, 'EdDSA') };
  by = { key, issuer: 'lethe', audience: 'lethe' };
  asService = { key: async () => key, issuer: 'lethe' };
  verify = makeTokenVerifier({ trust });
});

/** A trust file by which the keys of one issuer may sign whatever there is. */
const trustingAll = (keys: object): string => {
  const all = { roles: ROLES, scopes: ['*'], subjects: ['*'], max_lifetime_seconds: 3_600 };
  const audiences = ['lethe', 'lethe-owner:*', 'lethe-participant:*'];
  const [tenants, actors] = [['*'], ['*']];
  const allow = [{}, { tenants }, { actors }, { tenants, actors }].map((more) => ({ ...all, audiences, ...more }));
  return JSON.stringify({ trust: [{ name: 'everything', issuer: 'lethe', ...keys, allow }] });
};

const claims = { subject: 'ada', role: 'admin', scopes: ['jobs:read'], tenantId: 'acme' } as const;

const reasonOf = async (authorization: string | undefined): Promise<string> => {
  try {
    await verify(authorization);
    return 'believed';
  } catch (error) {
    return error instanceof DomainError ? error.reason : String(error);
  }
};

test('every RPC of every service has its rule, and no rule is without an RPC', (t) => {
  const rpcs = [
    JobService,
    RunService,
    IncidentService,
    RetentionService,
    ParticipantService,
    RetentionOwnerService,
    StatusService,
  ].flatMap((service) => service.methods.map((method) => `${service.typeName}/${method.name}`));
  t.deepEqual(
    Object.keys(POLICY)
      .filter((rpc) => rpc.startsWith('lethe.'))
      .toSorted(),
    rpcs.toSorted(),
  );
  t.is(new Set(rpcs).size, 110);
});

test('what no rule allows is denied', (t) => {
  const everything: Caller = {
    subject: 'root',
    kind: 'platform',
    tenantId: 'acme',
    role: 'platform',
    scopes: new Set(Object.values(POLICY).flatMap((rule) => ('scope' in rule ? [rule.scope] : []))),
    actor: 'root',
  };
  t.throws(() => authorize(everything, POLICY['lethe.job.v1.JobService/DropEverything']), { message: /No policy/ });
});

test('only the platform sets plans, and no service deletes as a person', (t) => {
  const caller = (role: Caller['role'], tenantId?: string): Caller => ({
    subject: 'x',
    kind: role === 'platform' || role === 'service' ? role : 'user',
    tenantId,
    role,
    scopes: new Set(['retention:write', 'jobs:delete']),
    actor: 'x',
  });
  const setPlan = POLICY['lethe.retention.v1.RetentionService/SetTenantPlan'];
  t.notThrows(() => authorize(caller('platform'), setPlan));
  t.throws(() => authorize(caller('owner', 'acme'), setPlan), { message: /platform/ });
  t.throws(() => authorize(caller('service', 'acme'), POLICY['lethe.job.v1.JobService/DeleteJob']), {
    message: /admin/,
  });
});

test('a good token says who calls', async (t) => {
  const caller = await verify(`Bearer ${await signToken(by, claims, 60)}`);
  t.like(caller, { subject: 'ada', kind: 'user', tenantId: 'acme', role: 'admin', actor: 'ada' });
  t.true(caller.scopes.has('jobs:read'));
});

test('a token says on whose behalf a service calls, and which service that is', async (t) => {
  const own = { ...claims, actingService: 'service:console' };
  t.like(await verify(`Bearer ${await signToken(by, own, 60)}`), { subject: 'service:console', actor: 'ada' });
  t.like(await verify(`Bearer ${await signToken(by, claims, 60)}`), { subject: 'ada', actor: 'ada' });
});

test('a token lives as long as it is told, also when a second ends while it is signed', async (t) => {
  const RealDate = Date;
  let now = RealDate.now();
  globalThis.Date = class extends RealDate {
    constructor() {
      now += 1_000;
      super(now);
    }
    static override now() {
      now += 1_000;
      return now;
    }
  } as DateConstructor;
  let token: Promise<string>;
  try {
    token = signToken(by, claims, 60);
  } finally {
    globalThis.Date = RealDate;
  }
  const { iat = 0, exp = 0 } = decodeJwt(await token);
  t.is(exp - iat, 60);
});

test('every bad token is refused without a word on why', async (t) => {
  const other = await makeKeyPair();
  const otherKey = { kid: key.kid, key: await importJWK(other.privateJwk, 'EdDSA') };
  const raw = (payload: Record<string, unknown>) =>
    new SignJWT(payload)
      .setProtectedHeader({ alg: 'EdDSA', kid: key.kid })
      .setIssuedAt()
      .setIssuer('lethe')
      .setAudience('lethe');
  const good = await signToken(by, claims, 60);
  const cases: Record<string, [string | undefined, string]> = {
    'no header': [undefined, 'TOKEN_MISSING'],
    'another scheme': [`Basic ${good}`, 'TOKEN_INVALID'],
    rubbish: ['Bearer rubbish', 'TOKEN_INVALID'],
    'a changed signature': [`Bearer ${good.slice(0, -6)}AAAAAA`, 'TOKEN_INVALID'],
    'no signature': [
      `Bearer ${new UnsecuredJWT({ role: 'owner' }).setSubject('x').setExpirationTime('1h').encode()}`,
      'TOKEN_INVALID',
    ],
    'a shared secret': [
      `Bearer ${await new SignJWT({ role: 'owner' })
        .setProtectedHeader({ alg: 'HS256' })
        .setSubject('x')
        .setExpirationTime('1h')
        .sign(new TextEncoder().encode(JSON.stringify(pair.publicJwk)))}`,
      'TOKEN_INVALID',
    ],
    'another key': [`Bearer ${await signToken({ ...by, key: otherKey }, claims, 60)}`, 'TOKEN_INVALID'],
    'another audience': [`Bearer ${await signToken({ ...by, audience: 'other' }, claims, 60)}`, 'TOKEN_INVALID'],
    'another issuer': [`Bearer ${await signToken({ ...by, issuer: 'other' }, claims, 60)}`, 'TOKEN_INVALID'],
    expired: [`Bearer ${await signToken(by, claims, -60)}`, 'TOKEN_EXPIRED'],
    'no expiry': [`Bearer ${await raw({ role: 'owner' }).setSubject('x').sign(key.key)}`, 'TOKEN_INVALID'],
    'an odd role': [
      `Bearer ${await raw({ role: 'god' }).setSubject('x').setExpirationTime('1h').sign(key.key)}`,
      'TOKEN_INVALID',
    ],
    'an odd tenant': [
      `Bearer ${await raw({ role: 'owner', tenant: "a'b" }).setSubject('x').setExpirationTime('1h').sign(key.key)}`,
      'TOKEN_INVALID',
    ],
    'odd scopes': [
      `Bearer ${await raw({ role: 'owner', scope: 5 }).setSubject('x').setExpirationTime('1h').sign(key.key)}`,
      'TOKEN_INVALID',
    ],
    'too long': [`Bearer ${'a'.repeat(10_000)}`, 'TOKEN_INVALID'],
  };
  for (const [name, [authorization, reason]] of Object.entries(cases))
    t.is(await reasonOf(authorization), reason, name);
});

test('a token is not believed whose text no row can hold', async (t) => {
  const sign = (claim: Record<string, unknown>) =>
    new SignJWT({ role: 'admin', tenant: 'acme', sub: 'ada', ...claim })
      .setProtectedHeader({ alg: 'EdDSA', kid: key.kid })
      .setIssuedAt()
      .setIssuer('lethe')
      .setAudience('lethe')
      .setExpirationTime('1m')
      .sign(key.key);
  t.is(await reasonOf(`Bearer ${await sign({ sub: 'Ada Müller 🚀', act: { sub: 'service:console' } })}`), 'believed');
  for (const text of ['a\u0000b', 'a\u0007b', 'a\u007fb', '\ud800', 'a\udc00']) {
    for (const claim of [{ sub: text }, { act: { sub: text } }])
      t.is(await reasonOf(`Bearer ${await sign(claim)}`), 'TOKEN_INVALID', JSON.stringify(claim));
  }
});

test('a change of the trust file counts within a second or so, also for tokens that were believed before', async (t) => {
  const changing = join(folder, 'changing.json');
  const other = await makeKeyPair();
  writeFileSync(changing, trustingAll({ jwks: { keys: [pair.publicJwk] } }));
  const verifyKept = makeTokenVerifier({ trust: await openTrust(changing) });
  const authorization = `Bearer ${await signToken(by, claims, 60)}`;
  t.is(await verifyKept(authorization), await verifyKept(authorization));
  writeFileSync(changing, trustingAll({ jwks: { keys: [other.publicJwk] } }));
  let refused: unknown;
  for (const deadline = performance.now() + 10_000; !refused && performance.now() < deadline; await delay(50)) {
    await verifyKept(authorization).catch((error: unknown) => {
      refused = error;
    });
  }
  t.like(refused as DomainError, { reason: 'TOKEN_INVALID' });
});

test('a key set behind a URL is fetched, and one that cannot be had is UNAVAILABLE, not the caller’s fault', async (t) => {
  let answer: { status: number; body: string } = { status: 200, body: JSON.stringify({ keys: [pair.publicJwk] }) };
  const server = createServer((_, response) => response.writeHead(answer.status).end(answer.body));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const authorization = `Bearer ${await signToken(by, claims, 60)}`;
  let files = 0;
  const reason = async (url: string) => {
    const file = join(folder, `url-${++files}.json`);
    writeFileSync(file, trustingAll({ jwks_url: url }));
    return makeTokenVerifier({ trust: await openTrust(file) })(authorization).then(
      () => 'believed',
      (error: unknown) => (error instanceof DomainError ? error.reason : String(error)),
    );
  };
  const url = `http://127.0.0.1:${port}/jwks`;
  t.is(await reason(url), 'believed');
  for (const broken of [
    { status: 500, body: 'oops' },
    { status: 200, body: '<html>' },
    { status: 200, body: '{"keys": 1}' },
  ]) {
    answer = broken;
    t.is(await reason(url), 'DEPENDENCY_UNAVAILABLE', JSON.stringify(broken));
  }
  t.is(await reason('http://127.0.0.1:1/jwks'), 'DEPENDENCY_UNAVAILABLE');
  answer = { status: 200, body: JSON.stringify({ keys: [(await makeKeyPair()).publicJwk] }) };
  t.is(await reason(url), 'TOKEN_INVALID');
});

const OWNER_RPCS = ['ListSubjects', 'ListTenants', 'Count', 'Purge', 'End'].map(
  (name) => `lethe.owner.v1.RetentionOwnerService/${name}`,
);
const OWNER_CALL = {
  owner: 'incident',
  scope: 'owner:purge',
  actor: 'ada',
  tenantId: 'acme',
  subject: 'approvals',
  operationId: '01890000-0000-7000-8000-000000000000',
} as const;
const verifyOwner = () => makeTokenVerifier({ trust, names: { owner: 'incident' }, keepMs: 60_000 });

test("an owner's token names the actor, the service that acts and the one thing it is good for", async (t) => {
  const token = await makeOwnerCredential(asService, 'retention')(OWNER_CALL);
  const caller = await verifyOwner()(`Bearer ${token}`);
  t.like(caller, { subject: 'service:retention', kind: 'service', actor: 'ada', tenantId: 'acme' });
  t.like(caller.limits, { callee: 'owner', subjectName: 'approvals', operationId: OWNER_CALL.operationId });
  t.notThrows(() => authorize(caller, POLICY['lethe.owner.v1.RetentionOwnerService/Purge']));
});

test('a token that was believed before is still compared with each call', async (t) => {
  const verifying = verifyOwner();
  const authorization = `Bearer ${await makeOwnerCredential(asService, 'retention')(OWNER_CALL)}`;
  const [first, again] = [await verifying(authorization), await verifying(authorization)];
  const right = { subjectName: 'approvals', operationId: OWNER_CALL.operationId };
  for (const caller of [first, again]) {
    t.notThrows(() => assertTokenMatches(caller, right));
    for (const wrong of [
      { ...right, subjectName: 'drift_checks' },
      { ...right, operationId: '01890000-0000-7000-8000-000000000001' },
    ])
      t.like(
        t.throws(() => assertTokenMatches(caller, wrong)),
        { reason: 'TOKEN_MISMATCH' },
      );
  }
  const { operationId: _, ...count } = OWNER_CALL;
  const counting = await verifying(
    `Bearer ${await makeOwnerCredential(asService, 'retention')({ ...count, scope: 'owner:count' })}`,
  );
  t.notThrows(() => assertTokenMatches(counting, { subjectName: 'approvals' }));
  t.like(
    t.throws(() => assertTokenMatches(counting, right)),
    { reason: 'TOKEN_MISMATCH' },
  );
});

test('a token that was believed before is not believed past its end, the tolerance for clocks included', async (t) => {
  const now = Math.floor(Date.now() / 1_000);
  const token = await new SignJWT({ role: 'admin', scope: 'jobs:read', tenant: 'acme' })
    .setProtectedHeader({ alg: 'EdDSA', kid: key.kid, typ: 'JWT' })
    .setSubject('ada')
    .setIssuer('lethe')
    .setAudience('lethe')
    .setIssuedAt(now - 60)
    .setExpirationTime(now + 5)
    .sign(key.key);
  t.is(await reasonOf(`Bearer ${token}`), 'believed');
  await until('refused', async () => (await reasonOf(`Bearer ${token}`)) === 'TOKEN_EXPIRED');
});

test('a token that was still being verified when the trust file changed is not believed by it', async (t) => {
  const known = (await trust()).find('lethe', key.kid);
  if (!known) return t.fail('the key is known');
  const gate = Promise.withResolvers<void>();
  const waits: JWTVerifyGetKey = async (...asked) => {
    await gate.promise;
    return known.key(...asked);
  };
  let snapshot: TrustSnapshot = { find: () => ({ ...known, key: waits }) };
  const verifying = makeTokenVerifier({ trust: async () => snapshot });
  const authorization = `Bearer ${await signToken(by, claims, 60)}`;
  const first = verifying(authorization);
  snapshot = { find: () => undefined };
  await t.throwsAsync(verifying(authorization), { message: /not valid/ });
  gate.resolve();
  await first;
  await t.throwsAsync(verifying(authorization), { message: /not valid/ });
});

test('an owner’s token opens the RPCs of owners and nothing else, and no other token opens those', async (t) => {
  const caller = (await verifyOwner()(
    `Bearer ${await signToken(
      { ...by, audience: 'lethe-owner:incident' },
      {
        subject: 'ada',
        actingService: 'service:retention',
        role: 'service',
        scopes: Object.values(POLICY).flatMap((rule) =>
          'scope' in rule ? [rule.scope] : 'callee' in rule ? [rule.calleeScope] : [],
        ),
        tenantId: 'acme',
      },
      60,
    )}`,
  )) as Caller;
  const ordinary: Caller = { ...caller, limits: undefined };
  for (const [rpc, rule] of Object.entries(POLICY)) {
    const refused = OWNER_RPCS.includes(rpc) ? ordinary : caller;
    if ('public' in rule) t.notThrows(() => authorize(refused, rule));
    else
      t.like(
        t.throws(() => authorize(refused, rule), undefined, rpc),
        { reason: 'TOKEN_INVALID' },
      );
  }
  t.deepEqual(
    Object.keys(POLICY)
      .filter((rpc) => OWNER_RPCS.includes(rpc))
      .toSorted(),
    OWNER_RPCS.toSorted(),
  );
});

test('an owner asks for scope, role, service and tenant', async (t) => {
  const credential = makeOwnerCredential(asService, 'retention');
  const { tenantId: _, ...nobody } = OWNER_CALL;
  const scopes: OwnerScope[] = ['owner:read', 'owner:count', 'owner:purge'];
  for (const rpc of OWNER_RPCS) {
    const rule = POLICY[rpc];
    const needed = rule && 'callee' in rule ? rule.calleeScope : undefined;
    for (const scope of scopes) {
      const of = scope === 'owner:read' ? nobody : OWNER_CALL;
      const caller = await verifyOwner()(`Bearer ${await credential({ ...of, scope })}`);
      if (scope === needed) t.notThrows(() => authorize(caller, rule));
      else
        t.like(
          t.throws(() => authorize(caller, rule)),
          { reason: 'SCOPE_MISSING' },
        );
      if (scope !== needed) continue;
      for (const wrong of [
        { ...caller, kind: 'platform', role: 'platform' },
        { ...caller, kind: 'user', role: 'owner' },
        { ...caller, subject: 'service:run' },
      ] as const)
        t.like(
          t.throws(() => authorize(wrong, rule)),
          { reason: 'ROLE_TOO_LOW' },
        );
      const other = { ...caller, tenantId: caller.tenantId === undefined ? 'acme' : undefined };
      const reason = scope === 'owner:read' ? 'TOKEN_MISMATCH' : 'TENANT_MISSING';
      t.like(
        t.throws(() => authorize(other, rule)),
        { reason },
      );
    }
  }
});

test('an owner’s token that is of another owner, lives longer than a minute or hides who acts is not believed', async (t) => {
  const verifying = verifyOwner();
  const now = Math.floor(Date.now() / 1_000);
  const sign = ({ aud = 'lethe-owner:incident', iat = now, exp = now + 60, ...claims }: Record<string, unknown> = {}) =>
    new SignJWT({
      role: 'service',
      scope: 'owner:purge',
      tenant: 'acme',
      act: { sub: 'service:retention' },
      ...claims,
      aud,
      ...(exp === null ? {} : { exp }),
      ...(iat === null ? {} : { iat }),
    } as Record<string, unknown>)
      .setProtectedHeader({ alg: 'EdDSA', kid: key.kid })
      .setIssuer('lethe')
      .setSubject('ada')
      .sign(key.key);
  const reason = async (token: string) =>
    verifying(`Bearer ${token}`).then(
      () => 'believed',
      (error: unknown) => (error instanceof DomainError ? error.reason : String(error)),
    );
  t.is(await reason(await sign()), 'believed');
  const cases: Record<string, Record<string, unknown>> = {
    'of another owner': { aud: 'lethe-owner:run' },
    'of an owner and of Lethe': { aud: ['lethe-owner:incident', 'lethe'] },
    'living longer': { exp: now + 61 },
    'living from the future on': { iat: now + 600, exp: now + 660 },
    'without a beginning': { iat: null },
    'without an end': { exp: null },
    'without who acts': { act: undefined },
    'with an odd subject': { subject_name: ['approvals'] },
    'with an odd operation': { operation_id: '' },
  };
  for (const [name, claims] of Object.entries(cases)) t.is(await reason(await sign(claims)), 'TOKEN_INVALID', name);
  t.is(await reason(await sign({ iat: now - 120, exp: now - 60 })), 'TOKEN_EXPIRED');
  t.is(await reasonOf(`Bearer ${await sign()}`), 'TOKEN_INVALID', 'a service that is no owner');
});

test('a token between services is good although the clocks differ by 35 s, for as long as it is reused; a person’s is not', async (t) => {
  const now = Math.floor(Date.now() / 1_000);
  const sign = (aud: string, iat: number) =>
    new SignJWT({ role: 'service', scope: 'owner:purge', tenant: 'acme', act: { sub: 'service:retention' }, aud })
      .setProtectedHeader({ alg: 'EdDSA', kid: key.kid })
      .setIssuedAt(iat)
      .setExpirationTime(iat + 60)
      .setIssuer('lethe')
      .setSubject('ada')
      .sign(key.key);
  const verifying = verifyOwner();
  // Ahead; behind; behind and reused for 30 s.
  for (const offset of [35, -35, -65]) {
    await t.notThrowsAsync(verifying(`Bearer ${await sign('lethe-owner:incident', now + offset)}`), `${offset}`);
  }
  t.is(await reasonOf(`Bearer ${await sign('lethe', now + 35)}`), 'TOKEN_INVALID');
  t.is(await reasonOf(`Bearer ${await sign('lethe', now - 65)}`), 'TOKEN_EXPIRED');
  await t.throwsAsync(verifying(`Bearer ${await sign('lethe-owner:incident', now + 60)}`));
  await t.throwsAsync(verifying(`Bearer ${await sign('lethe-owner:incident', now - 120)}`));
});

const PARTICIPANT_CALL = {
  participant: 'job',
  actor: 'ada',
  tenantId: 'acme',
  runId: '01890000-0000-7000-8000-00000000000a',
  operationId: '01890000-0000-7000-8000-00000000000b',
  step: 'draft',
} as const;
const PARTICIPANT_RPCS = Object.entries(POLICY).flatMap(([rpc, rule]) =>
  'callee' in rule && rule.callee === 'participant' ? [{ rpc, rule, scope: rule.calleeScope }] : [],
);
const verifyAs = (name: string) => makeTokenVerifier({ trust, names: { owner: name, participant: name } });

test('a token for a participant opens the one kind of call that it was made for, and nothing else', async (t) => {
  const credential = makeParticipantCredential(asService, 'run');
  t.is(PARTICIPANT_RPCS.length, 8);
  const believing = verifyAs('job');
  for (const { scope } of PARTICIPANT_RPCS) {
    if (!scope.startsWith('participant:')) throw new Error(scope);
    const authorization = `Bearer ${await credential({ ...PARTICIPANT_CALL, scope: scope as 'participant:purge' })}`;
    const caller = await believing(authorization);
    t.like(caller, { subject: 'service:run', kind: 'service', actor: 'ada', tenantId: 'acme' });
    for (const [rpc, rule] of Object.entries(POLICY)) {
      const isItsOwn = 'callee' in rule && rule.calleeScope === scope;
      if ('public' in rule || isItsOwn) t.notThrows(() => authorize(caller, rule), rpc);
      else {
        const reason = 'callee' in rule && rule.callee === 'participant' ? 'SCOPE_MISSING' : 'TOKEN_INVALID';
        t.like(
          t.throws(() => authorize(caller, rule), undefined, rpc),
          { reason },
          `${scope} on ${rpc}`,
        );
      }
    }
    for (const other of ['run', 'incident', 'retention'])
      await t.throwsAsync(verifyAs(other)(authorization), { message: /not valid here/ }, `${scope} at ${other}`);
    await t.throwsAsync(verify(authorization), { message: /not valid here/ });
  }
});

test('no other token opens a participant’s calls, whatever scopes it names', async (t) => {
  const scopes = [...new Set(Object.values(POLICY).flatMap((rule) => ('scope' in rule ? [rule.scope] : [])))];
  const calleeScopes = PARTICIPANT_RPCS.map(({ scope }): CalleeScope => scope);
  const believing = verifyAs('job');
  for (const role of ['viewer', 'member', 'admin', 'owner', 'platform', 'service'] as const) {
    const wide = { subject: 'ada', role, scopes: [...scopes, ...calleeScopes, 'participant'], tenantId: 'acme' };
    const caller = await believing(`Bearer ${await signToken(by, wide, 60)}`);
    for (const { rpc, rule } of PARTICIPANT_RPCS)
      t.like(
        t.throws(() => authorize(caller, rule)),
        { reason: 'TOKEN_INVALID' },
        `${role} on ${rpc}`,
      );
    const asOwner = { ...wide, actingService: 'service:retention' };
    const forOwner = await believing(`Bearer ${await signToken({ ...by, audience: 'lethe-owner:job' }, asOwner, 60)}`);
    for (const { rpc, rule } of PARTICIPANT_RPCS)
      t.like(
        t.throws(() => authorize(forOwner, rule)),
        { reason: 'TOKEN_INVALID' },
        `an owner's on ${rpc}`,
      );
  }
});

test('a token for a participant is refused for another run, operation or step, also when it was believed before', async (t) => {
  const believing = verifyAs('job');
  const { runId, operationId, step } = PARTICIPANT_CALL;
  const call = { ...PARTICIPANT_CALL, scope: 'participant:purge' } as const;
  const authorization = `Bearer ${await makeParticipantCredential(asService, 'run')(call)}`;
  for (const caller of [await believing(authorization), await believing(authorization)]) {
    t.notThrows(() => assertTokenMatches(caller, { runId, operationId, step }));
    for (const [claim, other] of [
      ['run_id', { runId: operationId, operationId, step }],
      ['operation_id', { runId, operationId: runId, step }],
      ['step', { runId, operationId, step: 'deliver' }],
    ] as const)
      t.like(
        t.throws(() => assertTokenMatches(caller, other)),
        { reason: 'TOKEN_MISMATCH', metadata: { claim } },
      );
  }
  const { operationId: _, step: __, ...preview } = call;
  const previewing = await believing(`Bearer ${await makeParticipantCredential(asService, 'run')(preview)}`);
  t.like(
    t.throws(() => assertTokenMatches(previewing, { runId, operationId, step })),
    { reason: 'TOKEN_MISMATCH' },
  );
});

test('a token that was signed for one callee is not given for another', async (t) => {
  const participants = makeParticipantCredential(asService, 'run');
  const owners = makeOwnerCredential(asService, 'retention');
  const call = { ...PARTICIPANT_CALL, scope: 'participant:purge' } as const;
  const tokens = [
    await participants(call),
    await participants({ ...call, participant: 'incident' }),
    await participants({ ...call, scope: 'participant:verify' }),
    await participants({ ...call, actor: 'bob' }),
    await participants({ ...call, tenantId: 'other' }),
    await participants({ ...call, runId: call.operationId }),
    await participants({ ...call, operationId: call.runId }),
    await participants({ ...call, step: 'deliver' }),
    await owners(OWNER_CALL),
    await owners({ ...OWNER_CALL, owner: 'run' }),
  ];
  t.is(new Set(tokens).size, tokens.length);
  t.is(tokens[0], await participants(call), 'but again for the same call');
});
