import { newId } from '#libs/kernel/id.ts';
import { pageOf } from '#libs/kernel/page.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { type Approval, type ApprovalState, approvalNotFound } from '../../domain/approval.ts';
import { type IncidentState, incidentNotFound } from '../../domain/incident.ts';
import type { ApprovalRepository } from '../../use-cases/ports.ts';
import { repeatedTarget } from './requests.ts';

interface ApprovalRow {
  readonly tenant_id: string;
  readonly id: string;
  readonly incident_id: string;
  readonly requested_state: IncidentState;
  readonly state: ApprovalState;
  readonly requested_by: string;
  readonly request_notes: string | null;
  readonly decided_by: string | null;
  readonly decision_notes: string | null;
  readonly created_at: Temporal.Instant;
  readonly decided_at: Temporal.Instant | null;
  readonly notes_purged_at: Temporal.Instant | null;
  readonly version: number;
}

const VISIBLE = `from approvals a join incidents i on i.tenant_id = a.tenant_id and i.id = a.incident_id
  and i.deleted_at is null`;

/** Approvals in Postgres. */
export const makeApprovalRepository = (database: Database): ApprovalRepository => ({
  request: (approval, check) =>
    database.forTenant(approval.tenantId, async (trx) => {
      const { tenantId, incidentId, requestedState, notes, actor } = approval;
      const id = newId();
      const known = await repeatedTarget(trx, { ...approval, id });
      if (known === undefined) {
        const incident = firstOf<{ state: IncidentState }>(
          await trx.raw(
            `select state from incidents
             where tenant_id = :tenantId and id = :incidentId and deleted_at is null for update`,
            { tenantId, incidentId },
          ),
        );
        if (!incident) throw incidentNotFound();
        check(incident);
        await trx.raw(
          `insert into approvals (tenant_id, id, incident_id, requested_state, requested_by, request_notes)
           values (:tenantId, :id, :incidentId, :requestedState, :actor, :notes)`,
          { tenantId, id, incidentId, requestedState, actor, notes: notes ?? null },
        );
      }
      const row = await read(trx, tenantId, known ?? id);
      // The repetition of a request whose approval was purged since.
      if (!row) throw approvalNotFound();
      return toApproval(row);
    }),

  update: (tenantId, approvalId, change) =>
    database.forTenant(tenantId, async (trx) => {
      const locked = await read(trx, tenantId, approvalId, 'for update of a');
      if (!locked) return undefined;
      const before = toApproval(locked);
      const after = change(before, locked.now);
      if (after === before) return before;
      const changed = firstOf<ApprovalRow>(
        await trx.raw(
          `update approvals set state = :state, decided_by = :decidedBy, decision_notes = :notes,
                  decided_at = :decidedAt, version = version + 1
           where tenant_id = :tenantId and id = :approvalId returning *`,
          {
            tenantId,
            approvalId,
            state: after.state,
            decidedBy: after.decidedBy ?? null,
            notes: after.decisionNotes ?? null,
            decidedAt: after.decidedAt?.toString() ?? null,
          },
        ),
      );
      if (!changed) throw new Error('the approval was locked and is gone');
      return toApproval(changed);
    }),

  async list(tenantId, { state, incidentId }, { limit, after }) {
    const rows = await database.readForTenant<ApprovalRow>(tenantId, {
      text: `select a.* ${VISIBLE}
             where a.tenant_id = $1 and ($2::text is null or a.state = $2) and ($3::uuid is null or a.incident_id = $3)
               and ($5::uuid is null or (a.created_at, a.id) < ($4::timestamptz, $5))
             order by a.created_at desc, a.id desc limit $6`,
      values: [tenantId, state ?? null, incidentId ?? null, after?.[0] ?? null, after?.[1] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toApproval, (row) => [row.created_at.toString(), row.id]);
  },
});

const read = async (
  trx: TenantTransaction,
  tenantId: string,
  approvalId: string,
  lock = '',
): Promise<(ApprovalRow & { readonly now: Temporal.Instant }) | undefined> =>
  firstOf(
    await trx.raw(
      `select a.*, clock_timestamp() as now ${VISIBLE}
       where a.tenant_id = :tenantId and a.id = :approvalId ${lock}`,
      { tenantId, approvalId },
    ),
  );

const toApproval = (row: ApprovalRow): Approval => ({
  id: row.id,
  tenantId: row.tenant_id,
  incidentId: row.incident_id,
  requestedState: row.requested_state,
  state: row.state,
  requestedBy: row.requested_by,
  requestNotes: row.request_notes ?? undefined,
  decidedBy: row.decided_by ?? undefined,
  decisionNotes: row.decision_notes ?? undefined,
  createdAt: row.created_at,
  decidedAt: row.decided_at ?? undefined,
  notesPurgedAt: row.notes_purged_at ?? undefined,
  version: BigInt(row.version),
});
