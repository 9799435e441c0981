import type { JsonObject } from '@bufbuild/protobuf';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';

const MAX_BYTES = 1_048_576;
// Escaped, as JSON text has it; jsonb has no room for it. An even number of backslashes before it is another thing.
const NUL = /(?<!\\)(?:\\\\)*\\u0000/;

/** A JSON object that fits the database; FIELD_INVALID beyond 1 MiB and for text that holds U+0000. */
export function parseJsonObject(field: string, value: JsonObject | undefined): JsonObject | undefined {
  const text = value ? JSON.stringify(value) : '';
  if (Buffer.byteLength(text) > MAX_BYTES) throw fieldInvalid(field, 'must have at most 1 MiB');
  if (NUL.test(text)) throw fieldInvalid(field, 'must not hold the character U+0000');
  return value;
}
