import { create, type DescMessage, type MessageInitShape, type MessageShape, toBinary } from '@bufbuild/protobuf';
import { encodePageToken, type PageScope } from '#libs/kernel/page.ts';

/** What the items of one message may come to; what remains of 4 MiB is for the token of the next page. */
export const MAX_PAGE_BYTES = 3_670_016;
/** Tag and length of one message in a list. */
export const FRAME_BYTES = 8;

/** A page of a list as it was read: its items, and where the next page goes on. */
interface ReadPage<Item> {
  readonly items: readonly Item[];
  readonly next: readonly string[] | undefined;
}

/**
 * The page as messages, cut where more would not fit one answer, and the token of the next page. `keyOf` gives the
 * keyset of an item, as the list orders them.
 */
export function fitPage<Desc extends DescMessage, Item>(
  scope: PageScope,
  schema: Desc,
  page: ReadPage<Item>,
  toMessage: (item: Item) => MessageInitShape<Desc>,
  keyOf: (item: Item) => readonly string[],
): { readonly messages: MessageShape<Desc>[]; readonly nextPageToken: string } {
  const tokenOf = (next: readonly string[] | undefined): string => (next ? encodePageToken(scope, next) : '');
  const messages: MessageShape<Desc>[] = [];
  let bytes = 0;
  let last: Item | undefined;
  for (const item of page.items) {
    const message = create(schema, toMessage(item));
    bytes += toBinary(schema, message).byteLength + FRAME_BYTES;
    if (bytes > MAX_PAGE_BYTES && last !== undefined) return { messages, nextPageToken: tokenOf(keyOf(last)) };
    messages.push(message);
    last = item;
  }
  return { messages, nextPageToken: tokenOf(page.next) };
}
