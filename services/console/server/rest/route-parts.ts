import type { DescEnum } from '@bufbuild/protobuf';
import type { CallOptions } from '@connectrpc/connect';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyRequest,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import { Type } from 'typebox';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { DomainError, fieldInvalid } from '#libs/kernel/domain-error.ts';
import type { UpstreamClients, UpstreamName, Upstreams } from '../connect-upstreams.ts';
import { tellUpstreamError } from '../upstream-error.ts';
import { namesOf } from './json-of-message.ts';

/** The scope in which the REST routes are registered. */
export type RestScope = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

/** Makes the call to one service with the caller's own token, and tells its error as the caller gets to know it. */
export type CallService = <Name extends UpstreamName, Answer>(
  request: FastifyRequest,
  name: Name,
  call: (client: UpstreamClients[Name], options: CallOptions) => Promise<Answer>,
) => Promise<Answer>;

const CALL_TIMEOUT_MS = 25_000;

/** Makes CallService. UNAUTHENTICATED/TOKEN_MISSING for a request without a credential. */
export const makeCallService =
  (upstreams: Upstreams): CallService =>
  async (request, name, call) => {
    const { credential, id } = request;
    if (!credential) throw tokenMissing();
    const options = { signal: request.signal, timeoutMs: CALL_TIMEOUT_MS, headers: { 'x-request-id': id } };
    try {
      return await call(upstreams.clients(credential.token)[name], options);
    } catch (error) {
      throw tellUpstreamError(name, error);
    }
  };

/** UNAUTHENTICATED/TOKEN_MISSING, as the services say it. */
export const tokenMissing = (): DomainError =>
  new DomainError('unauthenticated', 'TOKEN_MISSING', 'The call has no bearer token.');

/** A UUID in a path. */
export const Id = (description: string) => Type.String({ format: 'uuid', description });

/** The tenant in a path. */
export const OrgId = Type.String({
  pattern: '^[a-z0-9][a-z0-9-]{0,62}$',
  description: 'The tenant: 1 to 63 of a-z, 0-9 and -, not starting with -.',
});

/** The query of a list, with more properties. */
export const listQuery = <Properties extends Record<string, ReturnType<typeof Type.String> | object>>(
  properties: Properties,
) =>
  Type.Object(
    {
      page_size: Type.Optional(
        Type.Integer({
          minimum: 0,
          maximum: 2_147_483_647,
          description: 'How many at most: 1 to 200, or 0 for 50; more counts as 200.',
        }),
      ),
      page_token: Type.Optional(
        Type.String({ maxLength: 2_000, description: 'next_page_token of the page before, for the same filter.' }),
      ),
      ...properties,
    },
    { additionalProperties: false },
  );

/** Why, for the audit: no control characters, and something before the first space. */
export const Reason = Type.String({
  minLength: 1,
  maxLength: 500,
  pattern: '^[^\\u0000-\\u0020\\u007f][^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f]*$',
  description: 'Why, for the audit.',
});

/** Headers that say why something is deleted, and by which a repetition is recognised. */
export const DeleteHeaders = Type.Object({
  'x-delete-reason': Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 500,
      description: 'Why, for the audit. A `reason` in the body goes before it. UTF-8.',
    }),
  ),
  'idempotency-key': Type.Optional(
    Type.String({ format: 'uuid', description: 'The same one with the same request answers with the same deletion.' }),
  ),
});

/** A body that says why. */
export const ReasonBody = Type.Object({ reason: Type.Optional(Reason) }, { additionalProperties: false });

/** Why something is deleted, as body or header say; empty where neither does. */
export function reasonOf(
  headers: { 'x-delete-reason'?: string },
  body: { reason?: string } | null | undefined,
): string {
  if (body?.reason !== undefined) return body.reason;
  // Node.js reads headers as Latin-1.
  return Buffer.from(headers['x-delete-reason'] ?? '', 'latin1').toString('utf8');
}

/** An instant as a query gives it, for a message; nothing for nothing. */
export function toInstant(field: string, text: string | undefined): ReturnType<typeof toTimestamp> | undefined {
  if (text === undefined) return undefined;
  try {
    return toTimestamp(Temporal.Instant.from(text));
  } catch {
    throw fieldInvalid(field, 'must be an instant in RFC 3339, such as 2026-01-31T12:00:00Z');
  }
}

/** How much of each resource an answer holds. */
export const viewQuery = (view: DescEnum, leftOut: string, byDefault: 'BASIC' | 'FULL') => ({
  view: Type.Optional(
    Type.Enum(namesOf(view), { description: `BASIC leaves out ${leftOut}; FULL has all. By default ${byDefault}.` }),
  ),
});
