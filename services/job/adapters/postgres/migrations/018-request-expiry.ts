import { makeRequestExpiry } from '#libs/postgres/forget-requests.ts';
import { REMEMBERED_REQUESTS } from '../job-requests.ts';

/** Forgets what requests were answered with, long after. */
export const requestExpiry = makeRequestExpiry('018-request-expiry', REMEMBERED_REQUESTS);
