import { pageOf } from '#libs/kernel/page.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { TenantDirectory } from '../../use-cases/purge-ports.ts';

interface UnplannedRow {
  readonly tenant_id: string;
  readonly subjects: readonly string[];
  readonly first_seen_at: Temporal.Instant;
}

const FORGOTTEN_AT_ONCE = 1_000;

/** Which tenants owners hold data of, in Postgres. */
export const makeTenantDirectory = (database: Database): TenantDirectory => ({
  async findKnown(tenantIds) {
    const rows = await database.acrossTenants<{ id: string }>({
      text: 'select known_tenants($1) as id',
      values: [[...tenantIds]],
    });
    return new Set(rows.map(({ id }) => id));
  },

  async listUnplanned({ limit, after }) {
    const rows = await database.acrossTenants<UnplannedRow>({
      text: 'select * from unplanned_tenants($1, $2)',
      values: [after?.[0] ?? null, limit + 1],
    });
    return pageOf(
      rows,
      limit,
      (row) => ({ tenantId: row.tenant_id, subjects: row.subjects, firstSeenAt: row.first_seen_at }),
      (row) => [row.tenant_id],
    );
  },

  async beginSweep(subject, everyMs) {
    await database.acrossTenants({
      text: `insert into tenant_sweeps as s (subject) values ($1)
             on conflict (subject) do update set page_token = '', started_at = clock_timestamp(), finished_at = null
             where s.finished_at < clock_timestamp() - $2 * interval '1 ms'`,
      values: [subject, everyMs],
    });
    const [row] = await database.acrossTenants<{ page_token: string }>({
      text: 'select page_token from tenant_sweeps where subject = $1 and finished_at is null',
      values: [subject],
    });
    return row && { pageToken: row.page_token };
  },

  async recordSweep(subject, tenantIds, nextPageToken) {
    await database.acrossTenants({
      text: 'select record_tenants_with_data($1, $2)',
      values: [subject, [...tenantIds]],
    });
    const [row] = await database.acrossTenants<{ started_at: Temporal.Instant }>({
      text: `update tenant_sweeps
             set page_token = coalesce($2, ''), finished_at = ${nextPageToken === undefined ? 'clock_timestamp()' : 'null'}
             where subject = $1 returning started_at`,
      values: [subject, nextPageToken ?? null],
    });
    if (nextPageToken !== undefined || !row) return;
    await database.acrossTenants({
      text: 'select forget_tenants_with_data($1, $2, $3)',
      values: [subject, row.started_at.toString(), FORGOTTEN_AT_ONCE],
    });
  },

  async restartSweep(subject) {
    await database.acrossTenants({
      text: `update tenant_sweeps set page_token = '', started_at = clock_timestamp()
             where subject = $1 and finished_at is null`,
      values: [subject],
    });
  },

  async expire(days, limit) {
    await database.acrossTenants({
      text: `select forget_unseen_tenants(clock_timestamp() - $1 * interval '1 day', $2)`,
      values: [days, limit],
    });
  },
});
