import type { FastifyInstance } from 'fastify';
import { toErrorBody } from '../error-body.ts';
import { type CredentialOf, credentialOfHeader } from './credential.ts';

/** Registers the routes of the session, and returns how the credential of a request is found. */
export async function registerSession(app: FastifyInstance): Promise<CredentialOf> {
  app.get('/api/session', (_request, reply) => reply.code(401).send(toErrorBody('SIGNED_OUT', 'Nobody is signed in.')));
  return async (request) => credentialOfHeader(request);
}
