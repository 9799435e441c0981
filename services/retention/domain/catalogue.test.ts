import test from 'ava';
import {
  type CatalogueSubject,
  confirm,
  type ListedSubject,
  type OwnerAnswer,
  problemOf,
  reconcile,
  retire,
  stateOf,
} from './catalogue.ts';

const NOW = Temporal.Instant.from('2026-06-01T00:00:00Z');
const LATER = NOW.add({ minutes: 1 });
const TICKETS: ListedSubject = {
  name: 'tickets',
  resourceType: 'ticket',
  dependentTypes: [],
  ageOf: 'tickets.closed_at',
  hasFloor: false,
};

const BOUND: CatalogueSubject = {
  ...TICKETS,
  owner: 'desk',
  dataId: 'd1',
  problem: undefined,
  claim: undefined,
  listedAt: NOW,
  observeNightsLeft: 0,
  retirement: undefined,
};

const lists = (owner: string, dataId: string, ...subjects: ListedSubject[]): OwnerAnswer => ({
  owner,
  isSilent: false,
  dataId,
  subjects,
});
const silent = (owner: string): OwnerAnswer => ({ owner, isSilent: true });
const run = (known: readonly CatalogueSubject[], ...answers: OwnerAnswer[]) =>
  reconcile(known, answers, LATER, () => 2);

test('a new subject is bound to who lists it, and observed for the nights of its owner', (t) => {
  const [change] = run([], lists('desk', 'd1', TICKETS));
  t.like(change, { event: 'added', subject: { owner: 'desk', dataId: 'd1', observeNightsLeft: 2 } });
  if (change) t.is(stateOf(change.subject), 'OBSERVED');
});

test('a subject that nobody has listed is bound by the first who does', (t) => {
  const seeded = { ...BOUND, dataId: undefined, listedAt: undefined };
  t.is(problemOf(seeded)?.reason, 'DEPENDENCY_UNAVAILABLE', 'until then it waits like for a silent owner');
  const [change] = run([seeded], lists('desk', 'd1', TICKETS));
  t.like(change, { event: 'bound', subject: { dataId: 'd1', observeNightsLeft: 2 } });
});

test('two owners of one name are a conflict until one of them is left', (t) => {
  const [change] = run([BOUND], lists('desk', 'd1', TICKETS), lists('other', 'd2', TICKETS));
  t.like(change, { event: 'SUBJECT_CONFLICT', subject: { owner: 'desk', dataId: 'd1' } });
  if (!change) return;
  t.is(stateOf(change.subject), 'CONFLICT');
  t.deepEqual(run([change.subject], lists('desk', 'd1', TICKETS), lists('other', 'd2', TICKETS)), []);
  const [solved] = run([change.subject], lists('desk', 'd1', TICKETS), lists('other', 'd2'));
  t.like(solved, { event: 'recovered', subject: { problem: undefined, owner: 'desk' } });
});

test('an owner that is silent and may hold the subject still makes another one a conflict', (t) => {
  const [change] = run([BOUND], silent('desk'), lists('other', 'd1', TICKETS));
  t.is(change?.event, 'SUBJECT_CONFLICT');
});

test('an owner under another name with the same data is rebound, with other data it must be confirmed', (t) => {
  const [renamed] = run([BOUND], lists('helpdesk', 'd1', TICKETS));
  t.like(renamed, { event: 'rebound', subject: { owner: 'helpdesk', dataId: 'd1', problem: undefined } });
  for (const answer of [lists('helpdesk', 'd2', TICKETS), lists('desk', 'd2', TICKETS)]) {
    const [changed] = run([BOUND], answer);
    t.like(changed, { event: 'OWNER_CHANGED', subject: { owner: 'desk', dataId: 'd1' } });
    if (!changed) return;
    t.is(stateOf(changed.subject), 'OWNER_CHANGED');
    t.deepEqual(run([changed.subject], answer), [], 'it is told once');
    t.like(confirm(changed.subject), { owner: answer.owner, dataId: 'd2', problem: undefined, claim: undefined });
    const [back] = run([changed.subject], lists('desk', 'd1', TICKETS));
    t.like(back, { event: 'recovered', subject: { dataId: 'd1', claim: undefined } });
  }
  t.is(confirm(BOUND), BOUND, 'nothing to confirm');
});

test('an owner that is not configured, or lists the subject no more, is a problem; a silent one changes nothing', (t) => {
  t.deepEqual(run([BOUND], silent('desk')), []);
  const [unknown] = run([BOUND], lists('other', 'd2'));
  t.is(unknown?.event, 'OWNER_UNKNOWN');
  const [unlisted] = run([BOUND], lists('desk', 'd1'));
  t.is(unlisted?.event, 'SUBJECT_UNLISTED');
  if (!unknown || !unlisted) return;
  const [configured] = run([unknown.subject], silent('desk'));
  t.like(configured, { event: 'recovered', subject: { problem: undefined } });
  t.is(problemOf(unlisted.subject)?.reason, 'SUBJECT_UNLISTED');
});

test('only what no owner lists can be retired, and an owner that lists it again revives it', (t) => {
  t.throws(() => retire(BOUND, 'ada', 'gone', NOW), { message: /no owner lists it/ });
  const [unlisted] = run([BOUND], lists('desk', 'd1'));
  if (!unlisted) return t.fail();
  const retired = retire(unlisted.subject, 'ada', 'gone', NOW);
  t.is(stateOf(retired), 'RETIRED');
  t.is(retire(retired, 'bob', 'again', LATER), retired);
  t.deepEqual(run([retired], lists('desk', 'd1')), []);
  const [revived] = run([retired], lists('desk', 'd1', TICKETS));
  t.like(revived, { event: 'revived', subject: { retirement: undefined, problem: undefined } });
  const [other] = run([retired], lists('desk', 'd9', TICKETS));
  t.is(other?.event, 'OWNER_CHANGED', 'with other data it is not trusted');
});

test('what is merely listed again is no event', (t) => {
  const [change] = run([BOUND], lists('desk', 'd1', TICKETS));
  t.is(change?.event, undefined);
  t.is(change?.subject.listedAt?.toString(), LATER.toString());
  t.like(change?.subject, { owner: 'desk', dataId: 'd1', problem: undefined });
});
