import test from 'ava';
import type { Caller } from '#libs/kernel/caller.ts';
import type { Approval } from '../domain/approval.ts';
import type { Incident } from '../domain/incident.ts';
import { makeKeepApprovals } from './keep-approvals.ts';
import { makeKeepIncidents, type OpenIncidentCommand } from './keep-incidents.ts';
import type { ApprovalRepository, IncidentRepository, NewApproval, NewIncident } from './ports.ts';

const NOW = Temporal.Instant.from('2026-11-21T08:00:00Z');
const ID = '01890000-0000-7000-8000-00000000000a';

const caller = (role: Caller['role'] = 'member', tenantId: string | undefined = 'acme'): Caller => ({
  subject: 'ada',
  actor: 'ada',
  kind: 'user',
  tenantId,
  role,
  scopes: new Set(),
});

const COMMAND: OpenIncidentCommand = {
  requestId: undefined,
  environmentId: ID,
  driftCheckId: undefined,
  title: 'drift',
  payload: { a: 1, b: { c: 2 } },
  runId: undefined,
  step: undefined,
};

/** A tenant with one incident and one approval of it, or with nothing. */
function fixture({ isThere = true } = {}) {
  const opened: NewIncident[] = [];
  const requested: NewApproval[] = [];
  const entries: unknown[] = [];
  const incident = { id: ID, tenantId: 'acme', state: 'DETECTED', version: 1n, deletedAt: undefined } as Incident;
  const approval = { id: ID, tenantId: 'acme', incidentId: ID, state: 'PENDING', version: 1n } as Approval;
  const nobody = async () => ({ items: [], next: undefined });
  const incidents: IncidentRepository = {
    async open(order) {
      opened.push(order);
      return incident;
    },
    get: async (tenantId) => (isThere && tenantId === 'acme' ? incident : undefined),
    list: nobody,
    async update(tenantId, _, change, entry) {
      if (!isThere || tenantId !== 'acme') return undefined;
      const after = change(incident, NOW);
      entries.push(entry);
      return after;
    },
  };
  const approvals: ApprovalRepository = {
    async request(order, check) {
      check(incident);
      requested.push(order);
      return approval;
    },
    update: async (_, __, change) => (isThere ? change(approval, NOW) : undefined),
    list: nobody,
  };
  return {
    keepIncidents: makeKeepIncidents(incidents),
    keepApprovals: makeKeepApprovals(approvals),
    opened,
    requested,
    entries,
  };
}

test('an incident is opened in the tenant of the credential, by the one at the origin of the call', async (t) => {
  const { keepIncidents, opened } = fixture();
  await keepIncidents.open({ ...caller(), subject: 'service:run', actor: 'grace' }, COMMAND);
  t.like(opened[0], { tenantId: 'acme', actor: 'grace', title: 'drift' });
  t.throws(() => keepIncidents.open({ ...caller(), tenantId: undefined }, COMMAND), { message: /names no tenant/ });
});

test('two requests are the same when they ask the same, whatever their ids and the order of their keys', async (t) => {
  const { keepIncidents, opened } = fixture();
  for (const command of [
    COMMAND,
    { ...COMMAND, requestId: ID, payload: { b: { c: 2 }, a: 1 } },
    { ...COMMAND, payload: { a: 2 } },
    { ...COMMAND, runId: ID },
    { ...COMMAND, runId: ID, step: 'check' },
  ]) {
    await keepIncidents.open(caller(), command);
  }
  const [first, second, ...others] = opened.map(({ fingerprint }) => fingerprint);
  t.is(first, second);
  t.is(new Set([first, ...others]).size, 4);
});

test('what is not there is not found, and only an admin may ask for what is hidden', async (t) => {
  const { keepIncidents, keepApprovals } = fixture({ isThere: false });
  const to = { incidentId: ID, state: 'ACKNOWLEDGED', note: undefined, etag: '' } as const;
  await t.throwsAsync(keepIncidents.get(caller(), ID, false), { message: 'Incident not found.' });
  await t.throwsAsync(keepIncidents.transition(caller(), to), { message: 'Incident not found.' });
  const decision = { approvalId: ID, decision: 'APPROVED', notes: undefined, etag: '' } as const;
  await t.throwsAsync(keepApprovals.decide(caller(), decision), { message: 'Approval not found.' });
  const everything = { state: undefined, environmentId: undefined, runId: undefined, showDeleted: true };
  const page = { limit: 1, after: undefined };
  for (const role of ['viewer', 'member', 'service'] as const) {
    t.like(await t.throwsAsync(keepIncidents.get(caller(role), ID, true)), { reason: 'ROLE_TOO_LOW' });
    t.like(await t.throwsAsync(keepIncidents.list(caller(role), everything, page)), { reason: 'ROLE_TOO_LOW' });
  }
  for (const role of ['admin', 'owner', 'platform'] as const) {
    t.is((await fixture().keepIncidents.get(caller(role), ID, true)).id, ID);
    t.deepEqual((await keepIncidents.list(caller(role), everything, page)).items, []);
  }
});

test('a transition is decided on the locked incident and the database’s clock, and signed by who asked for it', async (t) => {
  const { keepIncidents, entries } = fixture();
  const incident = await keepIncidents.transition(caller(), {
    incidentId: ID,
    state: 'ACKNOWLEDGED',
    note: 'on it',
    etag: '"1"',
  });
  t.is(incident.state, 'ACKNOWLEDGED');
  t.deepEqual(entries, [{ actor: 'ada', note: 'on it' }]);
});

test('an approval is asked for only where the incident may go, and signed by who decides it', async (t) => {
  const { keepApprovals, requested } = fixture();
  const ask = { requestId: undefined, incidentId: ID, notes: undefined };
  const illegal = async () => keepApprovals.request(caller(), { ...ask, requestedState: 'CLOSED' });
  t.like(await t.throwsAsync(illegal), { reason: 'INCIDENT_TRANSITION_ILLEGAL' });
  t.deepEqual(requested, []);
  await keepApprovals.request(caller(), { ...ask, requestedState: 'ACKNOWLEDGED' });
  t.like(requested[0], { tenantId: 'acme', actor: 'ada', requestedState: 'ACKNOWLEDGED' });
  const decided = await keepApprovals.decide(caller('admin'), {
    approvalId: ID,
    decision: 'REJECTED',
    notes: 'no',
    etag: '',
  });
  t.is(decided.decidedAt, NOW);
  t.is(`${decided.state} ${decided.decidedBy} ${decided.decisionNotes}`, 'REJECTED ada no');
});
