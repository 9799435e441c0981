import { hash } from 'node:crypto';
import rateLimit from '@fastify/rate-limit';
import swagger from '@fastify/swagger';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { Logger } from '#libs/telemetry/logger.ts';
import type { Upstreams } from '../connect-upstreams.ts';
import { type ErrorBody, toErrorBody } from '../error-body.ts';
import { registerDeletionRoutes } from './deletion-routes.ts';
import { registerIncidentRoutes } from './incident-routes.ts';
import { registerJobRoutes } from './job-routes.ts';
import { addSchemas, deletionLocation, purgeLocation } from './responses.ts';
import { toRestError } from './rest-error.ts';
import { registerRetentionRoutes } from './retention-routes.ts';
import { makeCallService, type RestScope, tokenMissing } from './route-parts.ts';
import { registerRunRoutes } from './run-routes.ts';
import { compileValidator } from './validate-request.ts';

/** What the REST routes work with. */
export interface RestOptions {
  readonly upstreams: Upstreams;
  readonly log: Logger;
  readonly requestsPerMinute: number;
  readonly purgeWaitMs: number;
  /** The cookie of a session, for the description. */
  readonly sessionCookieName: string;
  /** Sends the page to a browser that asks for one; undefined where it did not. */
  readonly sendPage: (request: FastifyRequest, reply: FastifyReply) => Promise<FastifyReply> | undefined;
}

const DESCRIPTION = `The REST routes of Lethe. Every request carries a bearer token or the cookie of a session. Its role and
scopes decide what it may do, and its tenant decides what there is. An error has the body \`{"error": {"code", "message"}}\`, with \`reason\`,
\`metadata\` and \`fields\` where there is more to say. \`x-request-id\` names a request in all logs.`;

const TAGS = [
  { name: 'runs', description: 'Workflow runs, and their deletion.' },
  { name: 'jobs', description: 'Transcription jobs, and their deletion.' },
  { name: 'deletions', description: 'The receipts of deletions.' },
  { name: 'incidents', description: 'Incidents and environments.' },
  { name: 'retention', description: 'How long a tenant keeps what, and purges by age.' },
];

/** Registers every REST route, and /openapi.json, which describes them. `request.credential` must have been set by then. */
export async function registerRest(app: FastifyInstance, options: RestOptions): Promise<void> {
  const { upstreams, requestsPerMinute, purgeWaitMs, sessionCookieName } = options;
  const scope = app as unknown as RestScope;
  await app.register(swagger, {
    hideUntagged: true,
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Lethe', version: '1', description: DESCRIPTION },
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'A token of a trusted issuer.' },
          cookie: {
            type: 'apiKey',
            in: 'cookie',
            name: sessionCookieName,
            description:
              'The session of somebody who signed in at `/auth/sign-in`. A request that changes something must then come ' +
              "from the console's own page.",
          },
        },
      },
      security: [{ bearer: [] }, { cookie: [] }],
      tags: TAGS,
    },
    refResolver: { buildLocalReference: ({ $id }, _base, _fragment, index) => String($id ?? `def-${index}`) },
  });
  await app.register(rateLimit, {
    max: requestsPerMinute,
    timeWindow: 60_000,
    keyGenerator: ({ credential, ip }) => (credential ? hash('sha256', credential.token) : ip),
    errorResponseBuilder: (_request, { ttl }) => new RateLimited(requestsPerMinute, ttl),
  });
  scope.setValidatorCompiler(compileValidator);
  // An answer is sent as it is made; that it is as described is for the tests.
  scope.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.setErrorHandler((error, request, reply) => sendError(error, request, reply, options.log));
  acceptJsonAlone(app);

  const methods = new Map<string, Set<string>>();
  app.addHook('onRoute', ({ url, method, schema }) => {
    if (!schema?.tags) return;
    const known = methods.get(url) ?? new Set();
    methods.set(url, known);
    for (const one of [method].flat()) known.add(one);
  });
  // Before a request is looked at in detail.
  app.addHook('preValidation', async (request) => {
    if (request.routeOptions.schema?.tags && !request.credential) throw tokenMissing();
  });
  addSchemas(scope);
  const call = makeCallService(upstreams);
  registerRunRoutes(scope, call, purgeWaitMs);
  registerJobRoutes(scope, call);
  registerIncidentRoutes(scope, call);
  registerRetentionRoutes(scope, call);
  registerDeletionRoutes(scope, call);
  for (const [url, known] of methods) refuseOtherMethods(app, url, known, options.sendPage);

  let document: object | undefined;
  app.get('/openapi.json', (_request, reply) => {
    document ??= withOptionalBodies(app.swagger());
    return reply.header('cache-control', 'no-cache').send(document);
  });
}

/** More requests than are allowed. */
class RateLimited extends Error {
  readonly statusCode = 429;
  readonly body: ErrorBody;

  constructor(perMinute: number, waitMs: number) {
    super('too many requests');
    const message = `More than ${perMinute} requests a minute; try again in ${Math.ceil(waitMs / 1_000)} s.`;
    this.body = toErrorBody('RATE_LIMITED', message, { metadata: { requests_per_minute: String(perMinute) } });
  }
}

// What Fastify refuses by itself, by its status.
const REASON_OF_STATUS: Readonly<Record<number, readonly [reason: string, message: string]>> = {
  400: ['BODY_INVALID', 'The body must be one JSON object, as long as Content-Length says.'],
  413: ['BODY_TOO_LARGE', 'The body is larger than 64 KiB.'],
  415: ['MEDIA_TYPE_UNSUPPORTED', 'A body must be JSON, with Content-Type application/json.'],
};

function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply, log: Logger): FastifyReply {
  if (error instanceof RateLimited) return reply.code(429).send(error.body);
  const { statusCode, cause } = error as FastifyError & { cause?: unknown };
  const refused = statusCode === undefined || error instanceof DomainError ? undefined : REASON_OF_STATUS[statusCode];
  if (refused) return reply.code(statusCode as number).send(toErrorBody(...refused));
  const { status, body, retryAfterSeconds } = toRestError(statusCode === 412 ? cause : error);
  if (status >= 500 && status !== 503) {
    log.error({ err: error, requestId: request.id, route: request.routeOptions.url }, 'request failed');
    if (!('reason' in body.error) || body.error.reason === 'UNKNOWN' || body.error.reason === 'INTERNAL') {
      const message = `Something went wrong inside; it was logged as ${request.id}.`;
      return reply.code(500).send(toErrorBody('INTERNAL', message, { metadata: { incident_id: request.id } }));
    }
  }
  if (status === 401) reply.header('www-authenticate', 'Bearer');
  if (retryAfterSeconds !== undefined) reply.header('retry-after', retryAfterSeconds);
  const { reason, metadata } = body.error;
  if (reason === 'OPERATION_IN_PROGRESS' && metadata?.operation_id) {
    const locationOf = request.routeOptions.url?.endsWith('/retention/purge') ? purgeLocation : deletionLocation;
    reply.header('location', locationOf(metadata.operation_id));
  }
  return reply.code(statusCode === 412 ? 412 : status).send(body);
}

/** Takes JSON and nothing else. A client that sets Content-Type on a DELETE without a body means no body. */
function acceptJsonAlone(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, text, done) => {
    if (text === '') return done(null, undefined);
    const refuse = (): void => done(Object.assign(new Error('the body is no object'), { statusCode: 400 }), undefined);
    try {
      const body: unknown = JSON.parse(String(text));
      // Fastify's own null stands for no body.
      if (body === null) return refuse();
      done(null, body);
    } catch {
      refuse();
    }
  });
}

/** Answers 405 with the methods that there are, rather than 404, which would say that there is no such thing. */
function refuseOtherMethods(
  app: FastifyInstance,
  url: string,
  known: ReadonlySet<string>,
  sendPage: RestOptions['sendPage'],
): void {
  const allow = [...known].toSorted().join(', ');
  const others = (app.supportedMethods as HTTPMethods[]).filter((method) => !known.has(method));
  app.route({
    url,
    method: others,
    // Before the body is read, which may be anything.
    onRequest: async (request, reply) => {
      const page = sendPage(request, reply);
      if (page) return page;
      const message = `${request.method} is not possible here; allowed: ${allow}.`;
      const body = toErrorBody('METHOD_NOT_ALLOWED', message, { metadata: { allow } });
      return reply.header('allow', allow).code(405).send(body);
    },
    handler: (_request, reply) => reply,
  });
}

interface Document {
  readonly paths?: Readonly<Record<string, Readonly<Record<string, { requestBody?: { required?: boolean } }>>>>;
}

/** Every body but that of PUT may be left out, which a route's schema cannot say. */
function withOptionalBodies(document: object): object {
  const copy = structuredClone(document) as Document;
  for (const path of Object.values(copy.paths ?? {})) {
    for (const [method, { requestBody }] of Object.entries(path)) {
      if (requestBody && method !== 'put') requestBody.required = false;
    }
  }
  return copy;
}
