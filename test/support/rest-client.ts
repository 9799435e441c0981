import { Compile } from 'typebox/compile';

/** What a route answered. */
export interface RestAnswer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests read what they expect.
  readonly body: any;
  /** In what the answer is not as /openapi.json describes it. */
  readonly deviations: readonly string[];
}

/** A request, as far as it differs from one without query, headers and body. */
export interface RestRequest {
  readonly token?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

/** Calls the REST routes of a console and compares each answer with what it documents. */
export interface RestClient {
  ask(method: string, path: string, request?: RestRequest): Promise<RestAnswer>;
  /** Operations and their statuses that were answered so far, as `deleteRun 204`. */
  readonly seen: ReadonlySet<string>;
  /** Every route that is documented, with its statuses. */
  readonly routes: readonly {
    readonly method: string;
    /** With its parameters in braces. */
    readonly path: string;
    readonly operationId: string;
    readonly statuses: readonly string[];
  }[];
}

interface Operation {
  readonly operationId: string;
  readonly responses: Readonly<Record<string, { content?: { 'application/json'?: { schema: object } } }>>;
}

interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, object>> };
}

/** Makes a client for the console at `url`. */
export async function makeRestClient(url: string): Promise<RestClient> {
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as Document;
  const routes = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => ({
      method: method.toUpperCase(),
      path,
      pattern: new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/]+')}$`),
      operation,
    })),
  );
  const seen = new Set<string>();
  const compiled = new Map<string, ReturnType<typeof Compile>>();
  const validatorOf = (key: string, schema: object): ReturnType<typeof Compile> => {
    const known = compiled.get(key) ?? Compile(resolved(schema, document.components.schemas) as never);
    compiled.set(key, known);
    return known;
  };
  return {
    seen,
    routes: routes.map(({ method, path, operation: { operationId, responses } }) => ({
      method,
      path,
      operationId,
      statuses: Object.keys(responses),
    })),
    async ask(method, path, { token, headers = {}, body } = {}) {
      const response = await fetch(url + path, {
        method,
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      });
      const text = await response.text();
      const answered = text === '' ? undefined : JSON.parse(text);
      const { pathname } = new URL(url + path);
      const route = routes.find((one) => one.method === method && one.pattern.test(pathname));
      const deviations: string[] = [];
      if (route) {
        const { operationId, responses } = route.operation;
        const key = `${operationId} ${response.status}`;
        seen.add(key);
        const documented = responses[response.status];
        const schema = documented?.content?.['application/json']?.schema;
        if (!documented) deviations.push(`${key} is not documented`);
        else if (!schema && text !== '') deviations.push(`${key} has a body`);
        else if (schema) {
          const validator = validatorOf(key, schema);
          if (!validator.Check(answered)) {
            deviations.push(
              ...validator.Errors(answered).map((error) => `${key}${error.instancePath} ${error.message}`),
            );
          }
        }
      }
      return { status: response.status, headers: response.headers, body: answered, deviations };
    },
  };
}

/** A schema with what it refers to in place. */
function resolved(schema: unknown, schemas: Document['components']['schemas']): unknown {
  if (Array.isArray(schema)) return schema.map((item) => resolved(item, schemas));
  if (typeof schema !== 'object' || schema === null) return schema;
  const { $ref } = schema as { $ref?: string };
  if ($ref !== undefined) {
    const target = schemas[$ref.replace('#/components/schemas/', '')];
    if (!target) throw new Error(`/openapi.json refers to ${$ref}, which it does not have`);
    return resolved(target, schemas);
  }
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, resolved(value, schemas)]));
}
