import { type Page, type PageQuery, pageOf } from '#libs/kernel/page.ts';
import type { Database, Statement } from '#libs/postgres/open-database.ts';

/** Which entries of an audit; what is undefined matches every entry. */
export interface AuditFilter {
  readonly actor: string | undefined;
  readonly action: string | undefined;
  readonly targetId: string | undefined;
  /** Inclusive. */
  readonly after: Temporal.Instant | undefined;
  /** Exclusive. */
  readonly before: Temporal.Instant | undefined;
}

/** One entry as it is stored. */
export interface StoredAuditEntry {
  readonly id: string;
  readonly at: Temporal.Instant;
  readonly actor: string;
  readonly subject: string;
  readonly action: string;
  readonly targetType: string;
  readonly targetId: string;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly outcome: string;
  readonly counts: Readonly<Record<string, unknown>>;
  readonly trustEntry: string | undefined;
}

interface AuditRow {
  readonly id: string;
  readonly at: Temporal.Instant;
  readonly actor: string;
  readonly subject: string;
  readonly action: string;
  readonly target_type: string;
  readonly target_id: string;
  readonly reason: string | null;
  readonly request_id: string | null;
  readonly outcome: string;
  readonly counts: Record<string, unknown>;
  readonly trust_entry: string | null;
}

/**
 * The statement that lists a tenant's entries, or those that belong to no tenant, newest first. It asks for one entry
 * more than the page holds, which tells whether there is a next page.
 */
export function listAudit(tenantId: string | undefined, filter: AuditFilter, { limit, after }: PageQuery): Statement {
  const values: unknown[] = [];
  const bind = (value: unknown): string => `$${values.push(value)}`;
  const [at, id] = after ?? [];
  const conditions = [
    tenantId === undefined ? undefined : `tenant_id = ${bind(tenantId)}`,
    filter.actor === undefined ? undefined : `actor = ${bind(filter.actor)}`,
    filter.action === undefined ? undefined : `action = ${bind(filter.action)}`,
    filter.targetId === undefined ? undefined : `target_id = ${bind(filter.targetId)}`,
    filter.after && `at >= ${bind(toMicroseconds(filter.after))}`,
    filter.before && `at < ${bind(toMicroseconds(filter.before))}`,
    after && `(at, id) < (${bind(at)}, ${bind(id)}::uuid)`,
  ].filter((condition) => condition !== undefined);
  const [table, requestId] =
    tenantId === undefined ? ['installation_audit', 'null::uuid as request_id'] : ['audit_entries', 'request_id'];
  const text = `select id, at, actor, subject, action, target_type, target_id, reason, ${requestId}, outcome, counts,
           trust_entry
    from ${table} ${conditions.length > 0 ? `where ${conditions.join(' and ')}` : ''}
    order by at desc, id desc limit ${bind(limit + 1)}`;
  return { text, values };
}

/** One page of a tenant's entries, or with tenant undefined of those that belong to no tenant. */
export async function readAudit(
  database: Database,
  tenantId: string | undefined,
  filter: AuditFilter,
  page: PageQuery,
): Promise<Page<StoredAuditEntry>> {
  const statement = listAudit(tenantId, filter, page);
  const rows =
    tenantId === undefined
      ? await database.acrossTenants<AuditRow>(statement)
      : await database.readForTenant<AuditRow>(tenantId, statement);
  return pageOf(rows, page.limit, toEntry, ({ at, id }) => [at.toString(), id]);
}

// Entries have microseconds. Rounded up, a bound with nanoseconds still separates the same entries.
const toMicroseconds = (instant: Temporal.Instant): string =>
  instant.round({ smallestUnit: 'microsecond', roundingMode: 'ceil' }).toString();

const toEntry = (row: AuditRow): StoredAuditEntry => ({
  id: row.id,
  at: row.at,
  actor: row.actor,
  subject: row.subject,
  action: row.action,
  targetType: row.target_type,
  targetId: row.target_id,
  reason: row.reason ?? undefined,
  requestId: row.request_id ?? undefined,
  outcome: row.outcome,
  counts: row.counts,
  trustEntry: row.trust_entry ?? undefined,
});
