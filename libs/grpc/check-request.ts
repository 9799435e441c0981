import { type DescField, type DescMessage, isMessage, type Message, ScalarType } from '@bufbuild/protobuf';
import { reflect } from '@bufbuild/protobuf/reflect';
import { type FieldViolation, fieldsInvalid } from '#libs/kernel/domain-error.ts';

/**
 * How many objects and lists a Struct may have inside each other. Every level takes up to three messages on the wire, and
 * protobuf for Python reads no more than a hundred.
 */
export const MAX_STRUCT_DEPTH = 25;

const MAX_VIOLATIONS = 100;
const STRUCT = 'google.protobuf.Struct';
const HAS_NUL = 'must not hold the character U+0000';
const TOO_DEEP = `must not be nested more than ${MAX_STRUCT_DEPTH} levels deep`;
// A message shorter than this cannot hold a Struct that is too deep.
const SURELY_FLAT_BYTES = MAX_STRUCT_DEPTH * 4;

/**
 * Refuses what no database or no client could read, for every field of every RPC: FIELD_INVALID for each text or Struct
 * that holds U+0000, and for each Struct that is nested too deeply. `bytes` is the message on the wire.
 */
export function checkRequest(schema: DescMessage, message: Message, bytes: Uint8Array): void {
  const mayHoldNul = bytes.includes(0);
  if (!mayHoldNul && !(bytes.length > SURELY_FLAT_BYTES && holdsStruct(schema))) return;
  const violations: FieldViolation[] = [];
  checkMessage(schema, message, '', violations);
  if (violations.length > 0) throw fieldsInvalid(violations.slice(0, MAX_VIOLATIONS));
}

const known = new Map<DescMessage, boolean>();

/** Whether there is a Struct anywhere in a message of this type. */
function holdsStruct(schema: DescMessage): boolean {
  const found = known.get(schema);
  if (found !== undefined) return found;
  // A type that contains itself is being looked at already.
  known.set(schema, false);
  const holds = schema.fields.some(({ message }) => message && (message.typeName === STRUCT || holdsStruct(message)));
  known.set(schema, holds);
  return holds;
}

function checkMessage(schema: DescMessage, message: Message, prefix: string, violations: FieldViolation[]): void {
  const reflected = reflect(schema, message);
  for (const field of schema.fields) {
    if (!reflected.isSet(field)) continue;
    // As generated code has it: a Struct is a plain object.
    const value: unknown = (message as unknown as Record<string, unknown>)[field.localName] ?? reflected.get(field);
    const path = `${prefix}${field.name}`;
    if (field.oneof)
      checkValue(field, (message as unknown as OneofHolder)[field.oneof.localName]?.value, path, violations);
    else if (field.fieldKind === 'list') {
      for (const [index, item] of (value as readonly unknown[]).entries())
        checkValue(field, item, `${path}[${index}]`, violations);
    } else if (field.fieldKind === 'map') {
      for (const [key, item] of Object.entries(value as object)) {
        if (key.includes('\0')) violations.push({ field: path, description: HAS_NUL });
        checkValue(field, item, `${path}[${key}]`, violations);
      }
    } else checkValue(field, value, path, violations);
  }
}

type OneofHolder = Readonly<Record<string, { readonly value?: unknown } | undefined>>;

function checkValue(field: DescField, value: unknown, path: string, violations: FieldViolation[]): void {
  if (field.scalar === ScalarType.STRING || typeof value === 'string') {
    if (typeof value === 'string' && value.includes('\0')) violations.push({ field: path, description: HAS_NUL });
    return;
  }
  if (!field.message || typeof value !== 'object' || value === null) return;
  if (isMessage(value)) checkMessage(field.message, value, `${path}.`, violations);
  else if (field.message.typeName === STRUCT) {
    const description = problemOfJson(value, 1);
    if (description !== undefined) violations.push({ field: path, description });
  }
}

/** What is wrong with a Struct's value; undefined if nothing. */
function problemOfJson(value: unknown, depth: number): string | undefined {
  if (typeof value === 'string') return value.includes('\0') ? HAS_NUL : undefined;
  if (typeof value !== 'object' || value === null) return undefined;
  if (depth > MAX_STRUCT_DEPTH) return TOO_DEEP;
  for (const [key, item] of Object.entries(value)) {
    const problem = key.includes('\0') ? HAS_NUL : problemOfJson(item, depth + 1);
    if (problem !== undefined) return problem;
  }
  return undefined;
}
