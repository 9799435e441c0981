import type { OwnedSubject } from '#libs/owner/subject.ts';
import { AGE_DECISIONS, INCIDENT_STATES } from '../../domain/incident.ts';

/** The states of incidents whose payloads and approvals age, as a list for SQL. */
export const EXPIRING_STATES = INCIDENT_STATES.filter((state) => AGE_DECISIONS[state] === 'EXPIRE')
  .map((state) => `'${state}'`)
  .join(', ');

const ID = [{ column: 'id', type: 'uuid' }] as const;

const driftChecks: OwnedSubject = {
  name: 'drift_checks',
  resourceType: 'drift_check',
  dependents: [{ type: 'drift_check_workflow', query: 'workflows' }],
  ageOf: 'drift_checks.checked_at',
  table: 'drift_checks',
  age: 'checked_at',
  key: ID,
  nullsFirst: true,
  remove: `mine as materialized (
      select r.id from drift_checks r
      where r.tenant_id = :tenantId and r.id = any(array(select id from chosen)) and r.checked_at < :cutoff
      order by r.checked_at, r.id for update),
    workflows as (
      delete from drift_check_workflows w
      where w.tenant_id = :tenantId and w.check_id = any(array(select id from mine)) returning 1),
    gone as (
      delete from drift_checks r
      where r.tenant_id = :tenantId and r.id = any(array(select id from mine)) returning 1)`,
};

// Incidents are locked before what hangs on them, and in this order, by all who lock several: see run-incidents.ts.
const LOCKED_INCIDENTS = `order by i.closed_at, i.id for no key update`;

const incidentPayloads: OwnedSubject = {
  name: 'incident_payloads',
  resourceType: 'incident_payload',
  ageOf: 'incidents.closed_at',
  table: 'incident_payloads',
  age: 'age',
  key: [{ column: 'incident_id', type: 'uuid' }],
  remove: `mine as materialized (
      select i.id from incidents i
      where i.tenant_id = :tenantId and i.id = any(array(select incident_id from chosen))
        and i.state in (${EXPIRING_STATES}) and i.closed_at < :cutoff
      ${LOCKED_INCIDENTS}),
    gone as (
      delete from incident_payloads r
      where r.tenant_id = :tenantId and r.incident_id = any(array(select id from mine))
      returning r.incident_id),
    shells as (
      update incidents i
      set payload_purged_at = clock_timestamp(), updated_at = clock_timestamp(), version = i.version + 1
      where i.tenant_id = :tenantId and i.id = any(array(select incident_id from gone)) returning 1)`,
};

const APPROVALS_AGE = 'approvals.decided_at, or incidents.closed_at of an undecided one; of closed incidents alone';

const approvals: OwnedSubject = {
  name: 'approvals',
  resourceType: 'approval',
  ageOf: APPROVALS_AGE,
  table: 'approvals',
  age: 'age',
  key: ID,
  // An incident is written once, when the first of its approvals goes.
  remove: `mine as materialized (
      select i.id from incidents i
      where i.tenant_id = :tenantId and i.state in (${EXPIRING_STATES}) and i.id = any(array(
        select a.incident_id from approvals a
        where a.tenant_id = :tenantId and a.id = any(array(select id from chosen))))
      ${LOCKED_INCIDENTS}),
    theirs as materialized (
      select r.id from approvals r
      where r.tenant_id = :tenantId and r.id = any(array(select id from chosen)) and r.age < :cutoff
        and r.incident_id = any(array(select id from mine))
      order by r.age, r.id for update),
    gone as (
      delete from approvals r
      where r.tenant_id = :tenantId and r.id = any(array(select id from theirs)) returning r.incident_id),
    shells as (
      update incidents i
      set approvals_purged_at = clock_timestamp(), updated_at = clock_timestamp(), version = i.version + 1
      where i.tenant_id = :tenantId and i.approvals_purged_at is null
        and i.id = any(array(select incident_id from gone)) returning 1)`,
};

const approvalNotes: OwnedSubject = {
  name: 'approval_notes',
  resourceType: 'approval_note',
  ageOf: APPROVALS_AGE,
  table: 'approvals',
  age: 'age',
  key: ID,
  only: 'r.request_notes is not null or r.decision_notes is not null',
  remove: `mine as materialized (
      select r.id from approvals r
      where r.tenant_id = :tenantId and r.id = any(array(select id from chosen)) and r.age < :cutoff
        and (r.request_notes is not null or r.decision_notes is not null)
      order by r.age, r.id for no key update),
    gone as (
      update approvals r
      set request_notes = null, decision_notes = null, notes_purged_at = clock_timestamp(), version = r.version + 1
      where r.tenant_id = :tenantId and r.id = any(array(select id from mine)) returning 1)`,
};

/** What IncidentService owns that ages. */
export const INCIDENT_SUBJECTS: readonly OwnedSubject[] = [driftChecks, incidentPayloads, approvals, approvalNotes];
