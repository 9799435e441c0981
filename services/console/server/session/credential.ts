import type { FastifyReply, FastifyRequest } from 'fastify';

/** What a request acts with. The console passes the token on and decides nothing by it. */
export interface Credential {
  readonly token: string;
  /** Where it came from. */
  readonly source: 'header' | 'session';
}

/**
 * The credential of a request: the bearer token of its `authorization` header, else that of its session. Undefined where
 * it has neither. `reply` is there for a session that is renewed on the way.
 */
export type CredentialOf = (request: FastifyRequest, reply: FastifyReply) => Promise<Credential | undefined>;

/**
 * The bearer token of the `authorization` header; undefined without that header. A header of another scheme gives its
 * whole value, which the services refuse as TOKEN_INVALID.
 */
export function credentialOfHeader(request: FastifyRequest): Credential | undefined {
  const { authorization } = request.headers;
  if (authorization === undefined) return undefined;
  return { token: authorization.replace(/^bearer +/i, ''), source: 'header' };
}
