import { fromJson, type JsonObject, toBinary } from '@bufbuild/protobuf';
import { StructSchema } from '@bufbuild/protobuf/wkt';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';

const MAX_TEXT_BYTES = 1_048_576;
/** Two of these, and all else that an answer holds, fit a message of 4 MiB. */
const MAX_WIRE_BYTES = 1_835_008;
// A number takes up to six times as much room on the wire as in text.
const SURELY_FITS_BYTES = MAX_WIRE_BYTES / 7;
// Escaped, as JSON text has it; jsonb has no room for it. An even number of backslashes before it is another thing.
const NUL = /(?<!\\)(?:\\\\)*\\u0000/;

/**
 * A JSON object that fits the database and every message that will answer with it; undefined for none. FIELD_INVALID
 * beyond 1 MiB as text or 1.75 MiB on the wire, and for text that holds U+0000.
 */
export function parseJsonObject(field: string, value: JsonObject | undefined): JsonObject | undefined {
  if (!value) return undefined;
  const text = JSON.stringify(value);
  const bytes = Buffer.byteLength(text);
  if (bytes > MAX_TEXT_BYTES) throw fieldInvalid(field, 'must have at most 1 MiB');
  if (bytes > SURELY_FITS_BYTES && wireBytes(value) > MAX_WIRE_BYTES)
    throw fieldInvalid(field, 'must take at most 1.75 MiB of a message; it has very many numbers or small values');
  if (NUL.test(text)) throw fieldInvalid(field, 'must not hold the character U+0000');
  return value;
}

const wireBytes = (value: JsonObject): number => toBinary(StructSchema, fromJson(StructSchema, value)).byteLength;
