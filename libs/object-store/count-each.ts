import type { Contents } from './object-store.ts';
import { below, type S3Listing, type Scope } from './s3-listing.ts';

// Of one listing over all of them: what a page holds, and after how many a listing of each prefix costs less.
const ITEMS_PER_PREFIX = 4;
const PREFIXES_PER_PAGE = 4;
const LISTINGS_AT_A_TIME = 16;

type Sum = { -readonly [Name in keyof Contents]: number };

/**
 * Counts what is below each of these prefixes, which lie in one folder and in order. Where they hold little and lie near each
 * other, as those of jobs that were made together, one listing over all of them takes the place of one for each.
 */
export async function countEach(
  { versionPages, uploadPages }: S3Listing,
  prefixes: readonly string[],
  signal?: AbortSignal,
): Promise<readonly Contents[]> {
  const sums = prefixes.map((): Sum => ({ versions: 0, markers: 0, uploads: 0, bytes: 0 }));
  await Promise.all([
    addEach(
      (scope, pageSize) => versionPages(scope, pageSize, signal),
      prefixes,
      (index, { isMarker, bytes }) => {
        const sum = sums[index] as Sum;
        sum[isMarker ? 'markers' : 'versions'] += 1;
        sum.bytes += bytes;
      },
    ),
    addEach(
      (scope, pageSize) => uploadPages(scope, pageSize, signal),
      prefixes,
      (index) => {
        (sums[index] as Sum).uploads += 1;
      },
    ),
  ]);
  return sums;
}

type Pages<Item> = (scope: Scope, pageSize?: number) => AsyncIterable<readonly Item[]>;

/** Tells of each item with the place of its prefix. */
async function addEach<Item extends { readonly Key: string }>(
  pages: Pages<Item>,
  prefixes: readonly string[],
  add: (index: number, item: Item) => void,
): Promise<void> {
  const places = new Map(prefixes.map((prefix, index) => [prefix, index]));
  const { found, seenBefore } = await lookOver(pages, prefixes);
  for (const [prefix, item] of found) {
    const index = places.get(prefix);
    if (index !== undefined && prefix < seenBefore) add(index, item);
  }
  const rest = [...prefixes.entries()].filter(([, prefix]) => prefix >= seenBefore).values();
  const countRest = async (): Promise<void> => {
    for (const [index, prefix] of rest) {
      for await (const page of pages(below(prefix))) for (const item of page) add(index, item);
    }
  };
  await Promise.all(Array.from({ length: LISTINGS_AT_A_TIME }, countRest));
}

// After every key.
const END = '\u{10ffff}';

/**
 * Lists the folder from the first prefix to the last, unless that takes too many pages. `found` is whole for each prefix
 * that comes before `seenBefore`.
 */
async function lookOver<Item extends { readonly Key: string }>(
  pages: Pages<Item>,
  prefixes: readonly string[],
): Promise<{ readonly found: readonly (readonly [prefix: string, item: Item])[]; readonly seenBefore: string }> {
  const found: [string, Item][] = [];
  const [first = '', last = first] = [prefixes[0], prefixes.at(-1)];
  const folder = first.slice(0, first.lastIndexOf('/', first.length - 2) + 1);
  let seenBefore = '';
  let pagesLeft = Math.floor(prefixes.length / PREFIXES_PER_PAGE);
  if (pagesLeft === 0) return { found, seenBefore };
  // Without its slash: nothing below the first prefix comes before that.
  const scope = { ...below(folder), after: first.slice(0, -1) };
  for await (const page of pages(scope, prefixes.length * ITEMS_PER_PREFIX)) {
    for (const item of page) {
      const slash = item.Key.indexOf('/', folder.length);
      const prefix = slash < 0 ? item.Key : item.Key.slice(0, slash + 1);
      found.push([prefix, item]);
      if (prefix > seenBefore) seenBefore = prefix;
    }
    pagesLeft -= 1;
    if (seenBefore > last || pagesLeft === 0) return { found, seenBefore };
  }
  return { found, seenBefore: END };
}
