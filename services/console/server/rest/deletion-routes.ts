import { Type } from 'typebox';
import { DeletionSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { jsonOfMessage } from './json-of-message.ts';
import { answer, NoQuery, responsesWith } from './responses.ts';
import { reasonOfError } from './rest-error.ts';
import { type CallService, Id, type RestScope } from './route-parts.ts';

/** Registers the route of receipts. */
export function registerDeletionRoutes(scope: RestScope, call: CallService): void {
  scope.get(
    '/api/v1/deletions/:deletion_id',
    {
      schema: {
        operationId: 'getDeletion',
        summary: 'Get a deletion: the receipt',
        description:
          'Of a run or of a job, whichever it is; it outlives its target. Scope `workflows:read` or `jobs:read`.',
        tags: ['deletions'],
        params: Type.Object({ deletion_id: Id('The deletion.') }),
        querystring: NoQuery,
        response: responsesWith({ 200: answer('Deletion', 'The deletion.') }, [404]),
      },
    },
    async (request, reply) => {
      const { deletion_id: deletionId } = request.params;
      const asked = await Promise.allSettled([
        call(request, 'run', (runs, options) => runs.getDeletion({ deletionId }, options)),
        call(request, 'job', (jobs, options) => jobs.getDeletion({ deletionId }, options)),
      ]);
      const failures: unknown[] = [];
      for (const result of asked) {
        if (result.status === 'rejected') failures.push(result.reason);
        else if (result.value.deletion) return reply.send(jsonOfMessage(DeletionSchema, result.value.deletion));
      }
      // One that does not know it says nothing while the other could not be asked.
      throw failures.find((error) => reasonOfError(error) !== 'DELETION_NOT_FOUND') ?? failures[0];
    },
  );
}
