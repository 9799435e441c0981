import type { FastifyRequest } from 'fastify';

/** What a request acts with. The console passes the token on and decides nothing by it. */
export interface Credential {
  readonly token: string;
  /** Where it came from. */
  readonly source: 'header' | 'session';
}

/**
 * The credential of a request: the bearer token of its `authorization` header, else that of its session. Undefined where
 * it has neither. The token may have expired.
 */
export type CredentialOf = (request: FastifyRequest) => Credential | undefined;

/**
 * The bearer token of the `authorization` header; undefined without that header. A header of another scheme gives its
 * whole value, which the services refuse as TOKEN_INVALID.
 */
export function credentialOfHeader(request: FastifyRequest): Credential | undefined {
  const { authorization } = request.headers;
  if (authorization === undefined) return undefined;
  return { token: authorization.replace(/^bearer +/i, ''), source: 'header' };
}
