import type { RememberedRequests } from '#libs/postgres/forget-requests.ts';

/** The requests that made jobs. Those that made deletions are in their receipts. */
export const REMEMBERED_REQUESTS: RememberedRequests = { table: 'job_requests', hasMethod: false };
