import type { FastifyReply } from 'fastify';
import { Type } from 'typebox';
import {
  type ExecutionPolicy,
  ExecutionPolicySchema,
  RetentionPurgeItemSchema,
  RetentionPurgeSchema,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { ResolveRetentionResponseSchema } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { optional } from '#libs/grpc/optional.ts';
import { DomainError, fieldInvalid } from '#libs/kernel/domain-error.ts';
import { described, jsonOfMessage } from './json-of-message.ts';
import { accepted, answer, NoQuery, ofParts, purgeLocation, responsesWith } from './responses.ts';
import { reasonOfError } from './rest-error.ts';
import { type CallService, Id, OrgId, Reason, type RestScope } from './route-parts.ts';

const OrgParams = Type.Object({ orgId: OrgId });
const POLICY = '/orgs/:orgId/retention/policies/executions';
const EtagHeader = { ETag: { type: 'string', description: 'Changes with every change of the policy.' } };
const IfMatch = Type.Object({
  'if-match': Type.Optional(
    Type.String({ minLength: 1, maxLength: 100, description: 'Only if the policy still has this etag; `*`: any.' }),
  ),
});

/** Registers the routes of retention. A tenant that the caller may not name is answered as one that nobody knows. */
export function registerRetentionRoutes(scope: RestScope, call: CallService): void {
  scope.post(
    '/orgs/:orgId/retention/purge',
    {
      schema: {
        operationId: 'purgeNow',
        summary: 'Purge now what the tenant no longer keeps',
        description:
          'Sets going what the nightly purge does, for this tenant alone. `Location` is the purge, which tells how it goes. ' +
          'Scope `retention:purge`, role admin.',
        tags: ['retention'],
        params: OrgParams,
        querystring: NoQuery,
        headers: Type.Object({
          'idempotency-key': Type.Optional(
            Type.String({
              format: 'uuid',
              description: 'The same one with the same request answers with the same purge.',
            }),
          ),
        }),
        body: Type.Object(
          {
            reason: Type.Optional(Reason),
            validate_only: Type.Optional(Type.Boolean({ description: 'Count, and remove nothing.' })),
          },
          { additionalProperties: false },
        ),
        response: responsesWith(
          {
            202: accepted(
              ofParts({
                purge: described('RetentionPurge', 'The purge.'),
                item: described('RetentionPurgeItem', "The tenant's part of it."),
              }),
              "The purge is set going; `item` is the tenant's part.",
            ),
          },
          [404, 409, 413, 415],
        ),
      },
    },
    async (request, reply) => {
      const { reason = '', validate_only: validateOnly = false } = request.body ?? {};
      const requestId = request.headers['idempotency-key'] ?? '';
      const { purge, item } = await ofOrg(
        call(request, 'retention', (retention, options) =>
          retention.purgeNow({ tenantId: request.params.orgId, reason, validateOnly, requestId }, options),
        ),
      );
      return reply
        .header('location', purgeLocation(purge?.id ?? ''))
        .code(202)
        .send({
          purge: purge && jsonOfMessage(RetentionPurgeSchema, purge),
          item: item && jsonOfMessage(RetentionPurgeItemSchema, item),
        });
    },
  );

  scope.get(
    '/api/v1/retention/purges/:purge_id',
    {
      schema: {
        operationId: 'getPurge',
        summary: 'Get a retention purge',
        description: "A tenant's own people see their part of it alone, up to 200 tenants. Scope `retention:read`.",
        tags: ['retention'],
        params: Type.Object({ purge_id: Id('The purge.') }),
        querystring: NoQuery,
        response: responsesWith(
          {
            200: {
              description: 'The purge.',
              ...ofParts({
                purge: described('RetentionPurge', 'The purge itself.'),
                items: {
                  type: 'array',
                  description: 'Its tenants, as far as the caller may see them.',
                  items: { $ref: 'RetentionPurgeItem#' },
                },
              }),
            },
          },
          [404],
        ),
      },
    },
    async (request, reply) => {
      const { purge_id: purgeId } = request.params;
      const { purge, items } = await call(request, 'retention', (retention, options) =>
        retention.getPurge({ purgeId, pageSize: 200 }, options),
      );
      return reply.send({
        purge: purge && jsonOfMessage(RetentionPurgeSchema, purge),
        items: items.map((item) => jsonOfMessage(RetentionPurgeItemSchema, item)),
      });
    },
  );

  scope.get(
    '/orgs/:orgId/retention',
    {
      schema: {
        operationId: 'getRetention',
        summary: 'Tell how long the tenant keeps what',
        description: 'The windows in force, and where each comes from. Scope `retention:read`.',
        tags: ['retention'],
        params: OrgParams,
        querystring: NoQuery,
        response: responsesWith({ 200: answer('ResolveRetentionResponse', 'The windows.') }, [404]),
      },
    },
    async (request, reply) => {
      const resolved = await ofOrg(
        call(request, 'retention', (retention, options) =>
          retention.resolveRetention({ tenantId: request.params.orgId }, options),
        ),
      );
      return reply.send(jsonOfMessage(ResolveRetentionResponseSchema, resolved));
    },
  );

  scope.get(
    POLICY,
    {
      schema: {
        operationId: 'getExecutionPolicy',
        summary: "Get the tenant's policy for executions",
        description: 'Without a policy every execution is kept. Scope `retention:read`.',
        tags: ['retention'],
        params: OrgParams,
        querystring: NoQuery,
        response: responsesWith({ 200: answer('ExecutionPolicy', 'The policy.', EtagHeader) }, [404]),
      },
    },
    async (request, reply) => {
      const { executionPolicy } = await call(request, 'retention', (retention, options) =>
        retention.getExecutionPolicy({ tenantId: request.params.orgId }, options),
      );
      return sendPolicy(reply, executionPolicy);
    },
  );

  scope.put(
    POLICY,
    {
      schema: {
        operationId: 'putExecutionPolicy',
        summary: "Create or replace the tenant's policy for executions",
        description: 'What the body leaves out has its default. Scope `retention:write`, role admin.',
        tags: ['retention'],
        params: OrgParams,
        querystring: NoQuery,
        headers: IfMatch,
        body: Type.Object(
          {
            retention_days: Type.Optional(
              Type.Integer({ minimum: 1, maximum: 36_500, default: 90, description: 'The window in days.' }),
            ),
            is_enabled: Type.Optional(
              Type.Boolean({ default: true, description: 'Whether executions are removed at all.' }),
            ),
            min_executions_to_keep: Type.Optional(
              Type.Integer({
                minimum: 0,
                maximum: 1_000_000_000,
                default: 100,
                description: 'How many of the newest stay whatever their age.',
              }),
            ),
            stale_after_days: Type.Optional(
              Type.Integer({
                minimum: 0,
                maximum: 36_500,
                default: 30,
                description: 'A running execution stays until it has been expired for so many days.',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: responsesWith(
          { 200: answer('ExecutionPolicy', 'The policy as it is now.', EtagHeader) },
          [404, 412, 413, 415],
        ),
      },
    },
    async (request, reply) => {
      const { body } = request;
      // An empty request must not set going what its defaults remove.
      if (!body) throw fieldInvalid('body', 'is required; {} asks for the defaults');
      const tenantId = request.params.orgId;
      const wanted = request.headers['if-match'];
      const executionsToKeep = body.min_executions_to_keep;
      // `*` asks for a policy that is there, whatever it is.
      const known =
        wanted === '*'
          ? await call(request, 'retention', (retention, options) =>
              retention.getExecutionPolicy({ tenantId }, options),
            )
          : undefined;
      const { executionPolicy } = await ifMatches(
        call(request, 'retention', (retention, options) =>
          retention.upsertExecutionPolicy(
            {
              tenantId,
              etag: known?.executionPolicy?.etag ?? wanted ?? '',
              ...optional('retentionDays', body.retention_days),
              ...optional('isEnabled', body.is_enabled),
              ...optional('minExecutionsToKeep', executionsToKeep === undefined ? undefined : BigInt(executionsToKeep)),
              ...optional('staleAfterDays', body.stale_after_days),
            },
            options,
          ),
        ),
      );
      return sendPolicy(reply, executionPolicy);
    },
  );

  scope.delete(
    POLICY,
    {
      schema: {
        operationId: 'deleteExecutionPolicy',
        summary: "Remove the tenant's policy for executions",
        description: 'What the plan says then counts alone. Scopes `retention:read` and `retention:write`, role admin.',
        tags: ['retention'],
        params: OrgParams,
        querystring: NoQuery,
        headers: IfMatch,
        response: responsesWith({ 204: { description: 'The policy is gone.', type: 'null' } }, [404, 412]),
      },
    },
    async (request, reply) => {
      const tenantId = request.params.orgId;
      const wanted = request.headers['if-match'] ?? '';
      const etag = wanted === '*' ? '' : wanted;
      // RetentionService takes a policy that is not there for one that is gone; 404 says it apart.
      await call(request, 'retention', (retention, options) => retention.getExecutionPolicy({ tenantId }, options));
      await ifMatches(
        call(request, 'retention', (retention, options) =>
          retention.deleteExecutionPolicy({ tenantId, etag }, options),
        ),
      );
      return reply.code(204).send();
    },
  );
}

const sendPolicy = (reply: FastifyReply, policy: ExecutionPolicy | undefined): FastifyReply =>
  reply
    .header('etag', policy?.etag ?? '')
    .header('cache-control', 'no-cache')
    .send(policy && jsonOfMessage(ExecutionPolicySchema, policy));

const UNKNOWN_ORG: ReadonlySet<string> = new Set(['TENANT_PLAN_NOT_FOUND', 'TENANT_UNKNOWN']);

/** What a call answers; a tenant that nobody knows, or that is not the caller's, is NOT_FOUND/ORG_NOT_FOUND. */
async function ofOrg<T>(answered: Promise<T>): Promise<T> {
  try {
    return await answered;
  } catch (error) {
    if (!UNKNOWN_ORG.has(reasonOfError(error))) throw error;
    throw new DomainError('not-found', 'ORG_NOT_FOUND', 'Organisation not found.');
  }
}

/** Told apart from other conflicts, since HTTP has a status of its own for a precondition of the request. */
class PreconditionFailed extends Error {
  readonly statusCode = 412;
}

/** What a call answers; ETAG_MISMATCH becomes 412. */
async function ifMatches<T>(answered: Promise<T>): Promise<T> {
  try {
    return await answered;
  } catch (error) {
    if (reasonOfError(error) !== 'ETAG_MISMATCH') throw error;
    throw new PreconditionFailed('', { cause: error });
  }
}
