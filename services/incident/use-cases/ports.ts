import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { View } from '#libs/kernel/view.ts';
import type { RunOperation, RunScope } from '#libs/participant/participant.ts';
import type { Approval, ApprovalState } from '../domain/approval.ts';
import type { DriftCheck, DriftStatus, Environment, FlaggedWorkflow, JsonObject } from '../domain/drift.ts';
import type { Incident, IncidentState } from '../domain/incident.ts';

/** What a caller of an idempotent creation gave. */
export interface Repeatable {
  readonly requestId: string | undefined;
  readonly fingerprint: string;
}

/** A check to record. */
export interface NewDriftCheck extends Repeatable {
  readonly tenantId: string;
  readonly environmentId: string;
  readonly status: DriftStatus;
  /** Undefined: the database's now. */
  readonly checkedAt: Temporal.Instant | undefined;
  readonly summary: JsonObject | undefined;
  readonly workflows: readonly FlaggedWorkflow[];
}

/** Environments and the checks of them. */
export interface DriftRepository {
  /** Must create, or answer what this request id created; REQUEST_ID_REUSED, NAME_TAKEN. */
  createEnvironment(environment: { tenantId: string; displayName: string } & Repeatable): Promise<Environment>;
  getEnvironment(tenantId: string, environmentId: string): Promise<Environment | undefined>;
  /** Must list by name. */
  listEnvironments(tenantId: string, status: DriftStatus | undefined, page: PageQuery): Promise<Page<Environment>>;
  /**
   * Must record the check with its workflows and bring the environment's badge up to date in one transaction; a
   * check older than the newest must leave the badge. ENVIRONMENT_NOT_FOUND; FIELD_INVALID on `check_time` when it
   * is after the database's now; REQUEST_ID_REUSED.
   */
  recordCheck(check: NewDriftCheck): Promise<{ check: DriftCheck; environment: Environment }>;
  /** Of BASIC, summary and workflows must not be read. FULL where no view is named. */
  getCheck(tenantId: string, checkId: string, view?: View): Promise<DriftCheck | undefined>;
  /** Must list newest first, in the BASIC view, each check with the keyset that a list goes on after. */
  listChecks(
    tenantId: string,
    filter: { environmentId: string | undefined; status: DriftStatus | undefined },
    page: PageQuery,
  ): Promise<Page<DriftCheck & { readonly key: readonly string[] }>>;
}

/** An incident to open. */
export interface NewIncident extends Repeatable {
  readonly tenantId: string;
  readonly environmentId: string;
  readonly driftCheckId: string | undefined;
  readonly title: string;
  readonly payload: JsonObject | undefined;
  readonly runId: string | undefined;
  readonly step: string | undefined;
  readonly actor: string;
}

/** Which incidents of a tenant. */
export interface IncidentFilter {
  readonly state: IncidentState | undefined;
  readonly environmentId: string | undefined;
  readonly runId: string | undefined;
  /** Also those that are hidden with their run. */
  readonly showDeleted: boolean;
}

/** What a change of an incident decides by: the locked incident and the database's clock. */
export type IncidentChange = (incident: Incident, now: Temporal.Instant) => Incident;

/** The tenant's incidents. */
export interface IncidentRepository {
  /**
   * Must open the incident with its payload and the first entry of its timeline in one transaction, or answer with
   * the one that this request id opened before; REQUEST_ID_REUSED, ENVIRONMENT_NOT_FOUND, DRIFT_CHECK_NOT_FOUND also
   * for another environment's check. STEP_COMPENSATED when the run or its step has a tombstone, or gets one at the
   * same time; RUN_DELETED while the run is hidden.
   */
  open(incident: NewIncident): Promise<Incident>;
  /**
   * Must answer undefined for an unknown incident, another tenant's, and a hidden one unless `showDeleted`. Of BASIC,
   * payload and timeline must not be read. FULL where no view is named.
   */
  get(tenantId: string, incidentId: string, showDeleted: boolean, view?: View): Promise<Incident | undefined>;
  /** Must list newest first, in the BASIC view. */
  list(tenantId: string, filter: IncidentFilter, page: PageQuery): Promise<Page<Incident>>;
  /**
   * Must apply `change` to the incident under its row's lock and commit what it returned; a new state goes into the
   * timeline with the entry's words in the same transaction. Undefined for what `get` does not show.
   */
  update(
    tenantId: string,
    incidentId: string,
    change: IncidentChange,
    entry: { readonly actor: string; readonly note: string | undefined },
  ): Promise<Incident | undefined>;
}

/** An approval to ask for. */
export interface NewApproval extends Repeatable {
  readonly tenantId: string;
  readonly incidentId: string;
  readonly requestedState: IncidentState;
  readonly notes: string | undefined;
  readonly actor: string;
}

/** Which approvals of a tenant. */
export interface ApprovalFilter {
  readonly state: ApprovalState | undefined;
  readonly incidentId: string | undefined;
}

/** The approvals of incidents. Those of a hidden incident are not there for any method. */
export interface ApprovalRepository {
  /**
   * Must pass the incident to `check` under its row's lock and commit the approval PENDING, or answer with the one
   * that this request id asked for before; INCIDENT_NOT_FOUND, REQUEST_ID_REUSED, and APPROVAL_NOT_FOUND for a
   * repetition after the purge.
   */
  request(approval: NewApproval, check: (incident: Pick<Incident, 'state'>) => void): Promise<Approval>;
  /** Must apply `change` to the approval under its row's lock; undefined for an unknown one and another tenant's. */
  update(
    tenantId: string,
    approvalId: string,
    change: (approval: Approval, now: Temporal.Instant) => Approval,
  ): Promise<Approval | undefined>;
  /** Must list newest first. */
  list(tenantId: string, filter: ApprovalFilter, page: PageQuery): Promise<Page<Approval>>;
}

/** A tenant's figures on drift, from environments and incidents that are not hidden. */
export interface DriftDashboard {
  readonly environments: Readonly<Record<DriftStatus, number>>;
  readonly incidents: Readonly<Record<IncidentState, number>>;
  /** Of those closed as RESOLVED; undefined where there are none. */
  readonly meanMsToClose: number | undefined;
  readonly lastCheckedAt: Temporal.Instant | undefined;
}

/** Must read nothing that a purge removes. */
export type ReadDashboard = (tenantId: string) => Promise<DriftDashboard>;

/** A cascade's operation that was refused, and the reason it was refused with. */
export interface Refusal {
  readonly action: string;
  readonly scope: RunScope;
  readonly operation: RunOperation;
  readonly outcome: string;
}

/** The audit of what was refused. */
export interface RefusalAudit {
  /** Must write a row of the audit before the caller hears of the refusal. */
  record(refusal: Refusal): Promise<void>;
}

/** The action of one step of a run, keyed by both. */
export interface StepAction extends Omit<NewIncident, 'requestId' | 'runId' | 'step'> {
  readonly runId: string;
  readonly step: string;
}

/** The actions of steps. */
export interface StepActions {
  /**
   * Must open the step's incident and remember the key in one transaction, in which the step cannot be compensated,
   * or answer with the incident that this key opened before. STEP_COMPENSATED where the run or its step has a
   * tombstone, REQUEST_ID_REUSED for another fingerprint, ENVIRONMENT_NOT_FOUND, DRIFT_CHECK_NOT_FOUND.
   */
  open(action: StepAction): Promise<{ readonly incidentId: string; readonly hasPayload: boolean }>;
}
