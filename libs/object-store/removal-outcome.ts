import type { DrainOutcome } from './drain-pages.ts';
import type { Removal, RemovalFailure } from './object-store.ts';
import type { StoredVersion } from './s3-listing.ts';

/** How much of anything. */
export type Sum = NonNullable<Removal['unsure']>;

/** What one request removed, or several of them together. */
export interface Outcome extends Sum, DrainOutcome {
  readonly failures: readonly RemovalFailure[];
  /** What was asked for and may have gone. */
  readonly unsure?: Sum;
}

/** Nothing of anything. */
export const NOTHING: Sum = { objects: 0, markers: 0, uploads: 0, bytes: 0 };

/** Both together. */
export const sumUp = (a: Sum, b: Sum): Sum => ({
  objects: a.objects + b.objects,
  markers: a.markers + b.markers,
  uploads: a.uploads + b.uploads,
  bytes: a.bytes + b.bytes,
});

/** How much these versions are, and what is added to it. */
export const sumOf = (versions: readonly StoredVersion[], more: Sum = NOTHING): Sum => {
  const markers = versions.filter(({ isMarker }) => isMarker).length;
  const bytes = versions.reduce((sum, version) => sum + version.bytes, 0);
  return sumUp(more, { objects: versions.length - markers, markers, uploads: 0, bytes });
};
