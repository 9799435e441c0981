import type { JsonObject } from '@bufbuild/protobuf';
import { Type } from 'typebox';
import {
  DriftStatusSchema,
  EnvironmentSchema,
  type Incident,
  IncidentSchema,
  IncidentStateSchema,
  IncidentViewSchema,
} from '#gen/lethe/incident/v1/incident_pb.ts';
import { jsonOfMessage, namesOf, valueNamed } from './json-of-message.ts';
import { answer, NoQuery, page, responsesWith } from './responses.ts';
import { type CallService, Id, listQuery, type RestScope, viewQuery } from './route-parts.ts';

const LARGE = 'payload and timeline';
const ShowDeleted = { show_deleted: Type.Optional(Type.Boolean({ description: 'Also hidden ones, for admins.' })) };

/** Registers the routes of incidents and environments. */
export function registerIncidentRoutes(scope: RestScope, call: CallService): void {
  scope.get(
    '/api/v1/incidents/:incident_id',
    {
      schema: {
        operationId: 'getIncident',
        summary: 'Get an incident',
        description:
          'An incident outlives its details: `drift_summary` is there only while `payload_state` is PRESENT, and once it ' +
          'was purged `banner` is the sentence to show in its place. Scope `incidents:read`.',
        tags: ['incidents'],
        params: Type.Object({ incident_id: Id('The incident.') }),
        querystring: Type.Object(
          { ...ShowDeleted, ...viewQuery(IncidentViewSchema, LARGE, 'FULL') },
          { additionalProperties: false },
        ),
        response: responsesWith({ 200: answer('Incident', 'The incident.') }, [404]),
      },
    },
    async (request, reply) => {
      const { incident_id: incidentId } = request.params;
      const { incident } = await call(request, 'incident', (incidents, options) =>
        incidents.getIncident(
          {
            incidentId,
            showDeleted: request.query.show_deleted ?? false,
            view: valueNamed(IncidentViewSchema, request.query.view),
          },
          options,
        ),
      );
      return reply.send(incident && toIncidentJson(incident));
    },
  );

  scope.get(
    '/api/v1/incidents',
    {
      schema: {
        operationId: 'listIncidents',
        summary: 'List incidents, newest first',
        description: 'Scope `incidents:read`.',
        tags: ['incidents'],
        querystring: listQuery({
          state: Type.Optional(
            Type.Enum(namesOf(IncidentStateSchema), { description: 'Only incidents in this state.' }),
          ),
          environment_id: Type.Optional(
            Type.String({ format: 'uuid', description: 'Only incidents of this environment.' }),
          ),
          run_id: Type.Optional(Type.String({ format: 'uuid', description: 'Only incidents of this run.' })),
          ...ShowDeleted,
          ...viewQuery(IncidentViewSchema, LARGE, 'BASIC'),
        }),
        response: responsesWith({ 200: page('incidents', 'Incident') }),
      },
    },
    async (request, reply) => {
      const query = request.query;
      const { incidents, nextPageToken } = await call(request, 'incident', (client, options) =>
        client.listIncidents(
          {
            pageSize: query.page_size ?? 0,
            pageToken: query.page_token ?? '',
            state: valueNamed(IncidentStateSchema, query.state),
            environmentId: query.environment_id ?? '',
            runId: query.run_id ?? '',
            showDeleted: query.show_deleted ?? false,
            view: valueNamed(IncidentViewSchema, query.view),
          },
          options,
        ),
      );
      return reply.send({ incidents: incidents.map(toIncidentJson), next_page_token: nextPageToken });
    },
  );

  scope.get(
    '/api/v1/environments/:environment_id',
    {
      schema: {
        operationId: 'getEnvironment',
        summary: 'Get an environment with its last drift status',
        description: 'Scope `incidents:read`.',
        tags: ['incidents'],
        params: Type.Object({ environment_id: Id('The environment.') }),
        querystring: NoQuery,
        response: responsesWith({ 200: answer('Environment', 'The environment.') }, [404]),
      },
    },
    async (request, reply) => {
      const { environment_id: environmentId } = request.params;
      const { environment } = await call(request, 'incident', (incidents, options) =>
        incidents.getEnvironment({ environmentId }, options),
      );
      return reply.send(environment && jsonOfMessage(EnvironmentSchema, environment));
    },
  );

  scope.get(
    '/api/v1/environments',
    {
      schema: {
        operationId: 'listEnvironments',
        summary: 'List environments by name, each with its last drift status',
        description: 'Scope `incidents:read`.',
        tags: ['incidents'],
        querystring: listQuery({
          drift_status: Type.Optional(
            Type.Enum(namesOf(DriftStatusSchema), {
              description: 'Only environments whose last check had this result.',
            }),
          ),
        }),
        response: responsesWith({ 200: page('environments', 'Environment') }),
      },
    },
    async (request, reply) => {
      const query = request.query;
      const { environments, nextPageToken } = await call(request, 'incident', (client, options) =>
        client.listEnvironments(
          {
            pageSize: query.page_size ?? 0,
            pageToken: query.page_token ?? '',
            driftStatus: valueNamed(DriftStatusSchema, query.drift_status),
          },
          options,
        ),
      );
      return reply.send({
        environments: environments.map((environment) => jsonOfMessage(EnvironmentSchema, environment)),
        next_page_token: nextPageToken,
      });
    },
  );
}

function toIncidentJson(incident: Incident): JsonObject {
  const { payload_notice: notice, ...json } = jsonOfMessage(IncidentSchema, incident);
  return { ...json, banner: notice === '' ? null : (notice ?? null) };
}
