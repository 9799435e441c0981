import type { HandlerContext } from '@connectrpc/connect';
import { type ListOldestWorkRequest, WorkKind } from '#gen/lethe/status/v1/status_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseFields } from '#libs/grpc/parse.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { readableTenant } from '#libs/kernel/caller.ts';
import { parseTenantId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';

interface OldestRow {
  readonly tenant_id: string | null;
  readonly kind: Exclude<keyof typeof WorkKind, 'UNSPECIFIED'>;
  readonly id: string;
  readonly created_at: Temporal.Instant;
  readonly now: Temporal.Instant;
}

// One row at least, which tells the time.
const listOldest = (from: string) => ({
  text: `select w.tenant_id, w.kind, w.id, w.created_at, c.now
         from (select clock_timestamp() as now) c left join ${from} w on true order by w.created_at`,
  values: [],
});

/**
 * The RPC ListOldestWork of a service whose schema has what `createOldestWork` makes; without a database, of one that
 * has no work that could be left undone.
 */
export const listOldestWork =
  (database: Database | undefined) =>
  async ({ tenantId }: ListOldestWorkRequest, context: HandlerContext) => {
    const { named } = parseFields({
      named: () => (tenantId === '' ? undefined : parseTenantId('tenant_id', tenantId)),
    });
    const of = readableTenant(callerOf(context), named);
    if (!database) return { items: [] };
    const rows =
      of === undefined
        ? await database.acrossTenants<OldestRow>(listOldest('oldest_work_of_all()'))
        : await database.readForTenant<OldestRow>(of, listOldest('oldest_work'));
    return {
      items: rows.flatMap((row) =>
        row.tenant_id === null
          ? []
          : [
              {
                kind: WorkKind[row.kind],
                tenantId: row.tenant_id,
                id: row.id,
                createTime: toTimestamp(row.created_at),
              },
            ],
      ),
      ...(rows[0] ? { databaseTime: toTimestamp(rows[0].now) } : {}),
    };
  };

/** The age in seconds of the oldest work of a kind over all tenants, 0 for none, as ListOldestWork tells it. */
export const oldestSeconds = (database: Database, kind: OldestRow['kind']) => async (): Promise<number> => {
  const rows = await database.acrossTenants<OldestRow>(listOldest('oldest_work_of_all()'));
  const oldest = rows.find((row) => row.kind === kind);
  return oldest ? Math.max(0, oldest.now.since(oldest.created_at).total('seconds')) : 0;
};
