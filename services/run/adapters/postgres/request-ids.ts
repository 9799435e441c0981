import { requestIdReused } from '#libs/kernel/domain-error.ts';
import type { RememberedRequests } from '#libs/postgres/forget-requests.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';

/** The requests of every method, by what they were answered with. */
export const REMEMBERED_REQUESTS: RememberedRequests = { table: 'request_ids', hasMethod: true };

/** A request as it is recognised again. */
export interface IdentifiedRequest {
  readonly tenantId: string;
  /** Request ids are counted per method: two RPCs may be called with the same one. */
  readonly method: string;
  readonly requestId: string;
  readonly fingerprint: string;
}

/** What the first request of an id made; undefined where there was nothing to do. */
export interface KnownRequest {
  readonly resultId: string | undefined;
}

/** The request of this id, where there was one; REQUEST_ID_REUSED when it had another body. */
export async function findRequest(
  trx: TenantTransaction,
  { tenantId, method, requestId, fingerprint }: IdentifiedRequest,
): Promise<KnownRequest | undefined> {
  const row = firstOf<{ fingerprint: string; result_id: string | null }>(
    await trx.raw(
      `select fingerprint, result_id from request_ids
       where tenant_id = :tenantId and method = :method and request_id = :requestId`,
      { tenantId, method, requestId },
    ),
  );
  if (!row) return undefined;
  if (row.fingerprint !== fingerprint) throw requestIdReused(requestId);
  return { resultId: row.result_id ?? undefined };
}

/**
 * Remembers what a request made. Of two at once the second waits here for the first and answers with what that one
 * made; undefined for the first. REQUEST_ID_REUSED when the known one had another body.
 */
export async function rememberRequest(
  trx: TenantTransaction,
  request: IdentifiedRequest,
  resultId: string | undefined,
): Promise<KnownRequest | undefined> {
  const { rowCount } = await trx.raw(
    `insert into request_ids (tenant_id, method, request_id, fingerprint, result_id)
     values (:tenantId, :method, :requestId, :fingerprint, :resultId) on conflict do nothing`,
    { ...request, resultId: resultId ?? null },
  );
  return rowCount === 0 ? findRequest(trx, request) : undefined;
}
