import { auditInstallation } from '#libs/audit/write-audit.ts';
import { DomainError, requestIdReused } from '#libs/kernel/domain-error.ts';
import { pageOf } from '#libs/kernel/page.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { isUniqueViolation } from '#libs/postgres/sql-errors.ts';
import { type Plan, type PlanWindow, type PlanWindowKind, planNotFound } from '../../domain/windows.ts';
import type { NewPlanWindow, PlanChange, PlanWindowRepository } from '../../use-cases/ports.ts';

/** A row of plan_windows. */
export interface PlanWindowRow {
  readonly plan: string;
  readonly subject: string;
  readonly version: number;
  readonly kind: PlanWindowKind;
  readonly days: number | null;
  readonly min_to_keep: number;
  readonly recorded_at: Temporal.Instant;
  readonly actor: string;
  readonly reason: string | null;
}

// A window in jsonb, where an instant is text.
type StoredWindow = Omit<PlanWindowRow, 'recorded_at'> & { readonly recorded_at: string };

interface PlanRow {
  readonly name: string;
  readonly version: number;
  readonly windows: readonly StoredWindow[];
  readonly tenants: number;
}

/** The text that changes with every window recorded for the plan. */
export const etagOfPlanWindows = ({ version }: Pick<Plan, 'version'>): string => `"${version}"`;

// The plan as it was at one of its versions; as it is now by default.
const PLANS = `
  select p.name, coalesce(v.version, p.version) as version, coalesce(c.tenants, 0) as tenants,
         coalesce(w.windows, '[]') as windows
  from plans p
  cross join lateral (select $2::bigint as version) v
  left join plan_tenant_counts() c on c.plan = p.name
  left join lateral (
    select jsonb_agg(to_jsonb(n) order by n.subject) as windows from (
      select distinct on (a.subject) a.* from plan_windows a
      where a.plan = p.name and a.plan_version <= coalesce(v.version, p.version)
      order by a.subject, a.version desc) n) w on true`;

/** Plans and their windows in Postgres. */
export function makePlanWindowRepository(database: Database): PlanWindowRepository {
  const read = async (name: string, version?: number): Promise<Plan | undefined> => {
    const [row] = await database.acrossTenants<PlanRow>({
      text: `${PLANS} where p.name = $1`,
      values: [name, version ?? null],
    });
    return row && toPlan(row);
  };
  const mustRead = async (name: string, version?: number): Promise<Plan> => {
    const plan = await read(name, version);
    if (!plan) throw planNotFound(name);
    return plan;
  };

  return {
    async update(change) {
      const version = await database
        .forInstallation((trx) => record(trx, change))
        .catch((error: unknown) => {
          // The same request id was used for another plan at the same time.
          if (isUniqueViolation(error, 'plan_requests_pkey')) throw requestIdReused(change.requestId ?? '');
          throw error;
        });
      return mustRead(change.name, version);
    },

    async preview({ name, windows, etag, allowMissing, actor, reason }) {
      const known = await read(name);
      if (!known && !allowMissing) throw planNotFound(name);
      const plan = known ?? { name, version: 0, windows: [], tenants: 0 };
      assertEtag(etag, plan);
      const [row] = await database.acrossTenants<{ now: Temporal.Instant }>({
        text: 'select clock_timestamp() as now',
        values: [],
      });
      if (!row) throw new Error('the database returned no time');
      const recorded = changesOf(plan.windows, windows).map(
        ({ window, version }): PlanWindow => ({ ...window, plan: name, version, recordedAt: row.now, actor, reason }),
      );
      const replaced = new Set(recorded.map(({ subject }) => subject));
      const kept = plan.windows.filter(({ subject }) => !replaced.has(subject));
      const all = [...kept, ...recorded].toSorted((a, b) => (a.subject < b.subject ? -1 : 1));
      return { plan: { ...plan, version: plan.version + (recorded.length > 0 ? 1 : 0), windows: all }, recorded };
    },

    get: read,

    async list({ limit, after }) {
      const rows = await database.acrossTenants<PlanRow>({
        text: `${PLANS} where $1::text is null or p.name > $1 order by p.name limit $3`,
        values: [after?.[0] ?? null, null, limit + 1],
      });
      return pageOf(rows, limit, toPlan, (row) => [row.name]);
    },

    async listWindows(name, { limit, after }) {
      const rows = await database.acrossTenants<PlanWindowRow>({
        text: `select * from plan_windows
               where plan = $1
                 and ($2::timestamptz is null or (recorded_at, subject, version) < ($2, $3::text, $4::bigint))
               order by recorded_at desc, subject desc, version desc limit $5`,
        values: [name, after?.[0] ?? null, after?.[1] ?? null, after?.[2] ?? null, limit + 1],
      });
      return pageOf(rows, limit, toPlanWindow, (row) => [row.recorded_at.toString(), row.subject, String(row.version)]);
    },
  };
}

/** Records the windows that differ. Returns the plan version to answer the request with. */
async function record(trx: TenantTransaction, change: PlanChange): Promise<number> {
  const { name, etag, allowMissing, actor, reason, requestId, fingerprint } = change;
  if (allowMissing) await trx.raw('insert into plans (name) values (?) on conflict do nothing', [name]);
  const plan = firstOf<{ version: number }>(
    await trx.raw('select version from plans where name = ? for update', [name]),
  );
  if (!plan) throw planNotFound(name);
  if (requestId !== undefined) {
    const answered = firstOf<{ fingerprint: string; plan_version: number }>(
      await trx.raw('select fingerprint, plan_version from plan_requests where request_id = ?', [requestId]),
    );
    if (answered && answered.fingerprint !== fingerprint) throw requestIdReused(requestId);
    if (answered) return answered.plan_version;
  }
  assertEtag(etag, plan);
  const rows = rowsOf<PlanWindowRow>(
    await trx.raw('select distinct on (subject) * from plan_windows where plan = ? order by subject, version desc', [
      name,
    ]),
  );
  const changes = changesOf(rows.map(toPlanWindow), change.windows);
  const planVersion = plan.version + (changes.length > 0 ? 1 : 0);
  for (const { window, version } of changes) {
    await trx('plan_windows').insert({
      plan: name,
      subject: window.subject,
      version,
      kind: window.kind,
      days: window.days ?? null,
      min_to_keep: window.minToKeep,
      plan_version: planVersion,
      actor,
      reason,
    });
  }
  if (changes.length > 0) {
    await trx.raw('update plans set version = ? where name = ?', [planVersion, name]);
    await auditInstallation(trx, {
      actor,
      subject: change.subject,
      action: 'update-plan',
      targetType: 'plan',
      targetId: name,
      reason,
      outcome: changes.map(({ window }) => `${window.subject}=${window.days ?? window.kind}`).join(' '),
    });
  }
  if (requestId !== undefined) {
    await trx('plan_requests').insert({ request_id: requestId, fingerprint, plan: name, plan_version: planVersion });
  }
  return planVersion;
}

/** The windows that differ from those in force, each with its next version. */
function changesOf(
  inForce: readonly PlanWindow[],
  wanted: readonly NewPlanWindow[],
): readonly { readonly window: NewPlanWindow; readonly version: number }[] {
  return wanted.flatMap((window) => {
    const known = inForce.find(({ subject }) => subject === window.subject);
    const isSame = known?.kind === window.kind && known.days === window.days && known.minToKeep === window.minToKeep;
    return isSame ? [] : [{ window, version: (known?.version ?? 0) + 1 }];
  });
}

function assertEtag(etag: string, plan: Pick<Plan, 'version'>): void {
  if (etag === '' || etag === etagOfPlanWindows(plan)) return;
  throw new DomainError('aborted', 'ETAG_MISMATCH', 'The plan has changed since; read it again.', { etag });
}

const toPlan = ({ windows, ...plan }: PlanRow): Plan => ({
  ...plan,
  windows: windows.map(({ recorded_at, ...row }) =>
    toPlanWindow({ ...row, recorded_at: Temporal.Instant.from(recorded_at) }),
  ),
});

/** A row as a window. */
export const toPlanWindow = (row: PlanWindowRow): PlanWindow => ({
  plan: row.plan,
  subject: row.subject,
  version: row.version,
  kind: row.kind,
  days: row.days ?? undefined,
  minToKeep: row.min_to_keep,
  recordedAt: row.recorded_at,
  actor: row.actor,
  reason: row.reason ?? undefined,
});
