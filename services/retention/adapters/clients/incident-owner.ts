import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import type { ServiceCredential } from '#libs/auth/sign-token.ts';
import { type Connection, toPeerError } from '#libs/grpc/client.ts';
import { parseTimestamp } from '#libs/grpc/timestamp.ts';
import type { DataOwner } from '../../use-cases/ports.ts';

/** IncidentService as the owner of drift checks. */
export const makeIncidentOwner = (connection: Connection, credential: ServiceCredential): DataOwner => ({
  async purge({ tenantId, actor, operationId, retentionDays, validateOnly }) {
    const client = connection.client(IncidentService, () => credential({ tenantId, actor }));
    try {
      const { progress, resourceCounts, cutoffTime } = await client.purgeDriftChecks({
        operationId,
        retentionDays,
        validateOnly,
      });
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
      };
    } catch (error) {
      throw toPeerError('incident service', error);
    }
  },
});
