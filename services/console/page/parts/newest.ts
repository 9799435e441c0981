import type { Timestamp } from '@bufbuild/protobuf/wkt';

/** The one of several readings of a thing that was changed last; of two alike, the later in the list. */
export function newest<Thing extends { readonly updateTime?: Timestamp | undefined }>(
  first: Thing,
  ...rest: readonly (Thing | undefined)[]
): Thing {
  return rest
    .filter((reading) => reading !== undefined)
    .reduce((best, next) => (changedAt(next) >= changedAt(best) ? next : best), first);
}

const changedAt = ({ updateTime }: { readonly updateTime?: Timestamp | undefined }): bigint =>
  (updateTime?.seconds ?? 0n) * 1_000_000_000n + BigInt(updateTime?.nanos ?? 0);
