import { REASONS, type ReasonEntry } from '#libs/client/reasons.ts';
import { readMarked, toMarkdownTable, writeMarked } from './markdown-table.ts';

const README = 'proto/README.md';

/** The table of all reasons. */
export const makeReasonTable = (): string =>
  toMarkdownTable([
    ['reason', 'code', 'when', 'what to do'],
    ...Object.entries<ReasonEntry>(REASONS).map(([reason, { code, when, next }]) => [
      reason,
      code === 'RECEIPT' ? 'receipt' : code,
      when,
      next,
    ]),
  ]);

/** The table as it stands in proto/README.md; undefined where its marks are missing. */
export const readReasonTable = (): Promise<string | undefined> => readMarked(README, 'reasons');

if (import.meta.main) await writeMarked(README, 'reasons', makeReasonTable());
