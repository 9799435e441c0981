import { DomainError } from '#libs/kernel/domain-error.ts';
import type { JsonObject } from './drift.ts';

/** Where an incident stands, in the order of its life. */
export const INCIDENT_STATES = ['DETECTED', 'ACKNOWLEDGED', 'STABILIZED', 'RECONCILED', 'CLOSED'] as const;

/** One of INCIDENT_STATES. */
export type IncidentState = (typeof INCIDENT_STATES)[number];

/** Why an incident was closed: it went all its way, or the step that opened it was compensated. */
export type CloseCause = 'RESOLVED' | 'COMPENSATED';

/** What has become of a payload. */
export type PayloadState = 'PRESENT' | 'PURGED' | 'ABSENT';

/** Why a payload was purged other than by its age. */
export type PurgeCause = 'RUN_PURGE' | 'COMPENSATION';

/** One step in an incident's life. */
export interface IncidentTransition {
  readonly state: IncidentState;
  readonly actor: string;
  readonly note: string | undefined;
  readonly at: Temporal.Instant;
}

/** One incident: a shell that is never removed, and a payload that may be. */
export interface Incident {
  readonly id: string;
  readonly tenantId: string;
  readonly environmentId: string;
  readonly driftCheckId: string | undefined;
  /** The run whose effect it is, and the step of it. */
  readonly runId: string | undefined;
  readonly step: string | undefined;
  readonly title: string;
  readonly state: IncidentState;
  readonly closeCause: CloseCause | undefined;
  /** Undefined unless it is present, and in lists. */
  readonly payload: JsonObject | undefined;
  readonly payloadState: PayloadState;
  /** Oldest first; empty in lists. */
  readonly timeline: readonly IncidentTransition[];
  readonly createdAt: Temporal.Instant;
  readonly updatedAt: Temporal.Instant;
  readonly closedAt: Temporal.Instant | undefined;
  readonly payloadPurgedAt: Temporal.Instant | undefined;
  /** Undefined: by its age, or it was not purged. */
  readonly payloadPurgeCause: PurgeCause | undefined;
  /** When the first of its approvals was purged. */
  readonly approvalsPurgedAt: Temporal.Instant | undefined;
  /** Hidden with its run since then. */
  readonly deletedAt: Temporal.Instant | undefined;
  /** Grows with every change; half of the etag. */
  readonly version: bigint;
}

/** Every legal step of an incident; what is not here is refused. */
export const INCIDENT_TRANSITIONS: Readonly<Record<IncidentState, readonly IncidentState[]>> = {
  DETECTED: ['ACKNOWLEDGED'],
  ACKNOWLEDGED: ['STABILIZED'],
  STABILIZED: ['RECONCILED'],
  RECONCILED: ['CLOSED'],
  CLOSED: [],
};

/**
 * What a purge by age does with the payload and the approvals of an incident in each state: whatever their dates, it
 * keeps them while the incident is open. A new state does not compile until it is decided here.
 */
export const AGE_DECISIONS: Readonly<Record<IncidentState, 'KEEP' | 'EXPIRE'>> = {
  DETECTED: 'KEEP',
  ACKNOWLEDGED: 'KEEP',
  STABILIZED: 'KEEP',
  RECONCILED: 'KEEP',
  CLOSED: 'EXPIRE',
};

/** The states that count as open. */
export const OPEN_STATES = INCIDENT_STATES.filter((state) => INCIDENT_TRANSITIONS[state].length > 0);

const NOTICE_OF: Readonly<Record<PurgeCause, string>> = {
  RUN_PURGE: 'Incident drift details were purged together with their run.',
  COMPENSATION: 'Incident drift details were removed when their run was undone.',
};

/** The sentence that stands in a purged payload's place, for its age in the words of the seed; empty for the others. */
export function payloadNotice({
  payloadState,
  payloadPurgeCause,
}: Pick<Incident, 'payloadState' | 'payloadPurgeCause'>): string {
  if (payloadState !== 'PURGED') return '';
  return payloadPurgeCause ? NOTICE_OF[payloadPurgeCause] : 'Incident drift details were purged per retention policy.';
}

/** The sentence that stands beside approvals of which some were purged; empty where none was. */
export const approvalsNotice = ({ approvalsPurgedAt }: Pick<Incident, 'approvalsPurgedAt'>): string =>
  approvalsPurgedAt ? 'Approvals of this incident were purged per retention policy.' : '';

/** Unknown, hidden, or another tenant's. */
export const incidentNotFound = (): DomainError =>
  new DomainError('not-found', 'INCIDENT_NOT_FOUND', 'Incident not found.');

/** The table of transitions has no such step. */
export const incidentTransitionIllegal = (from: IncidentState, to: IncidentState): DomainError =>
  new DomainError('failed-precondition', 'INCIDENT_TRANSITION_ILLEGAL', `A ${from} incident cannot become ${to}.`, {
    from,
    to,
  });

/** The action of a step can never succeed; it fails the step. */
export const actionRefused = (cause: DomainError): DomainError =>
  new DomainError('failed-precondition', 'ACTION_REFUSED', cause.message, { cause: cause.reason }, { cause });

/** The text that changes with every change of the incident. Hiding is undone without a trace, so it is told apart. */
export const etagOf = ({ version, deletedAt }: Pick<Incident, 'version' | 'deletedAt'>): string =>
  `"${version}${deletedAt ? '-deleted' : ''}"`;

/** Passes when the incident may go into the state now; INCIDENT_TRANSITION_ILLEGAL otherwise. */
export function assertTransition({ state }: Pick<Incident, 'state'>, to: IncidentState): void {
  if (!INCIDENT_TRANSITIONS[state].includes(to)) throw incidentTransitionIllegal(state, to);
}

/**
 * The incident in its next state; the very same one where it is there already, so that a repetition is safe.
 * INCIDENT_TRANSITION_ILLEGAL, or ABORTED/ETAG_MISMATCH for another etag than the incident's. `now` is the database's.
 */
export function transition(incident: Incident, to: IncidentState, now: Temporal.Instant, etag = ''): Incident {
  if (incident.state === to) return incident;
  if (etag !== '' && etag !== etagOf(incident)) {
    throw new DomainError('aborted', 'ETAG_MISMATCH', 'The incident has changed since; read it again.', { etag });
  }
  assertTransition(incident, to);
  const isOver = INCIDENT_TRANSITIONS[to].length === 0;
  return { ...incident, state: to, ...(isOver ? { closedAt: now, closeCause: 'RESOLVED' } : {}) };
}
