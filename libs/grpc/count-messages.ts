import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ResourceCount as ResourceCountMessage, ResourceCountSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
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

/** Counts from messages. */
export const fromCountMessages = (messages: readonly ResourceCountMessage[]): ResourceCount[] =>
  messages.map(({ resourceType, found, deleted, left, bytes, passedOn, atLeast }) => ({
    resourceType,
    found: Number(found),
    deleted: Number(deleted),
    left: Number(left),
    bytes: Number(bytes),
    ...(passedOn > 0n ? { passedOn: Number(passedOn) } : {}),
    ...(atLeast ? { atLeast } : {}),
  }));
