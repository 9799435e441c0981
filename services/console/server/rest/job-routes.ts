import type { FastifyReply } from 'fastify';
import { Type } from 'typebox';
import { JobSchema, JobStateSchema, JobViewSchema } from '#gen/lethe/job/v1/job_pb.ts';
import { jsonOfMessage, namesOf, valueNamed } from './json-of-message.ts';
import { answer, errorResponse, gone, NoQuery, page, responsesWith, sendGone } from './responses.ts';
import { reasonOfError, toRestError } from './rest-error.ts';
import {
  type CallService,
  DeleteHeaders,
  Id,
  listQuery,
  ReasonBody,
  type RestScope,
  reasonOf,
  viewQuery,
} from './route-parts.ts';

const JobParams = Type.Object({ job_id: Id('The job.') });

/** Registers the routes of jobs. Deletion has two paths, one for programs and one for the web console, as seed 004 does. */
export function registerJobRoutes(scope: RestScope, call: CallService): void {
  for (const [path, operationId] of [
    ['/v1/audio/transcriptions/:job_id', 'deleteTranscription'],
    ['/jobs/:job_id', 'deleteJob'],
  ] as const) {
    scope.delete(
      path,
      {
        schema: {
          operationId,
          summary: 'Delete a job for good',
          description:
            'Removes a COMPLETED, FAILED or CANCELLED job with its audio, transcript and everything between. Scope ' +
            '`jobs:delete`, role admin.',
          tags: ['jobs'],
          params: JobParams,
          querystring: NoQuery,
          headers: DeleteHeaders,
          body: ReasonBody,
          response: responsesWith(
            {
              204: gone,
              400: errorResponse('The job is not in a terminal state (`invalid_state`), or the request is wrong.'),
            },
            [404, 409, 413, 415],
          ),
        },
      },
      async (request, reply) => {
        const { job_id: jobId } = request.params;
        const reason = reasonOf(request.headers, request.body);
        const requestId = request.headers['idempotency-key'] ?? '';
        try {
          const { deletion } = await call(request, 'job', (jobs, options) =>
            jobs.deleteJob({ jobId, reason, requestId }, options),
          );
          return sendGone(reply, deletion?.id);
        } catch (error) {
          return sendJobError(reply, error);
        }
      },
    );
  }

  scope.get(
    '/v1/audio/transcriptions/:job_id',
    {
      schema: {
        operationId: 'getTranscription',
        summary: 'Get a job',
        description: 'Scope `jobs:read`.',
        tags: ['jobs'],
        params: JobParams,
        querystring: Type.Object(
          {
            show_deleted: Type.Optional(Type.Boolean({ description: 'Also hidden with its run, for admins.' })),
            ...viewQuery(JobViewSchema, 'the tasks', 'FULL'),
          },
          { additionalProperties: false },
        ),
        response: responsesWith({ 200: answer('Job', 'The job.') }, [404]),
      },
    },
    async (request, reply) => {
      const { job_id: jobId } = request.params;
      try {
        const { job } = await call(request, 'job', (jobs, options) =>
          jobs.getJob(
            {
              jobId,
              showDeleted: request.query.show_deleted ?? false,
              view: valueNamed(JobViewSchema, request.query.view),
            },
            options,
          ),
        );
        return reply.send(job && jsonOfMessage(JobSchema, job));
      } catch (error) {
        return sendJobError(reply, error);
      }
    },
  );

  scope.get(
    '/v1/audio/transcriptions',
    {
      schema: {
        operationId: 'listTranscriptions',
        summary: 'List jobs, newest first',
        description: 'Scope `jobs:read`.',
        tags: ['jobs'],
        querystring: listQuery({
          state: Type.Optional(Type.Enum(namesOf(JobStateSchema), { description: 'Only jobs in this state.' })),
          run_id: Type.Optional(Type.String({ format: 'uuid', description: 'Only jobs of this run.' })),
          show_deleted: Type.Optional(Type.Boolean({ description: 'Also those hidden with their run, for admins.' })),
          ...viewQuery(JobViewSchema, 'the tasks', 'FULL'),
        }),
        response: responsesWith({ 200: page('jobs', 'Job') }),
      },
    },
    async (request, reply) => {
      const query = request.query;
      const { jobs, nextPageToken } = await call(request, 'job', (client, options) =>
        client.listJobs(
          {
            pageSize: query.page_size ?? 0,
            pageToken: query.page_token ?? '',
            state: valueNamed(JobStateSchema, query.state),
            runId: query.run_id ?? '',
            showDeleted: query.show_deleted ?? false,
            view: valueNamed(JobViewSchema, query.view),
          },
          options,
        ),
      );
      return reply.send({ jobs: jobs.map((job) => jsonOfMessage(JobSchema, job)), next_page_token: nextPageToken });
    },
  );
}

/** The two errors whose bodies seed 004 gives to the letter; any other is thrown on. */
function sendJobError(reply: FastifyReply, error: unknown): FastifyReply {
  switch (reasonOfError(error)) {
    case 'JOB_NOT_FOUND':
      return reply.code(404).send({ error: { code: 'job_not_found', message: 'Job not found' } });
    case 'JOB_NOT_TERMINAL':
      // JobService says it in the words of the seed.
      return reply.code(400).send({ error: { code: 'invalid_state', message: toRestError(error).body.error.message } });
    default:
      throw error;
  }
}
