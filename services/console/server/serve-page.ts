import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fastifyStatic from '@fastify/static';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { toErrorBody } from './error-body.ts';

// Everything that is no page: an unknown path below these is an unknown path, and not a place in the page.
const MACHINE_PATHS = /^\/(api|v1|rpc|orgs|auth|assets|openapi\.json|healthz|ready|metrics)(\/|$)/;

/** Sends index.html to a browser that asks for a page; undefined where the request is for something else. */
export type SendPage = (request: FastifyRequest, reply: FastifyReply) => Promise<FastifyReply> | undefined;

/** Where index.html has the nonce of its inline styles. */
export const NONCE_PLACE = '__CSP_NONCE__';

/**
 * Serves the built page, with its compressed files where there are any. A path that is neither a file nor a route gets
 * index.html where a browser asks for a page, since the page has routes of its own, and 404/ROUTE_NOT_FOUND otherwise.
 */
export async function servePage(app: FastifyInstance, pageFolder: string): Promise<SendPage> {
  await app.register(fastifyStatic, {
    root: pageFolder,
    // index.html is made for each request.
    index: false,
    wildcard: true,
    preCompressed: true,
    suppressWarning: true,
    cacheControl: false,
    setHeaders(reply, path) {
      // Names below assets/ carry a digest of what they hold.
      const isForever = path.includes('/assets/');
      reply.header('cache-control', isForever ? 'public, max-age=31536000, immutable' : 'no-cache');
    },
  });
  app.get('/', (_request, reply) => sendIndex(reply, pageFolder));
  app.get('/index.html', (_request, reply) => sendIndex(reply, pageFolder));
  app.setNotFoundHandler((request, reply) => {
    if (isForPage(request)) return sendIndex(reply, pageFolder);
    const path = request.url.split('?', 1)[0] ?? '';
    const message = `There is no ${request.method} ${path}; /openapi.json lists the routes.`;
    return reply.code(404).send(toErrorBody('ROUTE_NOT_FOUND', message));
  });
  return (request, reply) => (isForPage(request) ? sendIndex(reply, pageFolder) : undefined);
}

const isForPage = ({ method, url, headers }: FastifyRequest): boolean =>
  (method === 'GET' || method === 'HEAD') && /text\/html/.test(headers.accept ?? '') && !MACHINE_PATHS.test(url);

async function sendIndex(reply: FastifyReply, pageFolder: string): Promise<FastifyReply> {
  const index = await readFile(join(pageFolder, 'index.html'), 'utf8').catch(() => undefined);
  if (index === undefined) {
    const message = 'The page is not built on this server. Run `npm run prepare` and reload.';
    return reply.code(503).send(toErrorBody('PAGE_NOT_BUILT', message));
  }
  const nonce = (reply as FastifyReply & { cspNonce?: { style: string } }).cspNonce?.style ?? '';
  return reply
    .header('cache-control', 'no-cache')
    .type('text/html; charset=utf-8')
    .send(index.replaceAll(NONCE_PLACE, nonce));
}
