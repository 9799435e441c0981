import { newId } from '#libs/kernel/id.ts';
import { actOnce } from '#libs/participant/step-actions.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { StepActions } from '../../use-cases/ports.ts';
import { insertIncident } from './incident-repository.ts';
import { incidentRunLock } from './run-incidents.ts';

/** The actions of steps in Postgres. */
export const makeStepActions = (database: Database): StepActions => ({
  open(action) {
    const keyed = { ...action, id: newId() };
    return actOnce(
      database,
      incidentRunLock,
      'incident_id',
      keyed,
      (trx) => insertIncident(trx, keyed),
      async (trx, incidentId) => {
        const payload = firstOf(
          await trx.raw('select 1 from incident_payloads where tenant_id = :tenantId and incident_id = :incidentId', {
            tenantId: action.tenantId,
            incidentId,
          }),
        );
        return { incidentId, hasPayload: payload !== undefined };
      },
    );
  },
});
