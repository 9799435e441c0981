import * as crypto from 'node:crypto';
import { fieldInvalid } from './domain-error.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const TENANT_ID = /^[a-z0-9][a-z0-9-]{0,62}$/;

/** A new UUIDv7, lower case: it begins with its time, so an index on them grows at its end. */
export const newId = (): string => crypto.randomUUIDv7?.() ?? newIdOnNode22();

/** A UUIDv4 with the time and the version of a UUIDv7. */
function newIdOnNode22(): string {
  const time = Date.now().toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${crypto.randomUUID().slice(15)}`;
}

/** Whether the text is a UUID of any version in lower case. */
export const isId = (value: string): boolean => UUID.test(value);

/** Whether the text can name a tenant: 1 to 63 of a-z, 0-9 and `-`, not starting with `-`. A UUID can. */
export const isTenantId = (value: string): boolean => TENANT_ID.test(value);

/** The id in lower case; FIELD_INVALID naming `field` unless the text is a UUID. */
export function parseId(field: string, value: string): string {
  const id = value.toLowerCase();
  if (!isId(id)) throw fieldInvalid(field, 'must be a UUID');
  return id;
}

/** Undefined for the empty text (absent), else as parseId. */
export const parseOptionalId = (field: string, value: string): string | undefined =>
  value === '' ? undefined : parseId(field, value);

/** The tenant id as it stands; FIELD_INVALID naming `field` unless it can name a tenant. */
export function parseTenantId(field: string, value: string): string {
  if (!isTenantId(value)) throw fieldInvalid(field, 'must be 1 to 63 of a-z, 0-9 and -, not starting with -');
  return value;
}
