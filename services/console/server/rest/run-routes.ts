import type { CallOptions } from '@connectrpc/connect';
import { Type } from 'typebox';
import { type Deletion, DeletionSchema, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RunSchema, RunStateSchema, RunStepSchema, RunViewSchema } from '#gen/lethe/run/v1/run_pb.ts';
import { optional } from '#libs/grpc/optional.ts';
import type { UpstreamClients } from '../connect-upstreams.ts';
import { described, jsonOfMessage, namesOf, valueNamed } from './json-of-message.ts';
import { accepted, answer, deletionLocation, gone, ofParts, page, responsesWith, sendGone } from './responses.ts';
import {
  type CallService,
  DeleteHeaders,
  Id,
  listQuery,
  ReasonBody,
  type RestScope,
  reasonOf,
  toInstant,
  viewQuery,
} from './route-parts.ts';

const LARGE = 'input, output and references';
const RunParams = Type.Object({ run_id: Id('The run.') });
const ShowDeleted = {
  show_deleted: Type.Optional(Type.Boolean({ description: 'Also soft-deleted ones, for admins.' })),
};
const ENDED: ReadonlySet<DeletionState> = new Set([
  DeletionState.COMPLETE,
  DeletionState.STUCK,
  DeletionState.CANCELLED,
]);

/** Registers the routes of runs. The purge of one waits for `purgeWaitMs` before it is answered by 202. */
export function registerRunRoutes(scope: RestScope, call: CallService, purgeWaitMs: number): void {
  scope.delete(
    '/api/v1/workflows/runs/:run_id',
    {
      schema: {
        operationId: 'deleteRun',
        summary: 'Delete a run',
        description:
          'Soft-deletes the run: it and its steps, jobs and incidents are hidden at once, and can be brought back. With ' +
          '`hard=true` it is removed from every store for good, which needs a reason. Scope `workflows:delete`, role admin.',
        tags: ['runs'],
        params: RunParams,
        querystring: Type.Object(
          {
            hard: Type.Optional(Type.Boolean({ description: 'Remove it for good. Default: hide it.' })),
            force: Type.Optional(
              Type.Boolean({ description: 'With `hard`: also when it is younger than the age guard. For owners.' }),
            ),
          },
          { additionalProperties: false },
        ),
        headers: DeleteHeaders,
        body: ReasonBody,
        response: responsesWith(
          {
            202: accepted(
              answer('Deletion', ''),
              'With `hard`: ordered, but not over soon enough to wait for it, so that readers may still find the run.',
            ),
            204: gone,
          },
          [404, 409, 413, 415],
        ),
      },
    },
    async (request, reply) => {
      const { run_id: runId } = request.params;
      const { hard = false, force = false } = request.query;
      const reason = reasonOf(request.headers, request.body);
      const requestId = request.headers['idempotency-key'] ?? '';
      if (!hard) {
        const { deletion } = await call(request, 'run', (runs, options) =>
          runs.deleteRun({ runId, reason, requestId }, options),
        );
        return sendGone(reply, deletion?.id);
      }
      const ordered = await call(request, 'run', (runs, options) =>
        runs.purgeRun({ runId, reason, force, requestId }, options),
      );
      const deletion = await call(request, 'run', (runs, options) =>
        waitForPurge(runs, ordered.deletion, { ...options, timeoutMs: purgeWaitMs }),
      );
      if (deletion?.state === DeletionState.COMPLETE) return sendGone(reply, deletion.id);
      return reply
        .header('location', deletionLocation(deletion?.id ?? ''))
        .code(202)
        .send(deletion && jsonOfMessage(DeletionSchema, deletion));
    },
  );

  scope.get(
    '/api/v1/workflows/runs/:run_id',
    {
      schema: {
        operationId: 'getRun',
        summary: 'Get a run with its steps',
        description: 'Scope `workflows:read`.',
        tags: ['runs'],
        params: RunParams,
        querystring: Type.Object(
          { ...ShowDeleted, ...viewQuery(RunViewSchema, LARGE, 'FULL') },
          { additionalProperties: false },
        ),
        response: responsesWith(
          {
            200: {
              description: 'The run.',
              ...ofParts({
                run: described('Run', 'The run itself.'),
                steps: {
                  type: 'array',
                  description: 'Its steps in their order, 200 at most.',
                  items: { $ref: 'RunStep#' },
                },
              }),
            },
          },
          [404],
        ),
      },
    },
    async (request, reply) => {
      const { run_id: runId } = request.params;
      const showDeleted = request.query.show_deleted ?? false;
      const view = valueNamed(RunViewSchema, request.query.view);
      const [{ run }, { steps }] = await call(request, 'run', (runs, options) =>
        Promise.all([
          runs.getRun({ runId, showDeleted, view }, options),
          runs.listRunSteps({ runId, showDeleted, pageSize: 200 }, options),
        ]),
      );
      return reply.send({
        run: run && jsonOfMessage(RunSchema, run),
        steps: steps.map((step) => jsonOfMessage(RunStepSchema, step)),
      });
    },
  );

  scope.get(
    '/api/v1/workflows/runs',
    {
      schema: {
        operationId: 'listRuns',
        summary: 'List runs, newest first',
        description: 'Scope `workflows:read`.',
        tags: ['runs'],
        querystring: listQuery({
          state: Type.Optional(Type.Enum(namesOf(RunStateSchema), { description: 'Only runs in this state.' })),
          workflow: Type.Optional(
            Type.String({ pattern: '^[A-Za-z0-9_.-]{1,100}$', description: 'Only runs of this workflow.' }),
          ),
          min_create_time: Type.Optional(
            Type.String({ format: 'date-time', description: 'Only runs created at or after this instant.' }),
          ),
          max_create_time: Type.Optional(
            Type.String({ format: 'date-time', description: 'Only runs created before this instant.' }),
          ),
          ...ShowDeleted,
          ...viewQuery(RunViewSchema, LARGE, 'BASIC'),
        }),
        response: responsesWith({ 200: page('runs', 'Run') }),
      },
    },
    async (request, reply) => {
      const query = request.query;
      const minCreateTime = toInstant('min_create_time', query.min_create_time);
      const maxCreateTime = toInstant('max_create_time', query.max_create_time);
      const { runs, nextPageToken } = await call(request, 'run', (client, options) =>
        client.listRuns(
          {
            pageSize: query.page_size ?? 0,
            pageToken: query.page_token ?? '',
            state: valueNamed(RunStateSchema, query.state),
            workflow: query.workflow ?? '',
            ...optional('minCreateTime', minCreateTime),
            ...optional('maxCreateTime', maxCreateTime),
            showDeleted: query.show_deleted ?? false,
            view: valueNamed(RunViewSchema, query.view),
          },
          options,
        ),
      );
      return reply.send({
        runs: runs.map((run) => jsonOfMessage(RunSchema, run)),
        next_page_token: nextPageToken,
      });
    },
  );
}

/** The deletion once it has ended, or as it was last seen when that takes too long. */
async function waitForPurge(
  runs: UpstreamClients['run'],
  ordered: Deletion | undefined,
  options: CallOptions,
): Promise<Deletion | undefined> {
  let latest = ordered;
  if (!latest) return undefined;
  try {
    for await (const { deletion } of runs.watchDeletion({ deletionId: latest.id }, options)) {
      latest = deletion ?? latest;
      if (ENDED.has(latest.state)) break;
    }
  } catch (error) {
    // The order is committed, whatever becomes of the watch.
    if (options.signal?.aborted) throw error;
  }
  return latest;
}
