import { randomUUID } from 'node:crypto';
import Fastify, { type FastifyInstance } from 'fastify';
import type { Logger } from '#libs/telemetry/logger.ts';
import type { Metrics } from '#libs/telemetry/metrics.ts';
import type { ConsoleSettings } from './config.ts';
import type { Upstreams } from './connect-upstreams.ts';
import { observeRequests } from './observe-requests.ts';
import { refuseCrossSite } from './refuse-cross-site.ts';
import { registerRest } from './rest/register-rest.ts';
import { proxyRpcs } from './rpc-proxy.ts';
import { answerUnreadablePath, secureHeaders } from './secure-headers.ts';
import { servePage } from './serve-page.ts';
import type { Credential } from './session/credential.ts';
import { registerSession } from './session/register-session.ts';
import { sessionCookieName } from './session/session-cookies.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** What the request acts with; undefined where it has no credential, and outside of /rpc and the REST routes. */
    credential: Credential | undefined;
  }
}

/** What the server is made of. */
export interface ServerParts {
  readonly settings: ConsoleSettings;
  readonly upstreams: Upstreams;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Whether `/ready` answers 200. */
  readonly isReady: () => boolean;
}

const MAX_BODY_BYTES = 64 * 1_024;
// Of what is longer a route would not be found; the id is what is wrong.
const MAX_PARAMETER_LENGTH = 8_192;
// For a request to arrive whole; an answer may take as long as a watch lasts.
const REQUEST_TIMEOUT_MS = 30_000;
const KEEP_ALIVE_MS = 75_000;

/** Builds the HTTP server: page, session, RPCs and REST routes. It does not listen yet. */
export async function makeServer(parts: ServerParts): Promise<FastifyInstance> {
  const { settings, upstreams, metrics, log, isReady } = parts;
  const app = Fastify({
    logger: false,
    bodyLimit: MAX_BODY_BYTES,
    routerOptions: { maxParamLength: MAX_PARAMETER_LENGTH },
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    forceCloseConnections: 'idle',
    trustProxy: settings.trustedProxies ?? false,
    frameworkErrors: answerUnreadablePath,
    genReqId: ({ headers }) => toRequestId(headers['x-request-id']),
  });
  app.decorateRequest('credential', undefined);
  const isHttps = settings.publicUrl?.startsWith('https:') ?? false;
  await secureHeaders(app, { isHttps });
  observeRequests(app, { metrics, log });
  refuseCrossSite(app, settings.publicUrl);

  app.get('/healthz', (_request, reply) => reply.send({ status: 'ok' }));
  app.get('/ready', (_request, reply) =>
    reply.code(isReady() ? 200 : 503).send({ status: isReady() ? 'ready' : 'stopping' }),
  );
  const credentialOf = await registerSession(app, settings.signIn, log);
  const sendPage = await servePage(app, settings.pageFolder);
  await app.register(async (scope) => {
    scope.addHook('onRequest', async (request) => {
      request.credential = credentialOf(request);
    });
    await proxyRpcs(scope, { upstreams, metrics, drainMs: settings.drainMs });
    await scope.register(async (rest) => {
      const { requestsPerMinute, purgeWaitMs } = settings;
      await registerRest(rest, {
        upstreams,
        log,
        requestsPerMinute,
        purgeWaitMs,
        sessionCookieName: sessionCookieName(isHttps),
        sendPage,
      });
    });
  });
  return app;
}

/** The id that a caller or a proxy gave the request, or a new one where there is none that fits into a log line. */
const toRequestId = (given: string | string[] | undefined): string =>
  typeof given === 'string' && /^[\w.-]{1,100}$/.test(given) ? given : randomUUID();
