import { hostname } from 'node:os';
import { readBulkSettings } from '#libs/bulk-deletion/settings.ts';
import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { readCommonSettings } from '#libs/service/common-settings.ts';

/** JobService's settings. */
export type JobSettings = ReturnType<typeof readJobSettings>;

const GIBIBYTE = 1_073_741_824;

/** Reads JobService's settings; throws one Error naming everything that is wrong. */
export const readJobSettings = (env: Environment) =>
  readSettings(env, (reader) => ({
    ...readCommonSettings(reader),
    workerId: `${hostname()}:${process.pid}`,
    objectStore:
      reader.oneOf('LETHE_OBJECT_STORE', ['file', 's3'], 'file') === 'file'
        ? { kind: 'file' as const, root: reader.text('LETHE_FILE_STORE_ROOT') }
        : {
            kind: 's3' as const,
            endpoint: reader.text('LETHE_S3_ENDPOINT'),
            region: reader.text('LETHE_S3_REGION', 'us-east-1'),
            bucket: reader.text('LETHE_S3_BUCKET'),
          },
    maxArtifactBytes: reader.integer('LETHE_MAX_ARTIFACT_BYTES', { min: 1, max: 1_024 * GIBIBYTE }, 5 * GIBIBYTE),
    uploadsAtOnce: reader.integer('LETHE_UPLOADS_AT_ONCE', { min: 1, max: 1_000 }, 24),
    uploadLeaseMs: reader.integer('LETHE_UPLOAD_LEASE_MS', { min: 100, max: 600_000 }, 10_000),
    uploadGraceMs: reader.integer('LETHE_UPLOAD_GRACE_MS', { min: 100, max: 86_400_000 }, 3_600_000),
    deletionLeaseMs: reader.integer('LETHE_DELETION_LEASE_MS', { min: 100, max: 3_600_000 }, 30_000),
    deletionWorkers: reader.integer('LETHE_DELETION_WORKERS', { min: 1, max: 100 }, 8),
    deletionAttempts: reader.integer('LETHE_DELETION_ATTEMPTS', { min: 1, max: 1_000 }, 10),
    deletionBackoffMs: reader.integer('LETHE_DELETION_BACKOFF_MS', { min: 1, max: 3_600_000 }, 500),
    deletionBackoffMaxMs: reader.integer('LETHE_DELETION_BACKOFF_MAX_MS', { min: 1, max: 86_400_000 }, 300_000),
    ...readBulkSettings(reader, 16),
    objectsPerBatch: reader.integer('LETHE_DELETION_OBJECTS_PER_BATCH', { min: 1, max: 100_000 }, 10_000),
    sweepCeilingPercent: reader.integer('LETHE_SWEEP_CEILING_PERCENT', { min: 1, max: 100 }, 20),
    pollMs: reader.integer('LETHE_POLL_MS', { min: 10, max: 60_000 }, 1_000),
  }));
