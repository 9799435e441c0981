import {
  type DescEnum,
  type DescField,
  type DescMessage,
  type JsonObject,
  type JsonValue,
  type Message,
  ScalarType,
  toJson,
} from '@bufbuild/protobuf';
import type { GenEnum } from '@bufbuild/protobuf/codegenv2';
import type { ContractComments } from './contract-comments.ts';

/** A JSON Schema, as a plain object. */
export type JsonSchema = Readonly<Record<string, unknown>>;

/** How a message's JSON differs from what its descriptor says. */
export interface Shape {
  /** Fields that are left out. */
  readonly omitted?: readonly string[];
  /** Properties that are added, all of them always there unless `optional`. */
  readonly added?: Readonly<Record<string, JsonSchema>>;
}

const LARGE_SCALARS: ReadonlySet<ScalarType> = new Set([
  ScalarType.INT64,
  ScalarType.UINT64,
  ScalarType.SINT64,
  ScalarType.SFIXED64,
  ScalarType.FIXED64,
]);

/**
 * A message as JSON for people and scripts: the names of the .proto files, states by their short names (`RUNNING`), counts
 * as numbers, instants as RFC 3339. What the .proto calls absent is left out; everything else is always there.
 */
export const jsonOfMessage = <Desc extends DescMessage>(desc: Desc, message: Message): JsonObject =>
  shorten(desc, toJson(desc, message as never, { useProtoFieldName: true, alwaysEmitImplicit: true }) as JsonObject);

function shorten(desc: DescMessage, json: JsonObject): JsonObject {
  const shortened: JsonObject = {};
  for (const field of desc.fields) {
    const value = json[field.name];
    if (value !== undefined) shortened[field.name] = shortenField(field, value);
  }
  return shortened;
}

function shortenField(field: DescField, value: JsonValue): JsonValue {
  const one = (item: JsonValue): JsonValue => {
    if (field.enum) return shortName(field.enum, String(item));
    if (field.message) return isWellKnown(field.message) ? item : shorten(field.message, item as JsonObject);
    if (field.scalar !== undefined && LARGE_SCALARS.has(field.scalar)) return Number(item);
    return item;
  };
  return field.fieldKind === 'list' ? (value as JsonValue[]).map(one) : one(value);
}

const isWellKnown = ({ typeName }: DescMessage): boolean => typeName.startsWith('google.protobuf.');

const shortName = ({ sharedPrefix = '' }: DescEnum, name: string): string => name.slice(sharedPrefix.length);

/** The short names of an enum's values, without the one for unspecified. */
export const namesOf = (desc: DescEnum): string[] =>
  desc.values.filter(({ number }) => number !== 0).map(({ name }) => shortName(desc, name));

/** The value of an enum by its short name; the unspecified one for none. */
export const valueNamed = <Value extends number>(desc: GenEnum<Value>, shortened: string | undefined): Value =>
  (desc.values.find(({ name }) => shortName(desc, name) === shortened)?.number ?? 0) as Value;

/**
 * The schemas of a message's JSON and of every message in it, by their names, described in the words of the .proto. They
 * refer to each other as `Name#`.
 */
export function schemasOf(
  desc: DescMessage,
  comments: ContractComments,
  shape: Shape = {},
): ReadonlyMap<string, JsonSchema> {
  const { omitted = [], added = {} } = shape;
  const schemas = new Map<string, JsonSchema>();
  const add = (message: DescMessage, isRoot: boolean): void => {
    if (schemas.has(message.name)) return;
    const fields = message.fields.filter(({ name }) => !(isRoot && omitted.includes(name)));
    const extra = isRoot ? added : {};
    schemas.set(message.name, {
      $id: message.name,
      ...describe(comments.of(message)),
      type: 'object',
      additionalProperties: false,
      required: [...fields.filter(isAlwaysThere).map(({ name }) => name), ...Object.keys(extra)],
      properties: {
        ...Object.fromEntries(
          fields.map((field) => [field.name, { ...schemaOfField(field), ...describe(comments.of(field)) }]),
        ),
        ...extra,
      },
    });
    for (const { message: inner } of fields) if (inner && !isWellKnown(inner)) add(inner, false);
  };
  add(desc, true);
  return schemas;
}

/** The schema of that name in a place that has a description of its own, which may not stand beside `$ref`. */
export const described = (name: string, description?: string): JsonSchema => ({
  allOf: [{ $ref: `${name}#` }],
  ...describe(description),
});

const describe = (description: string | undefined): JsonSchema => (description === undefined ? {} : { description });

/** Fields without presence are always emitted, and lists, empty ones included. */
const isAlwaysThere = (field: DescField): boolean =>
  field.fieldKind === 'list' || (!field.message && !field.proto.proto3Optional && field.oneof === undefined);

function schemaOfField(field: DescField): JsonSchema {
  const one = schemaOfValue(field);
  if (field.fieldKind === 'list') return { type: 'array', items: one };
  return field.message && !isWellKnown(field.message) ? described(field.message.name) : one;
}

function schemaOfValue({ enum: states, message, scalar }: DescField): JsonSchema {
  if (states) return { type: 'string', enum: ['UNSPECIFIED', ...namesOf(states)] };
  if (message) {
    if (!isWellKnown(message)) return { $ref: `${message.name}#` };
    if (message.typeName === 'google.protobuf.Timestamp') return { type: 'string', format: 'date-time' };
    if (message.typeName === 'google.protobuf.Duration') return { type: 'string' };
    return { type: 'object', additionalProperties: true };
  }
  if (scalar === ScalarType.BOOL) return { type: 'boolean' };
  if (scalar === ScalarType.STRING || scalar === ScalarType.BYTES) return { type: 'string' };
  return { type: scalar === ScalarType.DOUBLE || scalar === ScalarType.FLOAT ? 'number' : 'integer' };
}
