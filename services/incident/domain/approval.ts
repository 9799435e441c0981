import { DomainError } from '#libs/kernel/domain-error.ts';
import type { IncidentState } from './incident.ts';

/** Where an approval stands. */
export const APPROVAL_STATES = ['PENDING', 'APPROVED', 'REJECTED'] as const;

/** One of APPROVAL_STATES. */
export type ApprovalState = (typeof APPROVAL_STATES)[number];

/** What can be decided. */
export const DECISIONS = ['APPROVED', 'REJECTED'] as const;

/** One of DECISIONS. */
export type Decision = (typeof DECISIONS)[number];

/** A request to be allowed a transition of an incident, and its decision. */
export interface Approval {
  readonly id: string;
  readonly tenantId: string;
  readonly incidentId: string;
  readonly requestedState: IncidentState;
  readonly state: ApprovalState;
  readonly requestedBy: string;
  readonly requestNotes: string | undefined;
  readonly decidedBy: string | undefined;
  readonly decisionNotes: string | undefined;
  readonly createdAt: Temporal.Instant;
  readonly decidedAt: Temporal.Instant | undefined;
  /** When its notes were purged, before the approval itself. */
  readonly notesPurgedAt: Temporal.Instant | undefined;
  /** Grows with every change; the etag. */
  readonly version: bigint;
}

/** Unknown, purged, of a hidden incident, or another tenant's. */
export const approvalNotFound = (): DomainError =>
  new DomainError('not-found', 'APPROVAL_NOT_FOUND', 'Approval not found.');

/** The text that changes with every change of the approval. */
export const approvalEtagOf = ({ version }: Pick<Approval, 'version'>): string => `"${version}"`;

/**
 * The approval as decided; the very same one where it was decided so before. FAILED_PRECONDITION/APPROVAL_DECIDED for
 * the other decision, ABORTED/ETAG_MISMATCH for another etag than the approval's. `now` is the database's.
 */
export function decide(
  approval: Approval,
  decision: Decision,
  { by, notes, etag }: { by: string; notes: string | undefined; etag: string },
  now: Temporal.Instant,
): Approval {
  if (approval.state === decision) return approval;
  if (approval.state !== 'PENDING') {
    const { state } = approval;
    throw new DomainError('failed-precondition', 'APPROVAL_DECIDED', `The approval is ${state} already.`, { state });
  }
  if (etag !== '' && etag !== approvalEtagOf(approval)) {
    throw new DomainError('aborted', 'ETAG_MISMATCH', 'The approval has changed since; read it again.', { etag });
  }
  return { ...approval, state: decision, decidedBy: by, decisionNotes: notes, decidedAt: now };
}
