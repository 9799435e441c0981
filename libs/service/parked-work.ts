import type { MessageInitShape } from '@bufbuild/protobuf';
import type { HandlerContext } from '@connectrpc/connect';
import {
  type ListParkedWorkRequest,
  ParkedWorkKind,
  ParkedWorkSchema,
} from '#gen/lethe/status/v1/status_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { parseFields } from '#libs/grpc/parse.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { readableTenant } from '#libs/kernel/caller.ts';
import { parseTenantId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, pageOf, parsePageSize } from '#libs/kernel/page.ts';
import type { Database, Statement } from '#libs/postgres/open-database.ts';

interface ParkedRow {
  readonly tenant_id: string;
  readonly kind: Exclude<keyof typeof ParkedWorkKind, 'UNSPECIFIED'>;
  readonly id: string;
  readonly target_type: string;
  readonly target_id: string;
  readonly state: string;
  readonly reason: string;
  readonly parked_at: Temporal.Instant;
  readonly attempts: number;
}

const COLUMNS = 'tenant_id, kind, id, target_type, target_id, state, reason, parked_at, attempts';
const BEFORE_ALL = ['', '00000000-0000-0000-0000-000000000000', ''] as const;

/** One page over all tenants, or of the tenant that is named, which row-level security alone lets through. */
export const listParked = (isOfTenant: boolean, after: readonly string[], maxRows: number): Statement => ({
  text: isOfTenant
    ? `select ${COLUMNS} from parked_work where tenant_id = $1 and (id, target_id) > ($2::uuid, $3)
       order by id, target_id limit $4`
    : `select ${COLUMNS} from parked_work_of_all($1, $2::uuid, $3, $4)`,
  values: [...after, maxRows],
});

/**
 * The RPC ListParkedWork of a service whose schema has what `createParkedWork` makes; without a database, of one that
 * parks nothing.
 */
export const listParkedWork =
  (database: Database | undefined) =>
  async ({ pageSize, pageToken, tenantId }: ListParkedWorkRequest, context: HandlerContext) => {
    const { limit, named } = parseFields({
      limit: () => parsePageSize(pageSize, pageToken),
      named: () => (tenantId === '' ? undefined : parseTenantId('tenant_id', tenantId)),
    });
    const of = readableTenant(callerOf(context), named);
    const scope: PageScope = { rpc: 'ListParkedWork', tenantId: of ?? '', filter: {} };
    const after = decodePageToken(scope, pageToken, [KEY.text, KEY.id, KEY.text]) ?? [of ?? '', ...BEFORE_ALL.slice(1)];
    const rows = database ? await readParked(database, of, after, limit + 1) : [];
    const page = pageOf(rows, limit, (row) => row, keyOf);
    const { messages: items, nextPageToken } = fitPage(scope, ParkedWorkSchema, page, toMessage, keyOf);
    return { items, nextPageToken };
  };

const readParked = (
  database: Database,
  of: string | undefined,
  after: readonly string[],
  maxRows: number,
): Promise<ParkedRow[]> =>
  of === undefined
    ? database.acrossTenants(listParked(false, after, maxRows))
    : database.readForTenant(of, listParked(true, after, maxRows));

const keyOf = (row: ParkedRow): readonly string[] => [row.tenant_id, row.id, row.target_id];

const toMessage = (row: ParkedRow): MessageInitShape<typeof ParkedWorkSchema> => ({
  tenantId: row.tenant_id,
  kind: ParkedWorkKind[row.kind],
  id: row.id,
  targetType: row.target_type,
  targetId: row.target_id,
  state: row.state,
  reason: row.reason,
  parkTime: toTimestamp(row.parked_at),
  attemptCount: row.attempts,
});
