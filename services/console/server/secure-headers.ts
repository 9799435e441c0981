import helmet from '@fastify/helmet';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { toErrorBody } from './error-body.ts';

const YEAR_SECONDS = 365 * 86_400;

/**
 * Gives every answer the headers that keep a browser from doing what the page does not need, errors and files included;
 * register it before all routes and hooks.
 *
 * The content policy allows scripts and styles of the console itself, and inline styles that carry the nonce of the
 * answer, which is another for each: `reply.cspNonce.style`. servePage puts it where index.html has `__CSP_NONCE__`, and
 * the page hands it to Mantine (`getStyleNonce`), whose `<style>` elements need it. There are no inline scripts, no
 * frames and no other hosts. Style attributes that React sets are no inline styles for a browser.
 */
export async function secureHeaders(app: FastifyInstance, { isHttps }: { isHttps: boolean }): Promise<void> {
  await app.register(helmet, {
    enableCSPNonces: true,
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'"],
        imgSrc: ["'self'", 'data:'],
        fontSrc: ["'self'"],
        connectSrc: ["'self'"],
        manifestSrc: ["'self'"],
        baseUri: ["'none'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
        ...(isHttps ? { upgradeInsecureRequests: [] } : {}),
      },
    },
    referrerPolicy: { policy: 'no-referrer' },
    frameguard: { action: 'deny' },
    strictTransportSecurity: isHttps ? { maxAge: YEAR_SECONDS, includeSubDomains: false } : false,
  });
  // What is answered is some tenant's, unless whoever answers knows better, as for the files of the page.
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store');
  });
}

const BARE_HEADERS = {
  'content-security-policy': "default-src 'none';frame-ancestors 'none'",
  'x-frame-options': 'DENY',
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
} as const;

/**
 * Answers a request whose path cannot be read. It reaches no route and no hook, so its headers are set here: Fastify's
 * `frameworkErrors`.
 */
export function answerUnreadablePath(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const message = 'The path of this request cannot be read. Check its escapes and its length.';
  reply
    .code(error.statusCode ?? 400)
    .headers({ ...BARE_HEADERS, 'x-request-id': request.id })
    .send(toErrorBody('PATH_INVALID', message));
}
