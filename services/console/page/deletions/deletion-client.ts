import { Code, ConnectError } from '@connectrpc/connect';
import type { BulkDeletion } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type BulkKind, bulkClient } from '../bulk/bulk-clients.ts';
import { jobs, runs } from '../rpc.ts';

/** A receipt, and the service that has it. */
export type Receipt =
  | { readonly kind: BulkKind; readonly deletion: Deletion }
  | { readonly kind: BulkKind; readonly bulk: BulkDeletion };

/** What a receipt is of: one run or job, or a bulk deletion of runs or jobs. */
export type ReceiptOf = 'run' | 'job' | 'runs' | 'jobs';

/** A link to a receipt whose kind is known, so that only the service that has it is asked. */
export const linkToReceipt = (id: string, of: ReceiptOf) =>
  ({ to: '/deletions/$id', params: { id }, search: { of } }) as const;

/** A link to the receipt of a deletion. */
export const linkToDeletion = ({ id, targetType }: Pick<Deletion, 'id' | 'targetType'>) =>
  linkToReceipt(id, targetType === 'job' ? 'job' : 'run');

const RECEIPTS: Readonly<Record<ReceiptOf, (id: string, signal: AbortSignal) => Promise<Receipt | undefined>>> = {
  run: async (deletionId, signal) => {
    const { deletion } = await runs.getDeletion({ deletionId }, { signal });
    return deletion && { kind: 'run', deletion };
  },
  job: async (deletionId, signal) => {
    const { deletion } = await jobs.getDeletion({ deletionId }, { signal });
    return deletion && { kind: 'job', deletion };
  },
  runs: (id, signal) => bulkReceipt('run', id, signal),
  jobs: (id, signal) => bulkReceipt('job', id, signal),
};

async function bulkReceipt(kind: BulkKind, bulkDeletionId: string, signal: AbortSignal): Promise<Receipt | undefined> {
  const { bulkDeletion } = await bulkClient(kind).getBulkDeletion({ bulkDeletionId }, { signal });
  return bulkDeletion && { kind, bulk: bulkDeletion };
}

/**
 * Finds the receipt with this id, whichever service has it; `of` is asked first, and the others only where that does not
 * have it. Throws the refusal where no service has it, and where one that might have it does not answer.
 */
export async function findReceipt(id: string, of: string | undefined, signal: AbortSignal): Promise<Receipt> {
  const all = Object.keys(RECEIPTS) as ReceiptOf[];
  const first = all.filter((each) => each === of);
  const errors: unknown[] = [];
  for (const asked of [first, all.filter((each) => each !== of)]) {
    const outcomes = await Promise.allSettled(asked.map((each) => RECEIPTS[each](id, signal)));
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') errors.push(outcome.reason);
      else if (outcome.value) return outcome.value;
    }
    signal.throwIfAborted();
  }
  throw errors.find((error) => ConnectError.from(error).code !== Code.NotFound) ?? errors[0];
}

/** The deletion as it is now, from the service of its target. */
export const getDeletion = async ({ id, targetType }: Deletion, signal: AbortSignal): Promise<Deletion | undefined> =>
  (await (targetType === 'job' ? jobs : runs).getDeletion({ deletionId: id }, { signal })).deletion;

/** Sets a stuck deletion going again. */
export const redriveDeletion = async ({ id, targetType }: Deletion, reason: string): Promise<void> => {
  await (targetType === 'job' ? jobs : runs).redriveDeletion({ deletionId: id, reason });
};
