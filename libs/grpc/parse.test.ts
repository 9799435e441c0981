import test from 'ava';
import { DomainError, fieldInvalid } from '#libs/kernel/domain-error.ts';
import {
  MAX_REASON_LENGTH,
  parseEach,
  parseEnum,
  parseFields,
  parseInteger,
  parseOptionalEnum,
  parseOptionalText,
  parseReason,
  parseRequestId,
  parseRequiredReason,
  parseText,
} from './parse.ts';

const refused = (read: () => unknown): DomainError => {
  try {
    read();
  } catch (error) {
    if (error instanceof DomainError) return error;
    throw error;
  }
  throw new Error('it was taken');
};

const COLOURS = new Map([
  [1, 'red'],
  [2, 'blue'],
]);

test('all bad fields of a request are told at once, in the order of the request', (t) => {
  const error = refused(() =>
    parseFields({
      name: () => parseText('name', '', { min: 1, max: 10 }),
      good: () => parseInteger('good', 1, { min: 0, max: 2 }),
      count: () => parseInteger('count', 9, { min: 0, max: 2 }),
    }),
  );
  t.is(error.reason, 'FIELD_INVALID');
  t.deepEqual(error.violations, [
    { field: 'name', description: 'is required' },
    { field: 'count', description: 'must be a whole number from 0 to 2' },
  ]);
  t.is(error.metadata['fields'], 'name,count');
});

test('a request without a bad field is read as its readers read it', (t) => {
  const fields = parseFields({ name: () => 'a', count: () => 2, absent: () => undefined });
  t.deepEqual(fields, { name: 'a', count: 2, absent: undefined });
});

test('a missing reason is reported with the other bad fields, and by its own reason where it is the only one', (t) => {
  const reason = () => parseRequiredReason('');
  const first = () => {
    throw fieldInvalid('first', 'is bad');
  };
  const error = refused(() => parseFields({ first, reason }));
  t.is(error.reason, 'FIELD_INVALID');
  t.is(error.metadata['fields'], 'first,reason');
  t.is(refused(() => parseFields({ reason, good: () => 1 })).reason, 'REASON_REQUIRED');
});

test('every bad item of a list is reported', (t) => {
  const each = () => parseEach(['a', '', 'b', ''], (item, at) => parseText(`names[${at}]`, item, { min: 1, max: 5 }));
  t.is(refused(each).metadata['fields'], 'names[1],names[3]');
});

test('what is no bad field is told alone, at once', (t) => {
  const reads: string[] = [];
  const conflict = new DomainError('aborted', 'ETAG_MISMATCH', 'It changed.');
  const error = refused(() =>
    parseFields({
      first: () => {
        throw fieldInvalid('first', 'is bad');
      },
      etag: () => {
        throw conflict;
      },
      never: () => reads.push('never'),
    }),
  );
  t.is(error, conflict);
  t.deepEqual(reads, []);
  t.throws(() => parseFields({ broken: () => (undefined as unknown as { x: string }).x }), { instanceOf: TypeError });
});

test('text has its bounds, and holds nothing that a terminal or a database chokes on', (t) => {
  t.is(parseText('name', 'Grüße, 世界 \n\t', { max: 20 }), 'Grüße, 世界 \n\t');
  t.is(parseText('name', 'ab', { min: 2, max: 2 }), 'ab');
  for (const value of ['a\u0000b', 'a\u001b[2Jb', '\u007f', '\ud800']) {
    t.is(refused(() => parseText('name', value, { max: 20 })).reason, 'FIELD_INVALID', JSON.stringify(value));
  }
  t.regex(refused(() => parseText('name', 'abc', { max: 2 })).message, /at most 2/);
  t.regex(refused(() => parseText('name', 'a', { min: 2, max: 3 })).message, /at least 2/);
  t.is(parseOptionalText('name', '', 5), undefined);
  t.is(parseOptionalText('name', 'a', 5), 'a');
});

test('a required reason is one with something in it', (t) => {
  t.is(parseRequiredReason('  over  '), 'over');
  for (const empty of ['', '   ', '\n']) {
    const error = refused(() => parseRequiredReason(empty));
    t.like(error, { kind: 'invalid-argument', reason: 'REASON_REQUIRED' });
    t.is(error.violations[0]?.field, 'reason');
  }
  t.is(parseReason(''), undefined);
  t.is(refused(() => parseReason('x'.repeat(MAX_REASON_LENGTH + 1))).reason, 'FIELD_INVALID');
});

test('a request_id is absent or a UUID', (t) => {
  t.is(parseRequestId(''), undefined);
  t.is(parseRequestId('018F6B1E-7C1A-7000-8000-000000000001'), '018f6b1e-7c1a-7000-8000-000000000001');
  t.is(refused(() => parseRequestId('again')).metadata['fields'], 'request_id');
});

test('an enum is one of its known values, and UNSPECIFIED is none', (t) => {
  t.is(parseEnum('colour', 2, COLOURS), 'blue');
  t.is(parseOptionalEnum('colour', 0, COLOURS), undefined);
  t.is(parseOptionalEnum('colour', 1, COLOURS), 'red');
  for (const value of [0, 3, -1]) t.is(refused(() => parseEnum('colour', value, COLOURS)).reason, 'FIELD_INVALID');
  t.is(refused(() => parseOptionalEnum('colour', 3, COLOURS)).reason, 'FIELD_INVALID');
});

test('a number is whole, exact and within its bounds', (t) => {
  const bounds = { min: 0, max: Number.MAX_SAFE_INTEGER };
  t.is(parseInteger('count', 3n, bounds), 3);
  for (const value of [Number.NaN, 1.5, Number.POSITIVE_INFINITY, -1, 2n ** 53n, 2n ** 63n]) {
    t.is(refused(() => parseInteger('count', value, bounds)).reason, 'FIELD_INVALID', String(value));
  }
});
