import { newId } from '#libs/kernel/id.ts';
import { stepKeyReused } from '#libs/participant/errors.ts';
import { assertTakesEffects } from '#libs/participant/tombstones.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { StepActions } from '../../use-cases/ports.ts';
import { insertIncident } from './incident-repository.ts';
import { incidentRunLock } from './run-incidents.ts';

/** The actions of steps in Postgres. */
export const makeStepActions = (database: Database): StepActions => ({
  open: (action) =>
    database.forTenant(action.tenantId, async (trx) => {
      const { tenantId, runId, step, fingerprint } = action;
      await incidentRunLock.share(trx, action);
      await assertTakesEffects(trx, action);
      const id = newId();
      // The second of two at once waits here for the first, and then sees what it did.
      const { rowCount } = await trx.raw(
        `insert into step_actions (tenant_id, run_id, step, fingerprint, incident_id)
         values (:tenantId, :runId, :step, :fingerprint, :id) on conflict do nothing`,
        { tenantId, runId, step, fingerprint, id },
      );
      if (rowCount === 1) await insertIncident(trx, { ...action, id });
      const done = firstOf<{ fingerprint: string; incident_id: string; has_payload: boolean }>(
        await trx.raw(
          `select a.fingerprint, a.incident_id, exists (
                    select from incident_payloads p
                    where p.tenant_id = a.tenant_id and p.incident_id = a.incident_id) as has_payload
           from step_actions a where a.tenant_id = :tenantId and a.run_id = :runId and a.step = :step`,
          { tenantId, runId, step },
        ),
      );
      // Whoever removes it leaves a tombstone under the run's lock, which was looked for under that lock.
      if (!done) throw new Error('the action is not there, and neither is a tombstone');
      if (done.fingerprint !== fingerprint) throw stepKeyReused(runId, step);
      return { incidentId: done.incident_id, hasPayload: done.has_payload };
    }),
});
