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

/** The page as messages, and the token of the next page. */
interface FittedPage<Desc extends DescMessage> {
  readonly messages: MessageShape<Desc>[];
  readonly nextPageToken: string;
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
): FittedPage<Desc> {
  const fitted = startPage(scope, schema, page, keyOf);
  for (const item of page.items) if (!fitted.add(item, toMessage(item))) break;
  return fitted.end();
}

// What is read at a time is held in memory whole, also what then does not fit.
const READ_AT_ONCE = 8;

/**
 * As fitPage, with each item read whole before it becomes a message, a few at a time and no more than fit. One that is
 * gone by then, of which `readWhole` answers undefined, is left out.
 */
export async function fitWholePage<Desc extends DescMessage, Item, Whole>(
  scope: PageScope,
  schema: Desc,
  page: ReadPage<Item>,
  readWhole: (item: Item) => Promise<Whole | undefined>,
  toMessage: (whole: Whole) => MessageInitShape<Desc>,
  keyOf: (item: Item) => readonly string[],
): Promise<FittedPage<Desc>> {
  const fitted = startPage(scope, schema, page, keyOf);
  for (let at = 0; at < page.items.length; at += READ_AT_ONCE) {
    const items = page.items.slice(at, at + READ_AT_ONCE);
    const wholes = await Promise.all(items.map(readWhole));
    for (const [index, item] of items.entries()) {
      const whole = wholes[index];
      if (!fitted.add(item, whole && toMessage(whole))) return fitted.end();
    }
  }
  return fitted.end();
}

function startPage<Desc extends DescMessage, Item>(
  scope: PageScope,
  schema: Desc,
  page: ReadPage<Item>,
  keyOf: (item: Item) => readonly string[],
) {
  const messages: MessageShape<Desc>[] = [];
  let bytes = 0;
  let last: Item | undefined;
  let next = page.next;
  return {
    /** Adds the item's message, if there is one; false when it does not fit, and the page ends before the item. */
    add(item: Item, init: MessageInitShape<Desc> | undefined): boolean {
      if (init !== undefined) {
        const message = create(schema, init);
        bytes += toBinary(schema, message).byteLength + FRAME_BYTES;
        if (bytes > MAX_PAGE_BYTES && last !== undefined) {
          next = keyOf(last);
          return false;
        }
        messages.push(message);
      }
      last = item;
      return true;
    },
    end: (): FittedPage<Desc> => ({ messages, nextPageToken: next ? encodePageToken(scope, next) : '' }),
  };
}
