import type { FastifyInstance, FastifyRequest } from 'fastify';
import { toErrorBody } from './error-body.ts';

const SAFE_METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS']);

/**
 * Refuses what another site makes a signed-in browser send: a state-changing request without `authorization` that does
 * not come from the console's own origin gets 403/CROSS_SITE. A request without Sec-Fetch-Site and Origin comes from no
 * browser of today and passes.
 */
export function refuseCrossSite(app: FastifyInstance, publicUrl: string | undefined): void {
  app.addHook('onRequest', async (request, reply) => {
    if (SAFE_METHODS.has(request.method) || request.headers.authorization !== undefined) return;
    if (isSameSite(request, publicUrl)) return;
    const message = 'This request was sent by another site, or by a page of an older session. Reload the console.';
    await reply.code(403).send(toErrorBody('CROSS_SITE', message));
  });
}

function isSameSite(request: FastifyRequest, publicUrl: string | undefined): boolean {
  const site = request.headers['sec-fetch-site'];
  if (site !== undefined) return site === 'same-origin' || site === 'none';
  const { origin } = request.headers;
  if (origin === undefined) return true;
  if (publicUrl !== undefined) return origin === publicUrl;
  return URL.canParse(origin) && new URL(origin).host === request.host;
}
