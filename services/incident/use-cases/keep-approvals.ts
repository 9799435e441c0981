import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import { type Approval, approvalNotFound, type Decision, decide } from '../domain/approval.ts';
import { assertTransition } from '../domain/incident.ts';
import type { ApprovalFilter, ApprovalRepository, NewApproval } from './ports.ts';

/** What the caller asks to be approved. */
export type RequestApprovalCommand = Omit<NewApproval, 'fingerprint' | 'tenantId' | 'actor'>;

/** What is decided. */
export interface DecideApprovalCommand {
  readonly approvalId: string;
  readonly decision: Decision;
  readonly notes: string | undefined;
  /** Empty: whatever it has. */
  readonly etag: string;
}

/** Approvals of transitions, from the question to the decision. */
export interface KeepApprovals {
  /** Asks for a state that the incident may go to now; INCIDENT_TRANSITION_ILLEGAL otherwise. */
  request(caller: Caller, command: RequestApprovalCommand): Promise<Approval>;
  /** Decides once and for ever; APPROVAL_NOT_FOUND, APPROVAL_DECIDED, ETAG_MISMATCH. */
  decide(caller: Caller, command: DecideApprovalCommand): Promise<Approval>;
  list(caller: Caller, filter: ApprovalFilter, page: PageQuery): Promise<Page<Approval>>;
}

/** Makes KeepApprovals. */
export const makeKeepApprovals = (approvals: ApprovalRepository): KeepApprovals => ({
  request(caller, command) {
    const { requestId: _, ...body } = command;
    const order = { ...command, tenantId: tenantOf(caller), actor: caller.actor };
    return approvals.request({ ...order, fingerprint: fingerprint({ rpc: 'RequestApproval', ...body }) }, (incident) =>
      assertTransition(incident, command.requestedState),
    );
  },
  async decide(caller, { approvalId, decision, notes, etag }) {
    const approval = await approvals.update(tenantOf(caller), approvalId, (pending, now) =>
      decide(pending, decision, { by: caller.actor, notes, etag }, now),
    );
    if (!approval) throw approvalNotFound();
    return approval;
  },
  list: (caller, filter, page) => approvals.list(tenantOf(caller), filter, page),
});
