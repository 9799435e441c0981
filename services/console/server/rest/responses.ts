import type { DescMessage } from '@bufbuild/protobuf';
import type { FastifyReply } from 'fastify';
import { Type } from 'typebox';
import { DeletionSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { EnvironmentSchema, IncidentSchema } from '#gen/lethe/incident/v1/incident_pb.ts';
import { JobSchema } from '#gen/lethe/job/v1/job_pb.ts';
import {
  ExecutionPolicySchema,
  RetentionPurgeItemSchema,
  RetentionPurgeSchema,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { ResolveRetentionResponseSchema } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunSchema, RunStepSchema } from '#gen/lethe/run/v1/run_pb.ts';
import { readContractComments } from './contract-comments.ts';
import { type JsonSchema, type Shape, schemasOf } from './json-of-message.ts';
import type { RestScope } from './route-parts.ts';

/** How an incident's JSON differs from its message: the sentence to show is its banner. */
export const INCIDENT_SHAPE: Shape = {
  omitted: ['payload_notice'],
  added: { banner: { type: ['string', 'null'], description: 'The sentence to show in place of purged details.' } },
};

const MESSAGES: readonly (readonly [DescMessage, Shape?])[] = [
  [RunSchema],
  [RunStepSchema],
  [JobSchema],
  [DeletionSchema],
  [EnvironmentSchema],
  [IncidentSchema, INCIDENT_SHAPE],
  [ExecutionPolicySchema],
  [RetentionPurgeSchema],
  [RetentionPurgeItemSchema],
  [ResolveRetentionResponseSchema],
];

const ERROR_SCHEMA = {
  $id: 'Error',
  type: 'object',
  additionalProperties: false,
  required: ['error'],
  description: 'The body of every error.',
  properties: {
    error: {
      type: 'object',
      description: 'What went wrong.',
      additionalProperties: false,
      required: ['code', 'message'],
      properties: {
        code: { type: 'string', description: 'What is wrong, for programs, e.g. `run_not_found`.' },
        message: { type: 'string', description: 'What is wrong and what to do, for people.' },
        reason: { type: 'string', description: 'The reason as over gRPC, e.g. `RUN_NOT_FOUND`.' },
        metadata: {
          type: 'object',
          additionalProperties: { type: 'string' },
          description: 'Every variable of the message.',
        },
        fields: {
          type: 'array',
          description: 'All wrong fields of the request.',
          items: {
            type: 'object',
            additionalProperties: false,
            required: ['field', 'description'],
            properties: {
              field: { type: 'string', description: 'Its path, in the names of the request.' },
              description: { type: 'string', description: 'What is wrong with it.' },
            },
          },
        },
      },
    },
  },
};

/** Adds the schemas of all answers to the scope. */
export function addSchemas(scope: RestScope): void {
  scope.addSchema(ERROR_SCHEMA);
  const added = new Set<string>();
  const comments = readContractComments();
  for (const [message, shape] of MESSAGES) {
    for (const [name, schema] of schemasOf(message, comments, shape)) {
      if (added.has(name)) continue;
      added.add(name);
      scope.addSchema(schema);
    }
  }
}

const ERRORS: Readonly<Record<number, string>> = {
  400: 'The request is wrong; `fields` names every wrong field.',
  401: 'There is no bearer token, or it is not valid here.',
  403: 'The role or the scopes of the token are not enough.',
  404: "Unknown, deleted, or another tenant's: one answer, so that nobody learns which.",
  409: 'The state of things forbids it; `reason` says which. With OPERATION_IN_PROGRESS, `Location` is what is under way.',
  412: 'The policy has changed since: its etag is not that of If-Match.',
  413: 'The body is too large.',
  415: 'The body is no JSON.',
  429: 'Too many requests; Retry-After says when to try again.',
  500: 'Something went wrong inside; the message has the id under which it was logged.',
  503: 'A service that is needed does not answer; try again.',
  504: 'A service that is needed did not answer in time; try again.',
};

const EVERYWHERE = [400, 401, 403, 429, 500, 503, 504];

/** The responses of a route: those that are given, and errors, of which some can come from every route. */
export function responsesWith(
  given: Readonly<Record<number, JsonSchema>>,
  errors: readonly number[] = [],
): Record<number, JsonSchema> {
  const statuses = [...EVERYWHERE, ...errors];
  return {
    ...Object.fromEntries(statuses.map((status) => [status, errorResponse(ERRORS[status] ?? '')])),
    ...given,
  };
}

/** The response of an error, described. */
export const errorResponse = (description: string): JsonSchema => ({ description, $ref: 'Error#' });

/** A response that refers to a schema by its name. */
export const answer = (name: string, description: string, headers?: JsonSchema): JsonSchema => ({
  description,
  $ref: `${name}#`,
  ...(headers ? { headers } : {}),
});

/** A page of a list: the items under their name, and the token of the next page. */
export const page = (property: string, name: string): JsonSchema => ({
  description: 'One page of the list.',
  type: 'object',
  additionalProperties: false,
  required: [property, 'next_page_token'],
  properties: {
    [property]: { type: 'array', description: 'The items of this page.', items: { $ref: `${name}#` } },
    next_page_token: { type: 'string', description: 'Asks for the next page. Empty: this was the last.' },
  },
});

const LOCATION = { Location: { type: 'string', description: 'Where the receipt is.' } };

/** 204 of a deletion. */
export const gone: JsonSchema = {
  description: 'The intent is durable, and readers no longer find it. `Location` is the receipt.',
  type: 'null',
  headers: LOCATION,
};

/** 202 of what goes on in the background. */
export const accepted = (schema: JsonSchema, description: string): JsonSchema => ({
  ...schema,
  description,
  headers: LOCATION,
});

/** Where a deletion's receipt is. */
export const deletionLocation = (deletionId: string): string => `/api/v1/deletions/${deletionId}`;

/** Where a purge by age is. */
export const purgeLocation = (purgeId: string): string => `/api/v1/retention/purges/${purgeId}`;

/** Answers 204 with the place of the receipt. */
export const sendGone = (reply: FastifyReply, deletionId: string | undefined): FastifyReply =>
  reply
    .header('location', deletionLocation(deletionId ?? ''))
    .code(204)
    .send();

/** An object in a response. */
export const ofParts = (properties: Readonly<Record<string, JsonSchema>>): JsonSchema => ({
  type: 'object',
  additionalProperties: false,
  required: Object.keys(properties),
  properties,
});

/** A query without parameters. */
export const NoQuery = Type.Object({}, { additionalProperties: false });
