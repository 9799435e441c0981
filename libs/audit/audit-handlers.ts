import type { MessageInitShape } from '@bufbuild/protobuf';
import type { HandlerContext } from '@connectrpc/connect';
import { AuditEntrySchema, type AuditFilter as AuditFilterMessage } from '#gen/lethe/audit/v1/audit_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { parseFields, parseOptionalText } from '#libs/grpc/parse.ts';
import { parseTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { readableTenant } from '#libs/kernel/caller.ts';
import { parseTenantId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { readAudit, type StoredAuditEntry } from './read-audit.ts';

/** What every service's ListAuditEntriesRequest has. */
interface ListRequest {
  readonly pageSize: number;
  readonly pageToken: string;
  readonly filter?: AuditFilterMessage | undefined;
}

/** What every service's ListAuditEntriesResponse is made from. */
interface ListResponse {
  readonly entries: MessageInitShape<typeof AuditEntrySchema>[];
  readonly nextPageToken: string;
}

const MAX_TEXT = 300;

/**
 * The RPC ListAuditEntries of a service, which reads `audit_entries` and `installation_audit` of its database. Spread it
 * into the service's implementation.
 */
export const auditHandlers = (database: Database) => ({
  async listAuditEntries({ pageSize, pageToken, filter }: ListRequest, context: HandlerContext): Promise<ListResponse> {
    const { limit, tenantId, ...wanted } = parseFields({
      limit: () => parsePageSize(pageSize, pageToken),
      tenantId: () => (filter?.tenantId ? parseTenantId('filter.tenant_id', filter.tenantId) : undefined),
      actor: () => parseOptionalText('filter.actor', filter?.actor ?? '', MAX_TEXT),
      action: () => parseOptionalText('filter.action', filter?.action ?? '', MAX_TEXT),
      targetId: () => parseOptionalText('filter.target_id', filter?.targetId ?? '', MAX_TEXT),
      after: () => parseTimestamp('filter.after_time', filter?.afterTime),
      before: () => parseTimestamp('filter.before_time', filter?.beforeTime),
    });
    const of = readableTenant(callerOf(context), tenantId);
    const { actor, action, targetId } = wanted;
    const scope: PageScope = {
      rpc: 'ListAuditEntries',
      tenantId: of ?? '',
      filter: { actor, action, targetId, after: wanted.after?.toString(), before: wanted.before?.toString() },
    };
    const after = decodePageToken(scope, pageToken, [KEY.instant, KEY.id]);
    const page = await readAudit(database, of, wanted, { limit, after });
    const keyOf = ({ at, id }: StoredAuditEntry) => [at.toString(), id];
    const toEntry = (entry: StoredAuditEntry) => toMessage(of, entry);
    const { messages: entries, nextPageToken } = fitPage(scope, AuditEntrySchema, page, toEntry, keyOf);
    return { entries, nextPageToken };
  },
});

const toMessage = (
  tenantId: string | undefined,
  entry: StoredAuditEntry,
): MessageInitShape<typeof AuditEntrySchema> => ({
  id: entry.id,
  createTime: toTimestamp(entry.at),
  tenantId: tenantId ?? '',
  actor: entry.actor,
  subject: entry.subject,
  action: entry.action,
  targetType: entry.targetType,
  targetId: entry.targetId,
  reason: entry.reason ?? '',
  requestId: entry.requestId ?? '',
  outcome: entry.outcome,
  counts: entry.counts as MessageInitShape<typeof AuditEntrySchema>['counts'],
  trustEntry: entry.trustEntry ?? '',
});
