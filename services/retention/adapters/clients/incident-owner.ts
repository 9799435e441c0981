import type { MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { IncidentService, type PurgeDriftChecksRequestSchema } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import type { ServiceCredential } from '#libs/auth/sign-token.ts';
import { type Connection, reasonOf, toPeerError } from '#libs/grpc/client.ts';
import { parseTimestamp } from '#libs/grpc/timestamp.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { DataOwner } from '../../use-cases/ports.ts';

const PEER = 'incident service';
// No call is long: a replica that is to stop waits for the one under way, and a raised plan counts from the next on.
const BUDGET_MS = 5_000;

/** IncidentService as the owner of drift checks, incident payloads and approvals. */
export const makeIncidentOwner = (
  connection: Connection,
  credential: ServiceCredential,
  rowsPerCall: number,
): DataOwner => ({
  async purge({ tenantId, actor, subject, operationId, retentionDays, validateOnly }) {
    const client = connection.client(IncidentService, () => credential({ tenantId, actor }));
    const purge = {
      drift_checks: client.purgeDriftChecks,
      incident_payloads: client.purgeIncidentPayloads,
      approvals: client.purgeApprovals,
    }[subject];
    if (!purge) throw new DomainError('not-found', 'SUBJECT_NOT_FOUND', `The ${PEER} has no ${subject}.`, { subject });
    // The three requests are alike, field by field.
    const request: MessageInitShape<typeof PurgeDriftChecksRequestSchema> = {
      operationId,
      retentionDays,
      validateOnly,
      limit: rowsPerCall,
      timeBudget: durationFromMs(BUDGET_MS),
    };
    try {
      const { progress, resourceCounts, cutoffTime, population } = await purge(request as never);
      return {
        // Anything but a clear COMPLETE is taken as unfinished.
        progress: progress === Progress.COMPLETE ? 'COMPLETE' : 'PARTIAL',
        counts: resourceCounts.map(({ resourceType, found, deleted, left }) => ({
          resourceType,
          found: Number(found),
          deleted: Number(deleted),
          left: Number(left),
        })),
        cutoff: parseTimestamp('cutoff_time', cutoffTime)?.toString() ?? '',
        population: population === undefined ? undefined : Number(population),
      };
    } catch (error) {
      throw toOwnerError(error);
    }
  },
});

/** What a receipt can say of why the owner did not do it. */
function toOwnerError(error: unknown): unknown {
  const peerError = toPeerError(PEER, error);
  if (peerError instanceof DomainError) return peerError;
  const code = Code[ConnectError.from(error).code];
  return new DomainError(
    'failed-precondition',
    reasonOf(error) ?? 'OWNER_FAILED',
    `The ${PEER} did not do it (${code}).`,
    { dependency: PEER, code },
    { cause: error },
  );
}
