import type { FastifySchemaCompiler } from 'fastify';
import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { type FieldViolation, fieldsInvalid } from '#libs/kernel/domain-error.ts';

interface ObjectSchema {
  readonly properties?: Readonly<Record<string, { readonly type?: string; readonly enum?: readonly string[] }>>;
}

/**
 * Validates each part of a request by its schema and reports all wrong fields together as FIELD_INVALID. Text becomes a
 * number or a truth value in the query alone, and only where it is exactly one; a body is taken as it stands.
 */
export const compileValidator: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const validator = Compile(schema);
  const { properties = {} } = schema as ObjectSchema;
  return (data: unknown) => {
    // No body is no wrong body; a route that needs one says so itself.
    if (httpPart === 'body' && (data === undefined || data === null)) return { value: undefined };
    const value = httpPart === 'querystring' ? readQuery(properties, data as Record<string, unknown>) : data;
    if (validator.Check(value)) return { value };
    return { error: fieldsInvalid(violationsOf(validator.Errors(value), properties, httpPart)) };
  };
};

function readQuery(properties: ObjectSchema['properties'] = {}, query: Readonly<Record<string, unknown>>) {
  return Object.fromEntries(
    Object.entries(query).map(([name, value]) => {
      const type = Object.hasOwn(properties, name) ? properties[name]?.type : undefined;
      if (type === 'integer' && typeof value === 'string' && /^-?\d{1,15}$/.test(value)) return [name, Number(value)];
      if (type === 'boolean' && (value === 'true' || value === 'false')) return [name, value === 'true'];
      return [name, value];
    }),
  );
}

interface ValidationError {
  readonly keyword: string;
  readonly instancePath: string;
  readonly message: string;
  readonly params: object;
}

function violationsOf(
  errors: readonly ValidationError[],
  properties: NonNullable<ObjectSchema['properties']>,
  httpPart: string | undefined,
): FieldViolation[] {
  const violations = new Map<string, string>();
  const add = (field: string, description: string): void => {
    if (!violations.has(field)) violations.set(field, description);
  };
  for (const { keyword, instancePath, message, params } of errors) {
    const path = instancePath.slice(1).replaceAll('/', '.');
    const unknown = 'additionalProperties' in params ? (params.additionalProperties as readonly string[]) : [];
    for (const name of unknown) {
      const known = Object.keys(properties).join(', ');
      const place = path === '' ? name : `${path}.${name}`;
      add(place, httpPart === 'querystring' ? `is not a parameter; known are ${known || 'none'}` : 'is not known');
    }
    // What is wrong with an unknown property by itself says nothing.
    if (unknown.length > 0 || keyword === 'boolean') continue;
    const { format } = params as { format?: string };
    const { allowedValues } = params as { allowedValues?: readonly unknown[] };
    const needed = 'requiredProperties' in params ? (params.requiredProperties as readonly string[]) : [];
    for (const name of needed) add(path === '' ? name : `${path}.${name}`, 'is required');
    if (needed.length > 0) continue;
    add(
      path === '' ? (httpPart ?? 'request') : path,
      format === 'uuid' ? 'must be a UUID' : allowedValues ? `must be one of ${allowedValues.join(', ')}` : message,
    );
  }
  return [...violations].map(([field, description]) => ({ field, description }));
}
