import { makeRequestExpiry } from '#libs/postgres/forget-requests.ts';
import { REMEMBERED_REQUESTS } from '../request-ids.ts';

/** Forgets what requests were answered with, long after. */
export const requestExpiry = makeRequestExpiry('028-request-expiry', REMEMBERED_REQUESTS);
