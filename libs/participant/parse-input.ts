import type { JsonObject, JsonValue } from '@bufbuild/protobuf';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';

/** FIELD_INVALID for a field that is not known: a misspelt one would be an input that silently does something else. */
export function assertKnown(field: string, value: JsonObject, known: readonly string[]): void {
  const unknown = Object.keys(value).find((name) => !known.includes(name));
  if (unknown !== undefined) throw fieldInvalid(field, `has a field that is not one of ${known.join(', ')}`);
}

/** A text of a step action's input, empty where there is none; FIELD_INVALID for what is no text. */
export function parseString(field: string, value: JsonValue | undefined): string {
  if (value === undefined || value === null) return '';
  if (typeof value !== 'string') throw fieldInvalid(field, 'must be a text');
  return value;
}
