import { storeMisbehaves } from './store-errors.ts';

/** One answer to a listing. */
export interface ListedPage<Item> {
  readonly items: readonly Item[];
  /** Where the next page begins; undefined where this one is the last. */
  readonly next: PagePlace | undefined;
}

/** What the next page is asked for with: parameters of the listing. */
export type PagePlace = Readonly<Record<string, string>>;

/**
 * The pages of a listing. Not every server that speaks S3 pages as AWS does, so what the end of the listing depends on is
 * checked: STORE_MISBEHAVES where a page is told again, which would go on for ever. An item is told once, also
 * where pages overlap.
 */
export async function* listPages<Item>(
  listing: string,
  idOf: (item: Item) => string,
  ask: (place: PagePlace) => Promise<ListedPage<Item>>,
): AsyncGenerator<Item[]> {
  const places = new Set<string>();
  let before: ReadonlySet<string> = new Set();
  for (let place: PagePlace = {}; ; ) {
    const { items, next } = await ask(place);
    const told = new Map(items.map((item) => [idOf(item), item]));
    const fresh = [...told].filter(([id]) => !before.has(id)).map(([, item]) => item);
    if (next) {
      const text = JSON.stringify(next);
      const isRepeated = places.has(text) || (items.length > 0 && fresh.length === 0);
      if (isRepeated) throw storeMisbehaves(`answers ${listing} with the same page again`);
      places.add(text);
    }
    if (fresh.length > 0) yield fresh;
    if (!next) return;
    before = new Set(told.keys());
    place = next;
  }
}

/** A truncated page's markers, by the parameters that they become; STORE_MISBEHAVES where one that is needed is missing. */
export function placeOf(
  listing: string,
  isTruncated: boolean | undefined,
  markers: Readonly<Record<string, string | undefined>>,
): PagePlace | undefined {
  if (!isTruncated) return undefined;
  const missing = Object.entries(markers).find(([, marker]) => !marker);
  if (missing) throw storeMisbehaves(`says that there is more in ${listing} and not where it goes on (${missing[0]})`);
  return markers as PagePlace;
}
