import test from 'ava';
import { type Caller, hasRole, tenantOf } from './caller.ts';
import { DomainError, fieldInvalid, hasReason } from './domain-error.ts';
import { fingerprint } from './fingerprint.ts';
import { newId, parseId, parseTenantId } from './id.ts';
import { decodePageToken, encodePageToken, KEY, type PageScope, parsePageSize } from './page.ts';

const scope: PageScope = { rpc: 'ListJobs', tenantId: 'acme', filter: { state: 'FAILED', runId: undefined } };

test('an id begins with the millisecond of its making', (t) => {
  const before = Date.now();
  const milliseconds = Number.parseInt(newId().replace('-', '').slice(0, 12), 16);
  t.true(milliseconds >= before && milliseconds <= Date.now());
});

test('an id is read in any case and only as a UUID', (t) => {
  const id = newId();
  t.is(parseId('job_id', id.toUpperCase()), id);
  for (const bad of ['', 'x', `${id} `, `${id}0`, id.replaceAll('-', ''), "1' or '1'='1"]) {
    t.true(
      hasReason(
        t.throws(() => parseId('job_id', bad)),
        'FIELD_INVALID',
      ),
      bad,
    );
  }
});

test('a tenant id is a slug, and a UUID is one', (t) => {
  t.is(parseTenantId('tenant_id', 'acme-1'), 'acme-1');
  t.notThrows(() => parseTenantId('tenant_id', newId()));
  for (const bad of ['', '-a', 'A', 'a/b', '..', '*', "a'", 'a'.repeat(64)]) {
    t.throws(() => parseTenantId('tenant_id', bad), { instanceOf: DomainError }, bad);
  }
});

test('a page size of 0 is the default, and none is cut silently', (t) => {
  t.is(parsePageSize(0), 50);
  t.is(parsePageSize(200), 200);
  for (const large of [201, 1e9]) t.is(parsePageSize(large), 200);
  for (const bad of [-1, Number.NaN, 1.5]) t.throws(() => parsePageSize(bad), { message: /page_size/ });
});

test('a page token continues the list that gave it', (t) => {
  t.deepEqual(decodePageToken(scope, encodePageToken(scope, ['2026', 'b']), [KEY.int4, KEY.text]), ['2026', 'b']);
  t.is(decodePageToken(scope, '', [KEY.int4, KEY.text]), undefined);
});

test('a page token of another tenant, list, filter or shape is refused', (t) => {
  const token = encodePageToken(scope, ['a']);
  const others: PageScope[] = [
    { ...scope, tenantId: 'other' },
    { ...scope, rpc: 'ListRuns' },
    { ...scope, filter: { state: 'COMPLETED' } },
  ];
  for (const other of others) t.throws(() => decodePageToken(other, token, [KEY.text]), { message: /page_token/ });
  for (const bad of ['x', token.slice(1), Buffer.from('{}').toString('base64url'), 'a'.repeat(5_000)]) {
    t.throws(() => decodePageToken(scope, bad, [KEY.text]), { message: /page_token/ });
  }
  for (const parts of [[], [KEY.text, KEY.text]])
    t.throws(() => decodePageToken(scope, token, parts), { message: /page_token/ });
});

test('what a page token holds is what the list orders by there, or the token is refused, whatever its seal', (t) => {
  const id = newId();
  const parts: Record<keyof typeof KEY, { readonly good: readonly string[]; readonly bad: readonly string[] }> = {
    instant: {
      good: ['2026-01-31T23:59:59Z', '0001-01-01T00:00:00Z', '9999-12-31T23:59:59.999999Z'],
      bad: ['', 'x', '2026', '2026-02-30T00:00:00Z', '0000-01-01T00:00:00Z', '+010000-01-01T00:00:00Z', 'infinity'],
    },
    id: { good: [id], bad: ['', 'x', id.slice(1), id.toUpperCase().replace(/\d/g, 'A')] },
    int4: { good: ['0', '2147483647'], bad: ['', '-1', '1.5', 'NaN', '1e3', '2147483648', '9'.repeat(500)] },
    int8: { good: ['0', '9223372036854775807'], bad: ['', '-1', '0x1', 'Infinity', '9223372036854775808'] },
    text: { good: ['', 'ä 🚀', 'a\tb'], bad: ['a\0b', '\ud800'] },
  };
  for (const [name, { good, bad }] of Object.entries(parts)) {
    const decode = (text: string) =>
      decodePageToken(scope, encodePageToken(scope, [text]), [KEY[name as keyof typeof KEY]]);
    for (const text of good) t.deepEqual(decode(text), [text], name);
    for (const text of bad) t.throws(() => decode(text), { message: /page_token/ }, `${name} ${text}`);
  }
});

test('a fingerprint ignores the order of keys and what is absent', (t) => {
  t.is(fingerprint({ a: 1, b: { c: [1, 2], d: undefined } }), fingerprint({ b: { c: [1, 2] }, a: 1 }));
  t.not(fingerprint({ a: [1, 2] }), fingerprint({ a: [2, 1] }));
});

test('roles are ordered, and a service has none of them', (t) => {
  const caller = (role: Caller['role'], tenantId: string | undefined = 'acme'): Caller => ({
    subject: 'ada',
    kind: 'user',
    tenantId,
    role,
    scopes: new Set(),
    actor: 'ada',
  });
  t.true(hasRole(caller('owner'), 'admin'));
  t.false(hasRole(caller('member'), 'admin'));
  t.true(hasRole(caller('platform'), 'owner'));
  t.false(hasRole(caller('service'), 'viewer'));
  t.is(tenantOf(caller('viewer')), 'acme');
  t.throws(() => tenantOf({ ...caller('platform'), tenantId: undefined }), { message: /no tenant/ });
});

test('a field error names the field in its message, metadata and violations', (t) => {
  const error = fieldInvalid('job_id', 'must be a UUID');
  t.like(error, { kind: 'invalid-argument', reason: 'FIELD_INVALID', message: 'job_id must be a UUID.' });
  t.deepEqual(error.violations, [{ field: 'job_id', description: 'must be a UUID' }]);
});
