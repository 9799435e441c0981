import test from 'ava';
import { hasReason } from '#libs/kernel/domain-error.ts';
import { type Approval, decide } from './approval.ts';
import {
  AGE_DECISIONS,
  etagOf,
  INCIDENT_STATES,
  INCIDENT_TRANSITIONS,
  type Incident,
  OPEN_STATES,
  type PayloadState,
  type PurgeCause,
  payloadNotice,
  transition,
} from './incident.ts';

const now = Temporal.Instant.from('2026-11-21T08:00:00.000001Z');

const incidentIn = (state: Incident['state']): Incident => ({
  id: 'i',
  tenantId: 'acme',
  environmentId: 'e',
  driftCheckId: undefined,
  runId: undefined,
  step: undefined,
  title: 'drift',
  state,
  closeCause: undefined,
  payload: undefined,
  payloadState: 'ABSENT',
  timeline: [],
  createdAt: now,
  updatedAt: now,
  closedAt: undefined,
  payloadPurgedAt: undefined,
  payloadPurgeCause: undefined,
  approvalsPurgedAt: undefined,
  deletedAt: undefined,
  version: 1n,
});

test('an incident goes its way one state at a time, and every other step is refused', (t) => {
  for (const from of INCIDENT_STATES) {
    for (const to of INCIDENT_STATES) {
      const before = incidentIn(from);
      if (from === to) t.is(transition(before, to, now), before, 'being there already changes nothing');
      else if (INCIDENT_STATES.indexOf(to) === INCIDENT_STATES.indexOf(from) + 1) {
        t.is(transition(before, to, now).state, to);
      } else {
        const error = t.throws(() => transition(before, to, now));
        t.true(hasReason(error, 'INCIDENT_TRANSITION_ILLEGAL'), `${from} to ${to}`);
      }
    }
  }
});

test('only its close gives an incident the instant that its age counts from', (t) => {
  t.is(transition(incidentIn('STABILIZED'), 'RECONCILED', now).closedAt, undefined);
  const closed = transition(incidentIn('RECONCILED'), 'CLOSED', now);
  t.is(closed.closedAt, now);
  t.is(closed.closeCause, 'RESOLVED');
});

test('every state is decided, and what is open is kept', (t) => {
  t.deepEqual(Object.keys(AGE_DECISIONS), [...INCIDENT_STATES]);
  for (const state of INCIDENT_STATES) {
    t.is(AGE_DECISIONS[state], INCIDENT_TRANSITIONS[state].length > 0 ? 'KEEP' : 'EXPIRE', state);
  }
  t.deepEqual(OPEN_STATES, ['DETECTED', 'ACKNOWLEDGED', 'STABILIZED', 'RECONCILED']);
});

test('a stale etag is refused, and does not matter once the incident is where it should be', (t) => {
  const incident = incidentIn('DETECTED');
  t.is(transition(incident, 'ACKNOWLEDGED', now, etagOf(incident)).state, 'ACKNOWLEDGED');
  t.true(
    hasReason(
      t.throws(() => transition(incident, 'ACKNOWLEDGED', now, '"0"')),
      'ETAG_MISMATCH',
    ),
  );
  t.is(transition(incident, 'DETECTED', now, '"0"'), incident);
  t.not(etagOf({ ...incident, deletedAt: now }), etagOf(incident));
});

test('only a purged payload has the sentence of the policy', (t) => {
  const noticeOf = (payloadState: PayloadState, payloadPurgeCause?: PurgeCause) =>
    payloadNotice({ payloadState, payloadPurgeCause });
  t.is(noticeOf('PURGED'), 'Incident drift details were purged per retention policy.');
  t.is(noticeOf('PURGED', 'RUN_PURGE'), 'Incident drift details were purged together with their run.');
  t.is(noticeOf('PURGED', 'COMPENSATION'), 'Incident drift details were removed when their run was undone.');
  t.is(noticeOf('PRESENT') + noticeOf('ABSENT'), '');
});

test('an approval is decided once: the same again changes nothing, the other is refused', (t) => {
  const pending: Approval = {
    id: 'a',
    tenantId: 'acme',
    incidentId: 'i',
    requestedState: 'CLOSED',
    state: 'PENDING',
    requestedBy: 'ada',
    requestNotes: undefined,
    decidedBy: undefined,
    decisionNotes: undefined,
    createdAt: now,
    decidedAt: undefined,
    notesPurgedAt: undefined,
    version: 1n,
  };
  const by = { by: 'bob', notes: 'fine', etag: '' };
  const approved = decide(pending, 'APPROVED', by, now);
  t.like({ ...approved, decidedAt: undefined }, { state: 'APPROVED', decidedBy: 'bob', decisionNotes: 'fine' });
  t.is(approved.decidedAt, now);
  t.is(decide(approved, 'APPROVED', { ...by, etag: '"0"' }, now), approved);
  t.true(
    hasReason(
      t.throws(() => decide(approved, 'REJECTED', by, now)),
      'APPROVAL_DECIDED',
    ),
  );
  t.true(
    hasReason(
      t.throws(() => decide(pending, 'REJECTED', { ...by, etag: '"0"' }, now)),
      'ETAG_MISMATCH',
    ),
  );
});
