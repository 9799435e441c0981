import type { MessageInitShape } from '@bufbuild/protobuf';
import type { BulkDeletion, BulkDeletionPreview } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import type { DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { JobFilterSchema } from '#gen/lethe/job/v1/job_service_pb.ts';
import type { RunFilterSchema } from '#gen/lethe/run/v1/run_service_pb.ts';
import { jobs, runs } from '../rpc.ts';

/** What bulk deletions are made of: each kind has a service of its own with the same RPCs. */
export type BulkKind = 'run' | 'job';

/** Which runs or jobs, as a filter of their service. */
export type BulkFilter =
  | { readonly kind: 'run'; readonly filter: MessageInitShape<typeof RunFilterSchema> }
  | { readonly kind: 'job'; readonly filter: MessageInitShape<typeof JobFilterSchema> };

/** How a bulk deletion is ordered. */
export interface BulkOrder {
  readonly mode: DeletionMode;
  readonly reason: string;
  readonly expectedCount: bigint;
  readonly requestId: string;
}

/** What both services have, in the same words. */
type DeletionClient = Pick<
  typeof runs,
  | 'getDeletion'
  | 'listDeletions'
  | 'redriveDeletion'
  | 'getBulkDeletion'
  | 'listBulkDeletions'
  | 'listBulkDeletionItems'
  | 'watchBulkDeletion'
  | 'cancelBulkDeletion'
>;

/** The client of a kind's service, for the RPCs that both have. The messages of the two differ by their package alone. */
export const bulkClient = (kind: BulkKind): DeletionClient =>
  kind === 'run' ? runs : (jobs as unknown as DeletionClient);

/** What an order would take at the moment. */
export async function previewBulk(
  { kind, filter }: BulkFilter,
  mode: DeletionMode,
  signal: AbortSignal,
): Promise<BulkDeletionPreview | null> {
  const answer =
    kind === 'run'
      ? await runs.purgeRuns({ filter, mode, validateOnly: true }, { signal })
      : await jobs.deleteJobs({ filter, validateOnly: true }, { signal });
  return answer.preview ?? null;
}

/** Orders the deletion of all that match: one operation of the server. */
export async function orderBulk(
  { kind, filter }: BulkFilter,
  { mode, ...order }: BulkOrder,
): Promise<BulkDeletion | undefined> {
  const answer =
    kind === 'run' ? await runs.purgeRuns({ filter, mode, ...order }) : await jobs.deleteJobs({ filter, ...order });
  return answer.bulkDeletion;
}
