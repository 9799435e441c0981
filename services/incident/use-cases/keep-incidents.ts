import { type Caller, hasRole, tenantOf } from '#libs/kernel/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { View } from '#libs/kernel/view.ts';
import { type Incident, type IncidentState, incidentNotFound, transition } from '../domain/incident.ts';
import type { IncidentFilter, IncidentRepository, NewIncident } from './ports.ts';

/** What the caller asks to open. */
export type OpenIncidentCommand = Omit<NewIncident, 'fingerprint' | 'tenantId' | 'actor'>;

/** Where an incident is to go. */
export interface TransitionCommand {
  readonly incidentId: string;
  readonly state: IncidentState;
  readonly note: string | undefined;
  /** Empty: whatever it has. */
  readonly etag: string;
}

/** Incidents from their detection to their close; INCIDENT_NOT_FOUND for what the caller cannot see. */
export interface KeepIncidents {
  /** Opens an incident as DETECTED; the same request id and body answer with the same one. */
  open(caller: Caller, command: OpenIncidentCommand): Promise<Incident>;
  get(caller: Caller, incidentId: string, showDeleted: boolean, view?: View): Promise<Incident>;
  /** In the BASIC view. */
  list(caller: Caller, filter: IncidentFilter, page: PageQuery): Promise<Page<Incident>>;
  /** Brings an incident into its next state, or leaves it where it is already. */
  transition(caller: Caller, command: TransitionCommand): Promise<Incident>;
}

/** Makes KeepIncidents. */
export const makeKeepIncidents = (incidents: IncidentRepository): KeepIncidents => ({
  open(caller, command) {
    const { requestId: _, ...body } = command;
    const order = { ...command, tenantId: tenantOf(caller), actor: caller.actor };
    return incidents.open({ ...order, fingerprint: fingerprint({ rpc: 'OpenIncident', ...body }) });
  },
  async get(caller, incidentId, showDeleted, view) {
    assertMayShowDeleted(caller, showDeleted);
    return found(await incidents.get(tenantOf(caller), incidentId, showDeleted, view));
  },
  async list(caller, filter, page) {
    assertMayShowDeleted(caller, filter.showDeleted);
    return incidents.list(tenantOf(caller), filter, page);
  },
  async transition(caller, { incidentId, state, note, etag }) {
    const change = (incident: Incident, now: Temporal.Instant) => transition(incident, state, now, etag);
    return found(await incidents.update(tenantOf(caller), incidentId, change, { actor: caller.actor, note }));
  },
});

function found(incident: Incident | undefined): Incident {
  if (!incident) throw incidentNotFound();
  return incident;
}

/** Passes unless what is hidden is asked for by less than an admin. */
function assertMayShowDeleted(caller: Caller, showDeleted: boolean): void {
  if (!showDeleted || hasRole(caller, 'admin')) return;
  const message = 'Only an admin may see what is deleted.';
  throw new DomainError('permission-denied', 'ROLE_TOO_LOW', message, { role: 'admin' });
}
