import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ResourceCountSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';

type Counted = Omit<ResourceCount, 'bytes'> & Partial<Pick<ResourceCount, 'bytes'>>;

/** Counts as messages. */
export const toCountMessages = (counts: readonly Counted[]): MessageInitShape<typeof ResourceCountSchema>[] =>
  counts.map(({ resourceType, found, deleted, left, bytes = 0, passedOn = 0, atLeast = false }) => ({
    resourceType,
    found: BigInt(found),
    deleted: BigInt(deleted),
    left: BigInt(left),
    bytes: BigInt(bytes),
    passedOn: BigInt(passedOn),
    atLeast,
  }));
