import { Code, ConnectError } from '@connectrpc/connect';
import type { BulkDeletion } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type BulkKind, bulkClient } from '../bulk/bulk-clients.ts';
import { jobs, runs } from '../rpc.ts';

/** A receipt, and the service that has it. */
export type Receipt =
  | { readonly kind: BulkKind; readonly deletion: Deletion }
  | { readonly kind: BulkKind; readonly bulk: BulkDeletion };

/**
 * Finds the receipt with this id, whichever service has it: of one deletion or of a bulk deletion. Throws the refusal
 * where no service has it, and where one that might have it does not answer.
 */
export async function findReceipt(id: string, signal: AbortSignal): Promise<Receipt> {
  const kinds = ['run', 'job'] as const;
  const attempts = kinds.flatMap((kind) => [
    (kind === 'run' ? runs : jobs)
      .getDeletion({ deletionId: id }, { signal })
      .then(({ deletion }) => deletion && { kind, deletion }),
    bulkClient(kind)
      .getBulkDeletion({ bulkDeletionId: id }, { signal })
      .then(({ bulkDeletion }) => bulkDeletion && { kind, bulk: bulkDeletion }),
  ]);
  const outcomes = await Promise.allSettled<Receipt | undefined>(attempts);
  for (const outcome of outcomes) if (outcome.status === 'fulfilled' && outcome.value) return outcome.value;
  const errors = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
  throw errors.find((error) => ConnectError.from(error).code !== Code.NotFound) ?? errors[0];
}

/** The deletion as it is now, from the service of its target. */
export const getDeletion = async ({ id, targetType }: Deletion, signal: AbortSignal): Promise<Deletion | undefined> =>
  (await (targetType === 'job' ? jobs : runs).getDeletion({ deletionId: id }, { signal })).deletion;

/** Sets a stuck deletion going again. */
export const redriveDeletion = async ({ id, targetType }: Deletion, reason: string): Promise<void> => {
  await (targetType === 'job' ? jobs : runs).redriveDeletion({ deletionId: id, reason });
};
