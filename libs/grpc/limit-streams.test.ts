import test from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { makeStreamLimit } from './limit-streams.ts';

const reasonOf = (open: () => unknown): string | undefined => {
  try {
    open();
  } catch (error) {
    return error instanceof DomainError ? error.reason : 'something else';
  }
  return undefined;
};

test('a caller has so many streams at once, others have theirs, and one that has ended makes room once', (t) => {
  const open = makeStreamLimit({ perCaller: 2, perProcess: 10 });
  const end = open('ada');
  open('ada');
  t.is(
    reasonOf(() => open('ada')),
    'TOO_MANY_STREAMS',
  );
  open('bob');
  end();
  end();
  open('ada');
  t.is(
    reasonOf(() => open('ada')),
    'TOO_MANY_STREAMS',
    'an end that is told twice counts once',
  );
});

test('a process has so many streams at once, whoever they are of', (t) => {
  const open = makeStreamLimit({ perCaller: 2, perProcess: 3 });
  const ends = ['a', 'b', 'c'].map((caller) => open(caller));
  t.is(
    reasonOf(() => open('d')),
    'TOO_MANY_STREAMS',
  );
  for (const end of ends) end();
  for (const caller of ['d', 'e', 'f']) open(caller);
  t.is(
    reasonOf(() => open('g')),
    'TOO_MANY_STREAMS',
  );
});

test('one tenant’s callers together leave other tenants three quarters of a process', (t) => {
  const open = makeStreamLimit({ perCaller: 2, perProcess: 8 });
  const end = open('ada', 'acme');
  open('bob', 'acme');
  t.is(
    reasonOf(() => open('cem', 'acme')),
    'TOO_MANY_STREAMS',
  );
  for (const caller of ['a', 'b', 'c', 'd', 'e']) open(caller, `tenant-${caller}`);
  end();
  open('cem', 'acme');
  t.is(
    reasonOf(() => open('ada', 'acme')),
    'TOO_MANY_STREAMS',
  );
});
